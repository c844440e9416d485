//! A cluster of real processes whose every link and every disk is the suite's to break.
//!
//! Controllers and agents listen on one address and are told to everybody by another, their proxy's; so all that they
//! and the clients say to each other passes through the suite. Each has an S3 endpoint of its own before the one bucket.

mod bucket;
mod guard;
mod launch;
mod links;
mod node;
mod ports;
mod process;
mod proxy;
mod sources;
mod standing;
mod strikes;
mod tape;
mod wiring;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use streamhouse_client::Store;
use tokio::task::JoinSet;

pub(crate) use bucket::{Bucket, StoreFault};
pub(crate) use links::{Links, Way};
pub(crate) use node::Node;
pub use standing::admin;
pub(crate) use standing::statuses;
pub(crate) use strikes::Struck;
pub(crate) use tape::{Replayed, Tape};

use crate::clock;
use crate::disk::{Clock, Disk};
use crate::error::ChaosError;
use crate::random::Random;
use crate::recorder::Recorder;
use guard::Guardian;
use process::{Plan, Process};
use sources::Sources;
use wiring::Wiring;

/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(100);
/// The exit code of a controller that must not serve on the disk that it has; [`Cluster::repair`] lets it begin anew.
pub(crate) const DAMAGED: i32 = 5;
/// The folder of objects, where they are in one.
const OBJECTS: &str = "objects";

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) controllers: usize,
    pub(crate) agents: usize,
    /// The `streamhouse` binary.
    pub(crate) binary: PathBuf,
    /// For data and logs.
    pub(crate) folder: PathBuf,
    /// Processes have clocks that can be set, and disks that can lose their power, hang, fail and be full.
    pub(crate) layers: bool,
    pub(crate) storage: Storage,
}

/// Where objects are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// A bucket of the suite's own, behind S3 endpoints that can fail.
    S3,
    /// A folder, `file://`, on a disk that can lose its power.
    File,
}

impl Storage {
    /// As `--store` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::File => "file",
        }
    }
}

/// Where a node listens, and by which address it is known.
#[derive(Debug, Clone, Copy)]
struct Place {
    listens: SocketAddr,
    known: SocketAddr,
}

/// What clients and observers of the cluster need to know of it.
#[derive(Debug, Clone)]
pub struct Access {
    /// By the proxies.
    pub controllers: Vec<String>,
    /// Past them: for the harness's own questions.
    pub direct: Vec<String>,
    /// By the clients' proxy and endpoint.
    pub store: Store,
    /// Past them.
    pub direct_store: Store,
}

/// See the module.
pub(crate) struct Cluster {
    shape: Shape,
    places: BTreeMap<Node, Place>,
    plans: BTreeMap<Node, Plan>,
    processes: BTreeMap<Node, Process>,
    /// Ends that nobody ordered, with their exit codes, until they are asked for.
    fallen: Vec<(Node, i32)>,
    /// Whose end a fault brings about and waits for: it is no news, also if nobody is left to hear of it.
    awaited: Option<Node>,
    sources: Sources,
    links: Links,
    tape: Tape,
    bucket: Bucket,
    access: Access,
    // Dropped in this order: processes first, then what they used.
    guardian: Guardian,
    _proxies: JoinSet<()>,
}

impl Cluster {
    /// A new cluster that can take writes.
    pub(crate) async fn start(
        shape: Shape,
        random: Random,
        recorder: Arc<Recorder>,
    ) -> Result<Self, ChaosError> {
        let folder = &shape.folder;
        fs::create_dir_all(folder).map_err(ChaosError::io(folder.display().to_string()))?;
        let nodes = nodes(&shape);
        let listens = ports::free(nodes.len()).map_err(ChaosError::io("looking for ports"))?;
        let guardian = Guardian::of_a_group().map_err(ChaosError::io("starting sh"))?;
        let mut wiring = Wiring::new(Bucket::new(random, recorder));
        let mut places = BTreeMap::new();
        let mut environments = BTreeMap::new();
        for (node, listens) in nodes.into_iter().zip(listens) {
            let known = wiring.proxy(node, listens, None).await?;
            places.insert(node, Place { listens, known });
            environments.insert(node, wiring.bucket_for(node).await?);
        }
        let (store, direct_store) = match shape.storage {
            Storage::S3 => {
                let store = Bucket::store(wiring.bucket_for(Node::Client).await?)?;
                // The harness's own look at the bucket: no faults, no proxy.
                (store, Bucket::store(wiring.bucket.serve(Node::Store).await?)?)
            }
            Storage::File => {
                let folder = shape.folder.join(OBJECTS);
                fs::create_dir_all(&folder).map_err(ChaosError::io("the bucket's folder"))?;
                let store = Bucket::folder(&folder)?;
                (store.clone(), store)
            }
        };
        let controllers = |known: bool| {
            let all = places.iter().filter(|(node, _)| matches!(node, Node::Controller(_)));
            all.map(|(_, p)| if known { p.known } else { p.listens }.to_string()).collect()
        };
        let access = Access {
            controllers: controllers(true),
            direct: controllers(false),
            store,
            direct_store,
        };
        let Wiring { sources, links, tape, bucket, proxies } = wiring;
        let mut cluster = Self {
            shape,
            places,
            plans: BTreeMap::new(),
            processes: BTreeMap::new(),
            fallen: Vec::new(),
            awaited: None,
            sources,
            links,
            tape,
            bucket,
            access,
            guardian,
            _proxies: proxies,
        };
        for (node, endpoint) in environments {
            let plan = cluster.plan(node, endpoint)?;
            cluster.plans.insert(node, plan);
            cluster.start_process(node)?;
        }
        Ok(cluster)
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn tape(&self) -> &Tape {
        &self.tape
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Where data and logs of all processes are.
    pub(crate) fn folder(&self) -> &Path {
        &self.shape.folder
    }

    /// The data folder of a controller.
    pub(crate) fn data(&self, controller: usize) -> PathBuf {
        self.shape.folder.join(format!("controller-{controller}"))
    }

    /// The disk of a controller.
    pub(crate) fn disk(&self, controller: usize) -> Disk {
        Disk::under(&self.data(controller))
    }

    /// The disk of all agents' objects, where they are on one.
    pub(crate) fn objects(&self) -> Option<Disk> {
        match self.shape.storage {
            Storage::S3 => None,
            Storage::File => Some(Disk::shared(&self.shape.folder.join(OBJECTS))),
        }
    }

    /// The wall clock of a process.
    pub(crate) fn clock(&self, node: Node) -> Clock {
        Clock::at(self.shape.folder.join(format!("{}.clock", node.file_name())))
    }

    /// All controllers.
    pub(crate) fn controllers(&self) -> Vec<Node> {
        (1..=self.shape.controllers).map(Node::Controller).collect()
    }

    /// All agents.
    pub(crate) fn agents(&self) -> Vec<Node> {
        (1..=self.shape.agents).map(Node::Agent).collect()
    }

    /// Starts a node that does not run, on what data it has.
    pub(crate) fn start_process(&mut self, node: Node) -> Result<(), ChaosError> {
        if self.is_running(node) {
            return Ok(());
        }
        self.note_end(node);
        let process = Process::start(node, &self.plans[&node], &self.sources)?;
        self.processes.insert(node, process);
        Ok(())
    }

    /// `kill -9`; its pid. One that was dead by then died by itself.
    pub(crate) fn kill(&mut self, node: Node) -> Result<u32, ChaosError> {
        let pid = self.running(node)?.pid();
        self.note_end(node);
        if let Some(process) = self.processes.remove(&node)
            && let Some(code) = process.kill()?
        {
            self.fallen.push((node, code));
        }
        Ok(pid)
    }

    /// Sends a signal; the pid.
    pub(crate) fn signal(&self, node: Node, signal: Signal) -> Result<u32, ChaosError> {
        let process = self.running(node)?;
        process.signal(signal)?;
        Ok(process.pid())
    }

    pub(crate) fn pid(&self, node: Node) -> Option<u32> {
        Some(self.processes.get(&node)?.pid())
    }

    /// Whether a signal keeps it from running, as the kernel says.
    pub(crate) fn is_stopped(&self, node: Node) -> bool {
        self.processes.get(&node).is_some_and(Process::is_stopped)
    }

    fn running(&self, node: Node) -> Result<&Process, ChaosError> {
        let process = self.processes.get(&node);
        process.ok_or_else(|| ChaosError::Cluster(format!("{node} is not running")))
    }

    pub(crate) fn is_running(&mut self, node: Node) -> bool {
        self.processes.get_mut(&node).is_some_and(|process| process.ended().is_none())
    }

    /// Whose end is expected from now on.
    pub(crate) fn expect_end(&mut self, of: Option<Node>) {
        self.awaited = of;
    }

    /// Waits for a process to end by itself; its exit code.
    pub(crate) async fn exit(&mut self, node: Node, within: Duration) -> Result<i32, ChaosError> {
        self.expect_end(Some(node));
        let exit = self.until_ended(node, within).await;
        self.expect_end(None);
        exit
    }

    async fn until_ended(&mut self, node: Node, within: Duration) -> Result<i32, ChaosError> {
        let deadline = clock::now() + within;
        while clock::now() < deadline {
            let process = self.processes.get_mut(&node);
            let Some(process) = process else { break };
            if let Some(code) = process.ended() {
                self.processes.remove(&node);
                return Ok(code);
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(ChaosError::Cluster(format!("{node} did not end within {within:?}")))
    }

    /// Those that have ended since the last time though nobody ended them, with their exit codes; also if they have been
    /// started again meanwhile.
    pub(crate) fn fallen(&mut self) -> Vec<(Node, i32)> {
        for node in self.plans.keys().copied().collect::<Vec<_>>() {
            self.note_end(node);
        }
        std::mem::take(&mut self.fallen)
    }

    fn note_end(&mut self, node: Node) {
        if let Some(code) = self.processes.get_mut(&node).and_then(Process::ended) {
            self.processes.remove(&node);
            if self.awaited != Some(node) {
                self.fallen.push((node, code));
            }
        }
    }

    /// The store is well again. How many requests had the fault; those that still wait because of it have their connections
    /// reset, so that nothing of it outlives this.
    pub(crate) fn heal_store(&self) -> u64 {
        let (struck, waiting) = self.bucket.heal();
        let links = waiting.into_iter().map(|node| (node, Node::Store));
        self.links.set(links, |rule| rule.cut += 1);
        struck
    }

    /// Undoes what any fault may have left, where one could not be healed, and starts what does not run.
    pub(crate) fn mend(&mut self) -> Result<(), ChaosError> {
        self.links.heal();
        self.heal_store();
        for node in [self.controllers(), self.agents()].concat() {
            if self.shape.layers {
                let mended = self.clock(node).jump(0).and_then(|()| match node {
                    Node::Controller(n) => self.disk(n).mend(),
                    _ => Ok(()),
                });
                mended.map_err(ChaosError::io(format!("the disk and the clock of {node}")))?;
            }
            if self.is_running(node) {
                self.signal(node, Signal::SIGCONT)?;
            }
            self.start_process(node)?;
        }
        Ok(())
    }
}

fn nodes(shape: &Shape) -> Vec<Node> {
    let controllers = (1..=shape.controllers).map(Node::Controller);
    controllers.chain((1..=shape.agents).map(Node::Agent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster of one controller, whose process is one that fails as soon as it is started.
    pub(super) async fn of_one_that_ends_at_once(folder: &Path, storage: Storage) -> Cluster {
        let shape = Shape {
            controllers: 1,
            agents: 0,
            binary: "false".into(),
            folder: folder.join("cluster"),
            layers: false,
            storage,
        };
        let recorder = Arc::new(Recorder::create(&folder.join("history.jsonl")).unwrap());
        Cluster::start(shape, Random::new(1), recorder).await.unwrap()
    }

    #[tokio::test]
    async fn an_end_that_nobody_ordered_is_told_though_it_was_started_again_or_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = of_one_that_ends_at_once(folder.path(), Storage::File).await;
        let node = Node::Controller(1);
        for _ in 0..2 {
            while cluster.is_running(node) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            cluster.start_process(node).unwrap();
        }
        while cluster.is_running(node) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cluster.kill(node).unwrap();
        assert_eq!(cluster.fallen(), [(node, 1); 3]);
        assert_eq!(cluster.fallen(), []);
        // What was waited for is no news.
        cluster.start_process(node).unwrap();
        assert_eq!(cluster.exit(node, Duration::from_secs(10)).await.unwrap(), 1);
        assert_eq!(cluster.fallen(), []);
        // Nor is what was to be waited for when the run was broken off.
        cluster.start_process(node).unwrap();
        cluster.expect_end(Some(node));
        while cluster.is_running(node) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(cluster.fallen(), []);
    }
}
