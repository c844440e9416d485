//! Doors before the controllers: proxies by whose addresses everybody knows them, which can keep an agent from hearing
//! what it is answered.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// BOUND: what a direction of a connection keeps.
const PIECE_BYTES: usize = 64 << 10;

/// See the module. Dropped, they close.
#[derive(Debug)]
pub struct Doors {
    state: Arc<State>,
    addresses: Vec<SocketAddr>,
}

#[derive(Debug, Default)]
struct State {
    rule: Mutex<Rule>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Rule {
    /// The process that hears nothing.
    deaf: Option<u32>,
    /// Answers that the deaf one has not heard.
    withheld: usize,
    connections: Vec<Connection>,
    closed: bool,
}

/// One connection by a door.
#[derive(Debug)]
struct Connection {
    /// The socket at the other end, by which the process that has it is found.
    inode: u64,
    client: TcpStream,
    cut: bool,
}

impl Doors {
    /// One at each of these addresses, to the controller that listens at the same place of the others.
    ///
    /// # Panics
    ///
    /// If a port is taken.
    pub(crate) fn open(doors: &[SocketAddr], controllers: &[SocketAddr]) -> Self {
        let state = Arc::new(State::default());
        for (at, upstream) in doors.iter().zip(controllers) {
            let listener = TcpListener::bind(at).expect("the port is free");
            let (state, upstream) = (Arc::clone(&state), *upstream);
            start("door", move || accept(&listener, upstream, &state));
        }
        Self { state, addresses: doors.to_vec() }
    }

    /// From now on this process hears no controller; what it says is heard.
    pub fn deafen(&self, pid: u32) {
        self.state.change(|rule| (rule.deaf, rule.withheld) = (Some(pid), 0));
    }

    /// Everybody hears again. What the deaf one did not hear is lost: its connections break first.
    pub fn cut(&self) {
        self.state.change(|rule| {
            let Some(pid) = rule.deaf.take() else { return };
            assert!(rule.withheld > 0, "something was said to it meanwhile");
            let its = sockets(pid);
            for connection in rule.connections.iter_mut().filter(|c| its.contains(&c.inode)) {
                connection.cut = true;
                // One that is gone already is as cut as it will be.
                let _ = connection.client.shutdown(Shutdown::Both);
            }
        });
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.state.change(|rule| {
            rule.closed = true;
            rule.connections.iter().for_each(|c| drop(c.client.shutdown(Shutdown::Both)));
        });
        // Wakes those who wait for somebody to come.
        self.addresses.iter().for_each(|door| drop(TcpStream::connect(door)));
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Rule)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until the connection's client may hear something; whether it ever may.
    fn may_hear(&self, inode: u64) -> bool {
        let (mut rule, mut waits) = (self.lock(), false);
        loop {
            let cut = rule.connections.iter().any(|c| c.inode == inode && c.cut);
            if rule.closed || cut {
                return false;
            }
            match rule.deaf {
                Some(pid) if sockets(pid).contains(&inode) => {
                    rule.withheld += usize::from(!waits);
                    waits = true;
                }
                _ => return true,
            }
            rule = self.changed.wait(rule).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name(name.into()).spawn(work).expect("a thread starts");
}

fn accept(listener: &TcpListener, upstream: SocketAddr, state: &Arc<State>) {
    while let Ok((client, peer)) = listener.accept() {
        if state.lock().closed {
            return;
        }
        let state = Arc::clone(state);
        // Whoever is not let in is hung up on.
        start("door connection", move || drop(carry(&client, peer, upstream, &state)));
    }
}

fn carry(
    client: &TcpStream,
    peer: SocketAddr,
    upstream: SocketAddr,
    state: &Arc<State>,
) -> io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let inode = inode(peer, client.local_addr()?).ok_or(io::ErrorKind::NotFound)?;
    let connection = Connection { inode, client: client.try_clone()?, cut: false };
    state.lock().connections.push(connection);
    let (said, to) = (client.try_clone()?, server.try_clone()?);
    start("door there", move || drop(pass(said, to, || true)));
    let heard = pass(server, client.try_clone()?, || state.may_hear(inode));
    // What the server did not answer any more is not answered.
    let _ = client.shutdown(Shutdown::Both);
    state.lock().connections.retain(|connection| connection.inode != inode);
    heard
}

/// Passes bytes on until an end closes, or they may not pass.
fn pass(mut from: TcpStream, mut to: TcpStream, may: impl Fn() -> bool) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let size = from.read(&mut piece)?;
        if size == 0 || !may() {
            let _ = to.shutdown(Shutdown::Both);
            return Ok(());
        }
        to.write_all(&piece[..size])?;
    }
}

/// The inode of the socket at `local` that is connected to `remote`, as the kernel lists them.
fn inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (hex(local), hex(remote));
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is = *fields.get(1)? == local && *fields.get(2)? == remote;
        is.then(|| fields.get(9)?.parse().ok())?
    })
}

/// As the kernel writes it: the address as a number of this machine's byte order.
fn hex(address: SocketAddr) -> String {
    let ip = match address {
        SocketAddr::V4(address) => *SocketAddrV4::ip(&address),
        SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
}

/// The inodes of the sockets that a process has open.
fn sockets(pid: u32) -> BTreeSet<u64> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let names = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |name: std::path::PathBuf| {
        name.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    names.filter_map(inode).collect()
}
