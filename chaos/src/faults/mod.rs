//! What can be done to a cluster, by name. Each fault says what it really did, and undoes it.

mod clock;
mod connections;
mod crash_loop;
mod disk;
mod kill;
mod partition;
mod replace;
mod replay;
mod restart;
mod stop;
mod store;

use std::ops::Range;

use async_trait::async_trait;

use crate::cluster::{Cluster, Storage};
use crate::error::ChaosError;
use crate::random::Random;

/// What a fault needs beside a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Three controllers, so that one can be missed.
    Majority,
    /// Two agents, so that one can be missed.
    SecondAgent,
    /// A C compiler, for the layer between processes and their disks and clocks.
    Compiler,
    /// The suite's own bucket, which can fail.
    Bucket,
}

impl Needs {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Majority => "3 controllers",
            Self::SecondAgent => "2 agents",
            Self::Compiler => "3 controllers, a C compiler",
            Self::Bucket => "--store s3",
        }
    }

    fn met(self, controllers: usize, agents: usize, storage: Storage) -> bool {
        match self {
            Self::Nothing => true,
            Self::Bucket => storage == Storage::S3,
            // That there is a compiler shows when the cluster starts.
            Self::Majority | Self::Compiler => controllers >= 3,
            Self::SecondAgent => agents >= 2,
        }
    }
}

/// A fault, as it is listed.
#[derive(Debug, Clone, Copy)]
pub struct FaultSpec {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub line: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// How long it lasts, milliseconds.
    pub lasts: (u64, u64),
    make: fn() -> Box<dyn Fault>,
}

impl FaultSpec {
    pub(crate) fn make(&self) -> Box<dyn Fault> {
        (self.make)()
    }

    pub(crate) fn lasts_ms(&self) -> Range<u64> {
        self.lasts.0..self.lasts.1
    }
}

/// One use of a fault.
#[async_trait]
pub(crate) trait Fault: Send {
    /// Installs it; what was really done.
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError>;

    /// Undoes it, also after an installation that failed half-way; what that showed.
    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError>;
}

/// How a fault ended.
#[derive(Debug)]
pub(crate) struct Healed {
    /// What was done.
    pub(crate) detail: String,
    /// It had an effect while it was there.
    pub(crate) effective: bool,
}

impl Healed {
    fn done(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), effective: true }
    }
}

/// What a cluster does not do that has what it needs for it, and its time, is a finding, no trouble of the suite's.
fn found(error: ChaosError) -> ChaosError {
    match error {
        ChaosError::Cluster(problem) => ChaosError::Finding(problem),
        other => other,
    }
}

const SHORT: (u64, u64) = (1_000, 4_000);
const USUAL: (u64, u64) = (2_000, 8_000);
/// From a pause nobody minds to one that ends sessions and leaderships.
const PAUSE: (u64, u64) = (500, 12_000);

macro_rules! faults {
    ($($name:literal: $line:literal, $needs:ident, $lasts:ident, $make:expr;)*) => {
        &[$(FaultSpec {
            name: $name,
            line: $line,
            needs: Needs::$needs,
            lasts: $lasts,
            make: || Box::new($make),
        }),*]
    };
}

/// All faults.
pub const fn all() -> &'static [FaultSpec] {
    use crate::cluster::StoreFault;
    use connections::{Connections, Trouble};
    use disk::{DiskTrouble, Harm};
    use kill::{Kill, Whom};
    use partition::{Partition, Split};
    use stop::Stop;
    use store::StoreTrouble;
    faults![
        "kill-leader": "kill -9 of the controller that leads", Nothing, SHORT, Kill::new(Whom::Leader);
        "kill-follower": "kill -9 of a controller that follows", Majority, SHORT, Kill::new(Whom::Follower);
        "kill-agent": "kill -9 of the agent with the most partitions", Nothing, SHORT, Kill::new(Whom::Agent);
        "kill-all-agents": "kill -9 of all agents", Nothing, SHORT, Kill::new(Whom::AllAgents);
        "kill-all-controllers": "kill -9 of all controllers", Nothing, SHORT, Kill::new(Whom::AllControllers);
        "kill-everything": "kill -9 of every process", Nothing, SHORT, Kill::new(Whom::Everything);
        "crash-loop-controller": "whichever controller leads is killed and started again, five times", Nothing, SHORT, crash_loop::CrashLoop::of_controllers();
        "crash-loop-agent": "an agent is killed and started again, five times", Nothing, SHORT, crash_loop::CrashLoop::of_agents();
        "stop-leader": "SIGSTOP of the controller that leads", Nothing, PAUSE, Stop::new(Whom::Leader);
        "stop-follower": "SIGSTOP of a controller that follows", Majority, PAUSE, Stop::new(Whom::Follower);
        "stop-agent": "SIGSTOP of the agent with the most partitions", Nothing, PAUSE, Stop::new(Whom::Agent);
        "isolate-leader": "the controller that leads is cut off from everybody", Majority, USUAL, Partition::new(Split::IsolateLeader);
        "isolate-follower": "a controller that follows is cut off from everybody", Majority, USUAL, Partition::new(Split::IsolateFollower);
        "minority-leader": "the leader is cut off from most controllers, and reachable for all others", Majority, USUAL, Partition::new(Split::MinorityLeader);
        "ring": "each controller sees only its neighbours of a ring (of three: of a row)", Majority, USUAL, Partition::new(Split::Ring);
        "mute-leader": "what the leader says does not arrive, what is said to it does", Majority, USUAL, Partition::new(Split::MuteLeader);
        "deaf-leader": "what is said to the leader does not arrive, what it says does", Majority, USUAL, Partition::new(Split::DeafLeader);
        "agent-controllers": "an agent is cut off from all controllers, and from nobody else", SecondAgent, USUAL, Partition::new(Split::AgentControllers);
        "agent-store": "an agent is cut off from the store", Bucket, USUAL, Partition::new(Split::AgentStore);
        "client-store": "clients are cut off from the store", Bucket, USUAL, Partition::new(Split::ClientStore);
        "client-agents": "clients are cut off from agents", Nothing, USUAL, Partition::new(Split::ClientAgents);
        "delay-controllers": "20 to 200 ms each way between controllers", Majority, USUAL, Connections::new(Trouble::DelayControllers);
        "delay-all": "5 to 50 ms each way on every link", Nothing, USUAL, Connections::new(Trouble::DelayAll);
        "reset": "all connections are reset, again and again", Nothing, SHORT, Connections::new(Trouble::Reset);
        "replay": "all that agents said to controllers comes once more", Nothing, SHORT, replay::Replay::default();
        "refuse-leader": "connections to the leader are reset, new ones refused", Majority, USUAL, Connections::new(Trouble::RefuseLeader);
        "half-open": "agents' and clients' connections lead nowhere, and they are not told", Nothing, USUAL, Connections::new(Trouble::HalfOpen);
        "store-500": "the store answers 500", Bucket, USUAL, StoreTrouble::new(StoreFault::InternalError);
        "store-503": "the store answers 503 Slow Down", Bucket, USUAL, StoreTrouble::new(StoreFault::SlowDown);
        "store-timeout": "the store does not answer, and does nothing", Bucket, USUAL, StoreTrouble::new(StoreFault::Timeout);
        "store-lost-answer": "the store does what it is asked, and its answer is lost", Bucket, USUAL, StoreTrouble::new(StoreFault::LostAnswer);
        "store-error-in-200": "the store answers 200 with an error in the body", Bucket, USUAL, StoreTrouble::new(StoreFault::ErrorInOk);
        "store-truncated": "what is read from the store is half there", Bucket, USUAL, StoreTrouble::new(StoreFault::Truncated);
        "store-bit-flip": "what is read from the store has another bit", Bucket, USUAL, StoreTrouble::new(StoreFault::BitFlip);
        "store-slow": "the store takes 0.1 to 3 s more", Bucket, USUAL, StoreTrouble::new(StoreFault::SlowTail);
        "store-expired": "the store finds credentials expired", Bucket, USUAL, StoreTrouble::new(StoreFault::ExpiredCredentials);
        "power-cut": "all controllers lose their power at once, and what their disks had not synced", Compiler, SHORT, DiskTrouble::new(Harm::PowerCut);
        "fsync-stall": "syncs of the leader's disk do not return", Compiler, USUAL, DiskTrouble::new(Harm::Stall);
        "fsync-fail": "a sync of the leader's disk fails", Compiler, SHORT, DiskTrouble::new(Harm::Fail);
        "disk-full": "the leader's disk has no room any more", Compiler, SHORT, DiskTrouble::new(Harm::Full);
        "old-disk": "a controller gets its disk of some seconds ago back, is refused, and is repaired", Compiler, SHORT, replace::BadDisk::new(replace::Bad::Old);
        "flip-file": "a bit of a controller's log is another; it is refused, and repaired", Compiler, SHORT, replace::BadDisk::new(replace::Bad::Flipped);
        "replace-controller": "a controller is removed from the cluster and comes back as a new one", Compiler, SHORT, replace::Replace::new();
        "clock-jump": "wall clocks jump by up to an hour, and back", Compiler, USUAL, clock::Jump::default();
        "rolling-restart": "every process is stopped with SIGTERM and started again, one after another", Majority, SHORT, restart::RollingRestart;
        "transfer-leader": "the leadership of the controllers is handed over", Majority, SHORT, restart::TransferLeader;
    ]
}

/// Those that `list` names, with commas between; `all` for all that this kind of store has.
pub(crate) fn named(
    list: &str,
    controllers: usize,
    agents: usize,
    storage: Storage,
) -> Result<Vec<FaultSpec>, ChaosError> {
    let usage = |problem: String| ChaosError::Usage(format!("--faults: {problem}"));
    let mut named = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if name == "all" {
            // A folder has no requests that could fail.
            let has = |spec: &&FaultSpec| spec.needs != Needs::Bucket || storage == Storage::S3;
            named.extend(all().iter().filter(has));
            continue;
        }
        let found = all().iter().find(|spec| spec.name == name);
        named.push(*found.ok_or_else(|| {
            usage(format!("there is no fault {name}; `chaos faults` lists them"))
        })?);
    }
    named.sort_by_key(|spec| spec.name);
    named.dedup_by_key(|spec| spec.name);
    if named.is_empty() {
        return Err(usage("no fault is named".to_owned()));
    }
    // Never skipped in silence: a run that passes says that it held out all that was named.
    match named.iter().find(|spec| !spec.needs.met(controllers, agents, storage)) {
        Some(spec) => {
            let (name, needs) = (spec.name, spec.needs.text());
            Err(usage(format!("{name} cannot be installed: it needs {needs}")))
        }
        None => Ok(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_each_once_or_all_at_once() {
        assert_eq!(named("all", 3, 3, Storage::S3).unwrap().len(), all().len());
        let two = named("kill-leader, store-500,kill-leader", 3, 3, Storage::S3).unwrap();
        assert_eq!(two.iter().map(|s| s.name).collect::<Vec<_>>(), ["kill-leader", "store-500"]);
    }

    #[test]
    fn what_cannot_be_installed_is_refused_by_name() {
        let refusal =
            |list, controllers| named(list, controllers, 1, Storage::File).unwrap_err().to_string();
        assert!(
            refusal("store-500", 3).contains("store-500 cannot be installed: it needs --store s3")
        );
        assert!(named("all", 3, 3, Storage::File).unwrap().len() < all().len());
        assert!(refusal("kill-moon", 3).contains("no fault kill-moon"));
        assert!(refusal("ring", 1).contains("ring cannot be installed: it needs 3 controllers"));
        assert!(refusal(" ,", 3).contains("no fault is named"));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all().iter().map(|spec| spec.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
    }
}
