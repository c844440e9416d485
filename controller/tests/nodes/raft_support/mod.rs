//! An in-process cluster over loopback, for the tests of the raft folder.

#![allow(unreachable_pub)]

pub mod controllers;
pub mod cut;
pub mod rig;
pub mod road;

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use streamhouse_controller::raft::{
    ApplyObserver, CommandClock, OpenError, ProposeError, RaftNode, RaftOptions, ReadError,
    StartError, StateView,
};
use streamhouse_controller::state::command::{CommandBody, RequestKey};
use streamhouse_controller::state::reply::{Effect, Reply};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Counts what it is told, and checks the order.
#[derive(Default)]
pub struct Observer {
    pub applied: AtomicU64,
    pub installed: Mutex<Vec<u64>>,
}

impl ApplyObserver for Observer {
    fn applied(&self, index: u64, _: Vec<Effect>) {
        let before = self.applied.swap(index, Ordering::SeqCst);
        assert!(before <= index, "applied {index} after {before}");
    }

    fn installed(&self, index: u64) {
        self.applied.store(index, Ordering::SeqCst);
        self.installed.lock().push(index);
    }
}

/// Time as a counter.
struct Clock(AtomicU64);

impl CommandClock for Clock {
    fn stamp_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

pub fn clock() -> Arc<dyn CommandClock> {
    Arc::new(Clock(AtomicU64::new(1)))
}

/// One running node.
pub struct Running {
    pub node: RaftNode,
    pub observer: Arc<Observer>,
    server: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    /// Stops serving and Raft, as a crash would; returns when the directory
    /// is free.
    pub async fn crash(self) {
        self.stop.cancel();
        self.node.abort().await;
        self.server.abort();
        let _ = self.server.await;
    }

    pub async fn shutdown(self) {
        self.node.shutdown().await;
        self.stop.cancel();
        let _ = self.server.await;
    }
}

/// The disks and addresses of a cluster, and the nodes that run; dropped, they
/// stop before their disks go.
pub struct Cluster {
    pub dirs: BTreeMap<u64, TempDir>,
    pub addresses: BTreeMap<u64, String>,
    pub running: BTreeMap<u64, Running>,
    pub tune: fn(&mut RaftOptions),
    pub clock: fn() -> Arc<dyn CommandClock>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stop = async {
            for (_, running) in std::mem::take(&mut self.running) {
                running.crash().await;
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(stop));
    }
}

/// For calls on a leader that are made once: a stall of less than a second neither ends its term nor its lease, without
/// which it writes nothing.
pub fn steady(options: &mut RaftOptions) {
    options.election_min = Duration::from_secs(1);
    options.election_max = Duration::from_millis(1_500);
}

/// An address of the loopback that nobody else gets: below the range of ports
/// of outgoing connections, and never the same twice in this process.
pub fn free_address() -> String {
    const LOWEST: u32 = 10_000;
    const PORTS: u32 = 22_000;
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    loop {
        // Test binaries may run side by side: each begins somewhere else.
        let taken = TAKEN.fetch_add(1, Ordering::SeqCst) as u32;
        let port = LOWEST + (std::process::id().wrapping_mul(211) + taken) % PORTS;
        let address = format!("127.0.0.1:{port}");
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

impl Cluster {
    pub async fn start(nodes: u64, tune: fn(&mut RaftOptions)) -> Self {
        Self::start_at(nodes, tune, clock).await
    }

    /// One whose commands have the times of `clock`.
    pub async fn start_at(
        nodes: u64,
        tune: fn(&mut RaftOptions),
        clock: fn() -> Arc<dyn CommandClock>,
    ) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let mut cluster = Self {
            dirs: (1..=nodes).map(|id| (id, tempfile::tempdir().unwrap())).collect(),
            addresses: (1..=nodes).map(|id| (id, free_address())).collect(),
            running: BTreeMap::new(),
            tune,
            clock,
        };
        for id in 1..=nodes {
            cluster.launch(id).await;
        }
        cluster
    }

    /// Starts node `id` on its disk.
    pub async fn launch(&mut self, id: u64) {
        let options = options(id, &self.addresses, self.dirs[&id].path(), self.tune);
        let running = start_at(options, (self.clock)()).await;
        self.running.insert(id, running);
    }

    pub fn node(&self, id: u64) -> &RaftNode {
        &self.running[&id].node
    }

    pub async fn crash(&mut self, id: u64) {
        self.running.remove(&id).unwrap().crash().await;
    }

    /// Waits until some running node leads with its state current, and all
    /// others know.
    pub async fn leader(&self) -> u64 {
        let agreed = || {
            let nodes = || self.running.values().map(|running| &running.node);
            let leader = nodes().find_map(|node| {
                let seen = *node.leadership().borrow();
                seen.leader.filter(|_| seen.is_leader)
            })?;
            // Its word may come before the membership that says where it is.
            let known = |node: &RaftNode| {
                node.leadership().borrow().leader == Some(leader) && node.leader_address().is_some()
            };
            nodes().all(known).then_some(leader)
        };
        poll("a leader", agreed).await
    }

    /// Lets `to` lead.
    pub async fn move_leader(&self, to: u64) {
        let moving = async {
            loop {
                let leader = self.leader().await;
                if leader == to {
                    return;
                }
                // One that is a little behind, or busy, may not win at once.
                let _ = self.node(leader).transfer_leadership(Some(to)).await;
                let mut leadership = self.node(leader).leadership();
                let _ = leadership.wait_for(|now| now.leader != Some(leader)).await;
            }
        };
        tokio::time::timeout(PATIENCE, moving).await.expect("the leadership moves in time");
    }

    /// Waits until all running nodes have applied `index`, and whatever came after it, and agree.
    pub async fn settle(&self, index: u64) -> u128 {
        for running in self.running.values() {
            running.node.wait_applied(index, PATIENCE).await.unwrap();
        }
        // An election or a repeated proposal may have added entries, which some are yet to apply.
        let views = poll("the same applied index everywhere", || {
            let view = |(id, running): (&u64, &Running)| (*id, running.node.view());
            let views: BTreeMap<u64, StateView> = self.running.iter().map(view).collect();
            let first = views.values().next()?.applied();
            let same = views.values().all(|view| view.applied() == first);
            same.then_some(views)
        })
        .await;
        let hash = |(id, view): (&u64, &StateView)| (*id, view.state_hash());
        let hashes: BTreeMap<u64, u128> = views.iter().map(hash).collect();
        let first = *hashes.values().next().unwrap();
        assert!(hashes.values().all(|hash| *hash == first), "states differ: {hashes:?}");
        first
    }
}

/// Starts a node and serves it; a directory that its last user has not quite
/// left is waited for.
pub async fn run(
    id: u64,
    addresses: &BTreeMap<u64, String>,
    data: &Path,
    tune: fn(&mut RaftOptions),
) -> Running {
    start(options(id, addresses, data, tune)).await
}

/// What node `id` is started with.
pub fn options(
    id: u64,
    addresses: &BTreeMap<u64, String>,
    data: &Path,
    tune: fn(&mut RaftOptions),
) -> RaftOptions {
    let mut options = RaftOptions::new(id, addresses[&id].clone(), addresses.clone(), data);
    // The tests count entries and compare states: no marks unless asked for.
    options.mark_every = Duration::from_secs(3_600);
    tune(&mut options);
    options
}

/// Starts a node as `options` say and serves it.
pub async fn start(options: RaftOptions) -> Running {
    start_at(options, clock()).await
}

async fn start_at(options: RaftOptions, clock: Arc<dyn CommandClock>) -> Running {
    let (id, address) = (options.node_id, options.advertise.clone());
    let observer = Arc::new(Observer::default());
    let (node, service) = loop {
        match RaftNode::start(options.clone(), observer.clone(), clock.clone()).await {
            Ok(started) => break started,
            Err(StartError::Open(OpenError::InUse(_))) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("node {id}: {error}"),
        }
    };
    let address: SocketAddr = address.parse().unwrap();
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let incoming = TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    let server = tokio::spawn(async move {
        server.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
    });
    Running { node, observer, server, stop }
}

/// Waits for an event that has no channel.
pub async fn poll<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    poll_for(PATIENCE, what, ready).await
}

/// [`poll`], for so long.
pub async fn poll_for<T>(
    patience: Duration,
    what: &str,
    mut ready: impl FnMut() -> Option<T>,
) -> T {
    let wait = async {
        loop {
            match ready() {
                Some(value) => return value,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let waited = tokio::time::timeout(patience, wait).await;
    waited.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// A command that writes state.
pub fn create(number: u64) -> CommandBody {
    let mut topic = [0; 16];
    topic[..8].copy_from_slice(&number.to_be_bytes());
    CommandBody::CreateTopic {
        topic,
        name: format!("topic-{number}"),
        partitions: 1,
        config: Vec::new(),
    }
}

/// Proposes until it is certain that it was applied; a repetition is answered as the first time was.
pub async fn propose(node: &RaftNode, body: CommandBody) -> (u64, Reply) {
    static REQUESTERS: AtomicU64 = AtomicU64::new(1);
    let mut requester = [0; 16];
    requester[..8].copy_from_slice(&REQUESTERS.fetch_add(1, Ordering::SeqCst).to_be_bytes());
    propose_as(node, Some(RequestKey { requester, number: 1 }), body).await
}

/// [`propose`], as that request or as none.
pub async fn propose_as(
    node: &RaftNode,
    request: Option<RequestKey>,
    body: CommandBody,
) -> (u64, Reply) {
    let attempt = async {
        loop {
            match node.propose(request, body.clone()).await {
                Ok(applied) => return applied,
                Err(ProposeError::TooLarge { .. } | ProposeError::ShuttingDown) => panic!(),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.expect("a proposal is applied in time")
}

/// Reads linearizably, as soon as a leader proves that it leads.
pub async fn read_index(node: &RaftNode) -> u64 {
    let read = async {
        loop {
            match node.read_index().await {
                Ok(index) => return index,
                Err(ReadError::NoLeader(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("it is read in time")
}
