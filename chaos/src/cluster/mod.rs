//! A cluster of real processes whose every link and every disk is the suite's to break.
//!
//! Controllers and agents listen on one address and are told to everybody by another, their proxy's; so all that they
//! and the clients say to each other passes through the suite. Each has an S3 endpoint of its own before the one bucket.

mod bucket;
mod guard;
mod links;
mod node;
mod ports;
mod process;
mod proxy;
mod sources;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use streamhouse_client::{Admin, ControllerStatus, Role, Store};
use streamhouse_store::endpoint::Endpoint;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) use bucket::{Bucket, StoreFault};
pub(crate) use links::{Links, Way};
pub(crate) use node::Node;

use crate::clock;
use crate::disk::Disk;
use crate::error::ChaosError;
use crate::random::Random;
use crate::recorder::Recorder;
use guard::Guardian;
use process::{Plan, Process};
use proxy::Proxy;
use sources::Sources;

/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(100);
/// How long a controller may take to say how it stands.
const TRY: Duration = Duration::from_secs(2);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) controllers: usize,
    pub(crate) agents: usize,
    /// The `streamhouse` binary.
    pub(crate) binary: PathBuf,
    /// For data and logs.
    pub(crate) folder: PathBuf,
    /// Controllers have disks that can lose their power, hang and fail.
    pub(crate) disks: bool,
}

/// Where a node listens, and by which address it is known.
#[derive(Debug, Clone, Copy)]
struct Place {
    listens: SocketAddr,
    known: SocketAddr,
}

/// What clients and observers of the cluster need to know of it.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// By the proxies.
    pub(crate) controllers: Vec<String>,
    /// Past them: for the harness's own questions.
    pub(crate) direct: Vec<String>,
    /// By the clients' proxy and endpoint.
    pub(crate) store: Store,
    /// Past them.
    pub(crate) direct_store: Store,
}

/// See the module.
pub(crate) struct Cluster {
    shape: Shape,
    places: BTreeMap<Node, Place>,
    plans: BTreeMap<Node, Plan>,
    processes: BTreeMap<Node, Process>,
    sources: Sources,
    links: Links,
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
        let store = Bucket::store(wiring.bucket_for(Node::Client).await?)?;
        // The harness's own look at the bucket: no faults, no proxy.
        let direct_store = Bucket::store(wiring.bucket.serve(Node::Store).await?)?;
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
        let Wiring { sources, links, bucket, proxies } = wiring;
        let mut cluster = Self {
            shape,
            places,
            plans: BTreeMap::new(),
            processes: BTreeMap::new(),
            sources,
            links,
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

    fn plan(&self, node: Node, endpoint: SocketAddr) -> Result<Plan, ChaosError> {
        let mut environment = Endpoint::options_by(endpoint);
        if let Node::Controller(n) = node
            && self.shape.disks
        {
            let layer = self.disk(n).environment();
            let layer = layer.map_err(ChaosError::io("the layer between controllers and disks"))?;
            let text = |path: PathBuf| path.to_string_lossy().into_owned();
            environment.extend(layer.into_iter().map(|(name, path)| (name.to_owned(), text(path))));
        }
        Ok(Plan {
            binary: self.shape.binary.clone(),
            args: self.args(node),
            environment,
            log: self.shape.folder.join(format!("{}.log", node.file_name())),
            group: self.guardian.group(),
        })
    }

    fn args(&self, node: Node) -> Vec<String> {
        let Place { listens, known } = self.places[&node];
        let (listens, known) = (listens.to_string(), known.to_string());
        let words: Vec<String> = match node {
            Node::Controller(n) => {
                let peers = self.access.controllers.iter().zip(1..);
                let peers: Vec<_> = peers.map(|(known, id)| format!("{id}={known}")).collect();
                let (id, peers, data) = (n.to_string(), peers.join(","), self.data(n));
                let data = data.display().to_string();
                // Snapshots and purges go on all the while.
                let often = ["--snapshot-every", "2000", "--keep-logs", "500"];
                let words = ["controller", "--node-id", &id, "--peers", &peers, "--data", &data];
                words.into_iter().chain(often).map(str::to_owned).collect()
            }
            _ => {
                let controllers = self.access.controllers.join(",");
                let words = ["agent", "--controllers", &controllers, "--store", bucket::URL];
                words.map(str::to_owned).into()
            }
        };
        let addresses = ["--listen".to_owned(), listens, "--advertise".to_owned(), known];
        words.into_iter().chain(addresses).collect()
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The data folder of a controller.
    pub(crate) fn data(&self, controller: usize) -> PathBuf {
        self.shape.folder.join(format!("controller-{controller}"))
    }

    /// The disk of a controller.
    pub(crate) fn disk(&self, controller: usize) -> Disk {
        Disk::under(&self.data(controller))
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
        let process = Process::start(node, &self.plans[&node], &self.sources)?;
        self.processes.insert(node, process);
        Ok(())
    }

    /// `kill -9`; its pid.
    pub(crate) fn kill(&mut self, node: Node) -> Result<u32, ChaosError> {
        let pid = self.running(node)?.pid();
        self.processes.remove(&node);
        Ok(pid)
    }

    /// Sends a signal; the pid.
    pub(crate) fn signal(&self, node: Node, signal: Signal) -> Result<u32, ChaosError> {
        let process = self.running(node)?;
        process.signal(signal)?;
        Ok(process.pid())
    }

    fn running(&self, node: Node) -> Result<&Process, ChaosError> {
        let process = self.processes.get(&node);
        process.ok_or_else(|| ChaosError::Cluster(format!("{node} is not running")))
    }

    pub(crate) fn is_running(&mut self, node: Node) -> bool {
        self.processes.get_mut(&node).is_some_and(|process| process.ended().is_none())
    }

    /// Waits for a process to end by itself; its exit code.
    pub(crate) async fn exit(&mut self, node: Node, within: Duration) -> Result<i32, ChaosError> {
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

    /// Those that have ended though nobody ended them, with their exit codes.
    pub(crate) fn fallen(&mut self) -> Vec<(Node, i32)> {
        let all = self.processes.iter_mut();
        all.filter_map(|(node, process)| Some((*node, process.ended()?))).collect()
    }

    /// How each controller stands, as itself says; past the proxies.
    pub(crate) async fn statuses(&self) -> Vec<(usize, ControllerStatus)> {
        statuses(&self.access).await
    }

    /// The controller that leads with a majority behind it.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let statuses = self.statuses().await;
        let leading =
            statuses.iter().filter(|(_, s)| s.role == Role::Leader && s.leader == Some(s.id));
        leading.max_by_key(|(_, status)| status.term).map(|(n, _)| *n)
    }

    /// The agents with a session, and how many partitions each holds; past the proxies.
    pub(crate) async fn holders(&self) -> Result<Vec<(Node, u32, u64)>, ChaosError> {
        let agents = admin(&self.access.direct)?.agents().await;
        let agents = agents.map_err(|error| ChaosError::Cluster(error.to_string()))?;
        let node = |address: &str| {
            let mut places = self.places.iter();
            places.find(|(_, place)| place.known.to_string() == address).map(|(node, _)| *node)
        };
        let known = agents.iter().filter_map(|a| Some((node(&a.address)?, a.pid, a.leases)));
        Ok(known.collect())
    }

    /// Whether every process runs and is at its work.
    async fn is_whole(&mut self) -> Result<(), String> {
        for node in self.plans.keys().copied().collect::<Vec<_>>() {
            if !self.is_running(node) {
                return Err(format!("{node} does not run"));
            }
        }
        let statuses = self.statuses().await;
        let Some((_, leader)) = statuses.iter().find(|(_, s)| s.role == Role::Leader) else {
            return Err("no controller leads".to_owned());
        };
        if statuses.len() < self.shape.controllers {
            return Err(format!(
                "{} of {} controllers answer",
                statuses.len(),
                self.shape.controllers
            ));
        }
        let behind =
            statuses.iter().find(|(_, s)| s.leader != Some(leader.id) || s.role == Role::Learner);
        if let Some((n, status)) = behind {
            return Err(format!(
                "controller {n} is {} and follows {:?}",
                status.role, status.leader
            ));
        }
        let holders = self.holders().await.map_err(|error| error.to_string())?;
        let serves = |node| {
            holders.iter().any(|(n, pid, _)| {
                *n == node && self.processes.get(&node).is_some_and(|process| process.pid() == *pid)
            })
        };
        match self.agents().into_iter().find(|agent| !serves(*agent)) {
            Some(agent) => Err(format!("{agent} has no session")),
            None => Ok(()),
        }
    }

    /// Waits until every process is at its work; how long that took.
    pub(crate) async fn wait_until_whole(
        &mut self,
        within: Duration,
    ) -> Result<Duration, ChaosError> {
        let begun = clock::now();
        loop {
            let Err(problem) = self.is_whole().await else { return Ok(begun.elapsed()) };
            if begun.elapsed() > within {
                return Err(ChaosError::Cluster(format!("not whole after {within:?}: {problem}")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// How each controller stands that answers, with its number.
pub(crate) async fn statuses(access: &Access) -> Vec<(usize, ControllerStatus)> {
    let asked = access.direct.iter().zip(1..).map(|(address, n)| async move {
        let admin = admin(std::slice::from_ref(address)).ok()?;
        Some((n, admin.controller(address).await.ok()?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// A client for questions about the cluster.
pub(crate) fn admin(controllers: &[String]) -> Result<Admin, ChaosError> {
    let admin = Admin::builder().controllers(controllers.iter().cloned()).try_timeout(TRY).build();
    admin.map_err(|error| ChaosError::Harness(error.to_string()))
}

fn nodes(shape: &Shape) -> Vec<Node> {
    let controllers = (1..=shape.controllers).map(Node::Controller);
    controllers.chain((1..=shape.agents).map(Node::Agent)).collect()
}

/// What is needed to make links.
struct Wiring {
    sources: Sources,
    links: Links,
    bucket: Bucket,
    proxies: JoinSet<()>,
}

impl Wiring {
    fn new(bucket: Bucket) -> Self {
        Self { sources: Sources::default(), links: Links::new(), bucket, proxies: JoinSet::new() }
    }

    /// A proxy before `upstream`; where it listens.
    async fn proxy(
        &mut self,
        destination: Node,
        upstream: SocketAddr,
        source: Option<Node>,
    ) -> Result<SocketAddr, ChaosError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.map_err(ChaosError::io("opening a proxy"))?;
        let address = listener.local_addr().map_err(ChaosError::io("opening a proxy"))?;
        let (sources, links) = (self.sources.clone(), self.links.clone());
        let proxy = Proxy { listener, destination, upstream, source, sources, links };
        self.proxies.spawn(proxy.run());
        Ok(address)
    }

    /// Where `node` finds the bucket.
    async fn bucket_for(&mut self, node: Node) -> Result<SocketAddr, ChaosError> {
        let endpoint = self.bucket.serve(node).await?;
        self.proxy(Node::Store, endpoint, Some(node)).await
    }
}
