//! Who connects: the process at the other end of a connection on this machine.
//!
//! The peer's address names a socket in `/proc/net/tcp`, that its inode, and the inode the process that has it open.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

use super::node::Node;

/// The processes of a cluster. What is none of theirs is a client's. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources(Arc<Mutex<BTreeMap<u32, Node>>>);

impl Sources {
    /// Starts a process and knows it before it can connect.
    pub(super) fn started<E>(
        &self,
        node: Node,
        start: impl FnOnce() -> Result<std::process::Child, E>,
    ) -> Result<std::process::Child, E> {
        let mut processes = self.0.lock();
        let child = start()?;
        processes.insert(child.id(), node);
        Ok(child)
    }

    pub(super) fn ended(&self, pid: u32) {
        self.0.lock().remove(&pid);
    }

    /// Who is at `peer` of a connection to `local`; nothing if that is gone already. Reads files.
    pub(super) fn find(&self, peer: SocketAddr, local: SocketAddr) -> Option<Node> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let inode = inode(&table, peer, local)?;
        let processes = self.0.lock().clone();
        let owner = processes.iter().find(|(pid, _)| holds(**pid, inode));
        Some(owner.map_or(Node::Client, |(_, node)| *node))
    }
}

/// The inode of the socket at `local` that is connected to `remote`.
fn inode(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (hex(local)?, hex(remote)?);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let is = fields.nth(1)? == local && fields.next()? == remote;
        is.then(|| fields.nth(6)?.parse().ok()).flatten().filter(|inode| *inode != 0)
    })
}

/// As the kernel writes it: the address as a number of this machine's byte order.
fn hex(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

fn holds(pid: u32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files
        .into_iter()
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.to_str() == Some(&wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_of_this_process_is_found_and_is_a_client_s_unless_known_otherwise() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let stream = TcpStream::connect(local).unwrap();
        let peer = stream.local_addr().unwrap();
        let sources = Sources::default();
        assert_eq!(sources.find(peer, local), Some(Node::Client));
        sources.0.lock().insert(std::process::id(), Node::Agent(3));
        assert_eq!(sources.find(peer, local), Some(Node::Agent(3)));
        sources.ended(std::process::id());
        assert_eq!(sources.find(peer, local), Some(Node::Client));
    }
}
