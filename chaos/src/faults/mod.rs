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

use std::time::Duration;

use async_trait::async_trait;

use crate::cluster::{Cluster, Storage, Struck};
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
    /// How long it lasts once it is installed, milliseconds: from, to.
    pub lasts: (u64, u64),
    /// For how long a partition may take no record because of it; nothing where that is not bounded.
    pub pause: Option<Duration>,
    make: fn() -> Box<dyn Fault>,
}

impl FaultSpec {
    pub(crate) fn make(&self) -> Box<dyn Fault> {
        (self.make)()
    }

    /// How long it lasts this time.
    pub(crate) fn lasts(&self, random: &mut Random) -> Duration {
        let (from, to) = self.lasts;
        Duration::from_millis(if from < to { random.within(from..to) } else { from })
    }

    /// How long it lasts in the mean.
    pub(crate) fn mean(&self) -> Duration {
        Duration::from_millis(self.lasts.0.midpoint(self.lasts.1))
    }

    /// Without its bound in a cluster that has nobody to take the victim's place.
    fn within_reach(self, controllers: usize, agents: usize) -> Self {
        let spared = match self.name {
            "kill-agent" | "agent-controllers" => agents >= 2,
            // With more, a ring leaves no majority to anybody.
            "ring" => (3..=5).contains(&controllers),
            _ => controllers >= 3,
        };
        Self { pause: self.pause.filter(|_| spared), ..self }
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

    /// Whether the leader is to be a victim, of a fault that may have this one or another; told before it is installed.
    fn aim(&mut self, _leader: bool) {}

    /// Whether a controller that led was among its victims; nothing where its victims are no processes.
    fn hit_leader(&self) -> Option<bool> {
        None
    }
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
    /// It has shown while it was installed that it had an effect.
    fn done(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), effective: true }
    }

    /// What the proxies say that they did to links.
    fn links(struck: Struck) -> Self {
        Self { detail: format!("all links are open; {struck}"), effective: struck.any() }
    }
}

/// What a cluster does not do that has what it needs for it, and its time, is a finding, no trouble of the suite's.
fn found(error: ChaosError) -> ChaosError {
    match error {
        ChaosError::Cluster(problem) => ChaosError::Finding(problem),
        other => other,
    }
}

/// How long faults last, by class. What has a bound for the pause lasts longer than that, or it would prove nothing.
const AT_ONCE: (u64, u64) = (0, 0);
/// Processes that are gone.
const GONE: (u64, u64) = (4_000, 8_000);
const LINKS: (u64, u64) = (7_000, 14_000);
/// Of agents and of controllers that stand still.
const STILL_AGENT: (u64, u64) = (5_000, 60_000);
const STILL: (u64, u64) = (7_000, 25_000);
const STALL: (u64, u64) = (7_000, 20_000);
const USUAL: (u64, u64) = (4_000, 8_000);

/// For how long a partition may take no record: of one that dies and is replaced, and of one that must be found out.
const REPLACED: Option<Duration> = Some(Duration::from_secs(2));
const FOUND_OUT: Option<Duration> = Some(Duration::from_secs(5));
const UNBOUND: Option<Duration> = None;

macro_rules! faults {
    ($($name:literal: $line:literal, $needs:ident, $lasts:ident, $pause:ident, $make:expr;)*) => {
        &[$(FaultSpec {
            name: $name,
            line: $line,
            needs: Needs::$needs,
            lasts: $lasts,
            pause: $pause,
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
        "kill-leader": "kill -9 of the controller that leads", Nothing, GONE, REPLACED, Kill::new(Whom::Leader);
        "kill-follower": "kill -9 of a controller that follows", Majority, GONE, REPLACED, Kill::new(Whom::Follower);
        "kill-agent": "kill -9 of the agent with the most partitions", Nothing, GONE, REPLACED, Kill::new(Whom::Agent);
        "kill-all-agents": "kill -9 of all agents", Nothing, GONE, UNBOUND, Kill::new(Whom::AllAgents);
        "kill-all-controllers": "kill -9 of all controllers", Nothing, GONE, UNBOUND, Kill::new(Whom::AllControllers);
        "kill-everything": "kill -9 of every process", Nothing, GONE, UNBOUND, Kill::new(Whom::Everything);
        "crash-loop-controller": "whichever controller leads is killed and started again, five times", Nothing, AT_ONCE, UNBOUND, crash_loop::CrashLoop::of_controllers();
        "crash-loop-agent": "an agent is killed and started again, five times", Nothing, AT_ONCE, UNBOUND, crash_loop::CrashLoop::of_agents();
        "stop-leader": "SIGSTOP of the controller that leads", Nothing, STILL, FOUND_OUT, Stop::new(Whom::Leader);
        "stop-follower": "SIGSTOP of a controller that follows", Majority, STILL, FOUND_OUT, Stop::new(Whom::Follower);
        "stop-agent": "SIGSTOP of the agent with the most partitions", Nothing, STILL_AGENT, UNBOUND, Stop::new(Whom::Agent);
        "isolate-leader": "the controller that leads is cut off from everybody", Majority, LINKS, FOUND_OUT, Partition::new(Split::IsolateLeader);
        "isolate-follower": "a controller that follows is cut off from everybody", Majority, LINKS, FOUND_OUT, Partition::new(Split::IsolateFollower);
        "minority-leader": "the leader is cut off from most controllers, and reachable for all others", Majority, LINKS, FOUND_OUT, Partition::new(Split::MinorityLeader);
        "ring": "each controller sees only its neighbours of a ring (of three: of a row)", Majority, LINKS, FOUND_OUT, Partition::new(Split::Ring);
        "mute-leader": "what the leader says does not arrive, what is said to it does", Majority, LINKS, FOUND_OUT, Partition::new(Split::MuteLeader);
        "deaf-leader": "what is said to the leader does not arrive, what it says does", Majority, LINKS, FOUND_OUT, Partition::new(Split::DeafLeader);
        "agent-controllers": "an agent is cut off from all controllers, and from nobody else", SecondAgent, LINKS, FOUND_OUT, Partition::new(Split::AgentControllers);
        "agent-store": "an agent is cut off from the store", Bucket, LINKS, UNBOUND, Partition::new(Split::AgentStore);
        "client-store": "clients are cut off from the store", Bucket, LINKS, UNBOUND, Partition::new(Split::ClientStore);
        "client-agents": "clients are cut off from agents", Nothing, LINKS, UNBOUND, Partition::new(Split::ClientAgents);
        "delay-controllers": "20 to 200 ms each way between controllers", Majority, LINKS, UNBOUND, Connections::new(Trouble::DelayControllers);
        "delay-all": "5 to 50 ms each way on every link", Nothing, LINKS, UNBOUND, Connections::new(Trouble::DelayAll);
        "reset": "all connections are reset, again and again", Nothing, AT_ONCE, UNBOUND, Connections::new(Trouble::Reset);
        "replay": "all that agents said to controllers comes once more", Nothing, AT_ONCE, UNBOUND, replay::Replay::default();
        "refuse-leader": "connections to the leader are reset, new ones refused", Majority, LINKS, UNBOUND, Connections::new(Trouble::RefuseLeader);
        "half-open": "agents' and clients' connections lead nowhere, and they are not told", Nothing, LINKS, UNBOUND, Connections::new(Trouble::HalfOpen);
        "store-500": "the store answers 500", Bucket, USUAL, UNBOUND, StoreTrouble::new(StoreFault::InternalError);
        "store-503": "the store answers 503 Slow Down", Bucket, USUAL, UNBOUND, StoreTrouble::new(StoreFault::SlowDown);
        "store-timeout": "the store does not answer, and does nothing", Bucket, USUAL, UNBOUND, StoreTrouble::new(StoreFault::Timeout);
        "store-lost-answer": "the store does what it is asked, and its answer is lost", Bucket, USUAL, UNBOUND, StoreTrouble::new(StoreFault::LostAnswer);
        "store-error-in-200": "the store answers 200 with an error in the body", Bucket, USUAL, UNBOUND, StoreTrouble::new(StoreFault::ErrorInOk);
        "store-truncated": "what is read from the store is half there", Bucket, USUAL, UNBOUND, StoreTrouble::new(StoreFault::Truncated);
        "store-bit-flip": "what is read from the store has another bit", Bucket, USUAL, UNBOUND, StoreTrouble::new(StoreFault::BitFlip);
        "store-slow": "the store takes 0.1 to 3 s more", Bucket, USUAL, UNBOUND, StoreTrouble::new(StoreFault::SlowTail);
        "store-expired": "the store finds credentials expired", Bucket, USUAL, UNBOUND, StoreTrouble::new(StoreFault::ExpiredCredentials);
        "power-cut": "all controllers lose their power at once, and what their disks had not synced", Compiler, GONE, UNBOUND, DiskTrouble::new(Harm::PowerCut);
        "fsync-stall": "syncs of a controller's disk do not return", Compiler, STALL, FOUND_OUT, DiskTrouble::new(Harm::Stall);
        "fsync-fail": "a sync of a controller's disk fails", Compiler, AT_ONCE, UNBOUND, DiskTrouble::new(Harm::Fail);
        "disk-full": "a controller's disk has no room any more", Compiler, AT_ONCE, UNBOUND, DiskTrouble::new(Harm::Full);
        "old-disk": "a controller gets its disk of some seconds ago back, is refused, and is repaired", Compiler, AT_ONCE, UNBOUND, replace::BadDisk::new(replace::Bad::Old);
        "flip-file": "a bit of a controller's log is another; it is refused, and repaired", Compiler, AT_ONCE, UNBOUND, replace::BadDisk::new(replace::Bad::Flipped);
        "replace-controller": "a controller is removed from the cluster and comes back as a new one", Compiler, AT_ONCE, UNBOUND, replace::Replace::new();
        "clock-jump": "wall clocks jump by up to an hour, and back", Compiler, USUAL, UNBOUND, clock::Jump::default();
        "rolling-restart": "every process is stopped with SIGTERM and started again, one after another", Majority, AT_ONCE, UNBOUND, restart::RollingRestart;
        "transfer-leader": "the leadership of the controllers is handed over", Majority, AT_ONCE, UNBOUND, restart::TransferLeader::default();
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
        None => Ok(named.iter().map(|spec| spec.within_reach(controllers, agents)).collect()),
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
    fn what_has_a_bound_lasts_longer_than_that() {
        for spec in all() {
            let least = Duration::from_millis(spec.lasts.0);
            assert!(spec.pause.is_none_or(|pause| pause < least), "{}", spec.name);
            assert!(spec.lasts.0 <= spec.lasts.1, "{}", spec.name);
        }
        assert_eq!(all().iter().filter(|spec| spec.pause == REPLACED).count(), 3);
        assert_eq!(all().iter().filter(|spec| spec.pause == FOUND_OUT).count(), 10);
    }

    #[test]
    fn a_cluster_that_can_miss_nobody_has_no_bound() {
        let pauses = |list, controllers, agents| {
            let named = named(list, controllers, agents, Storage::S3).unwrap();
            named.into_iter().map(|spec| spec.pause).collect::<Vec<_>>()
        };
        assert_eq!(pauses("kill-agent,kill-leader", 3, 1), [UNBOUND, REPLACED]);
        assert_eq!(pauses("kill-agent,kill-leader", 1, 2), [REPLACED, UNBOUND]);
        assert_eq!(pauses("ring", 5, 2), [FOUND_OUT]);
        assert_eq!(pauses("ring", 7, 2), [UNBOUND]);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all().iter().map(|spec| spec.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
    }
}
