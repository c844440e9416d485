//! Which fault when. The seed decides order, lengths and victims.

use std::time::Duration;

use crate::clock;
use crate::cluster::{Cluster, DAMAGED, Node};
use crate::error::ChaosError;
use crate::faults::{Fault, FaultSpec, Healed};
use crate::history::{Operation, Outcome, Partition};
use crate::random::Random;
use crate::recorder::{HARNESS, Recorder};

use super::bounds::Judged;
use super::report::FaultRun;
use super::standstill::Watcher;
use super::{Progress, panics, recovery};

/// Before the first fault.
const CALM_FIRST: Duration = Duration::from_secs(3);
/// The least between two faults.
const CALM: Duration = Duration::from_secs(1);
/// How long a healed cluster may take to be whole before that is a finding.
const WHOLE: Duration = Duration::from_secs(90);
/// What a fault takes beside the time that it lasts: to be installed, and until all is as it was. Most take a second or
/// two.
const BESIDE: Duration = Duration::from_secs(3);

/// What has come of the faults.
#[derive(Default)]
pub(super) struct Rotated {
    pub(super) runs: Vec<FaultRun>,
    /// Those that could not be installed, and why.
    pub(super) not_installed: Vec<String>,
    /// Those that the time did not suffice for.
    pub(super) left_out: Vec<&'static str>,
    /// The longest from a healing until the controllers were identical.
    pub(super) identical_after: Option<Duration>,
}

/// What a run's faults are, in which order.
pub(super) struct Plan {
    /// In the order of the first round.
    faults: Vec<FaultSpec>,
    left_out: Vec<&'static str>,
    time: Duration,
    seed: u64,
    random: Random,
}

/// Parts of the seed: turns by their number, and from here on rounds.
const ROUNDS: u64 = 1 << 32;

impl Plan {
    /// The faults for which there is time, in an order that the seed decides; refused if there is none for any.
    pub(super) fn new(
        mut faults: Vec<FaultSpec>,
        time: Duration,
        seed: u64,
    ) -> Result<Self, ChaosError> {
        let random = Random::new(seed).fork(3);
        random.fork(ROUNDS).shuffle(&mut faults);
        let named = faults.len();
        let mut left = time;
        let mut left_out = Vec::new();
        faults.retain(|spec| {
            let fits = left.checked_sub(takes(spec));
            left = fits.unwrap_or(left);
            if fits.is_none() {
                left_out.push(spec.name);
            }
            fits.is_some()
        });
        if faults.is_empty() {
            return Err(ChaosError::Usage(format!(
                "none of {named} faults has its turn within {} s: give it more time",
                time.as_secs()
            )));
        }
        left_out.sort_unstable();
        Ok(Self { faults, left_out, time, seed, random })
    }

    /// Those for which there is no time.
    pub(super) fn left_out(&self) -> &[&'static str] {
        &self.left_out
    }

    /// What the turn of this number, from 0, chooses by: its own numbers, so that it does not matter what those before
    /// have chosen.
    fn turn(&self, turn: usize) -> Random {
        self.random.fork(turn as u64)
    }

    /// The faults of a round, in their order.
    fn round(&self, round: usize) -> Vec<FaultSpec> {
        let mut faults = self.faults.clone();
        if round > 0 {
            self.random.fork(ROUNDS + round as u64).shuffle(&mut faults);
        }
        faults
    }

    /// Whether a fault that may have the leader or another is to have the leader: in turns, and by the seed at first.
    fn aims_at_leader(&self, round: usize) -> bool {
        self.seed.wrapping_add(round as u64).is_multiple_of(2)
    }

    /// Rotates the faults until the time is over and each has had its turn; each is healed again. It ends with one that
    /// cannot be.
    pub(super) async fn rotate(
        self,
        cluster: &mut Cluster,
        scene: &Scene<'_>,
        rotated: &mut Rotated,
    ) -> Result<(), ChaosError> {
        let end = clock::now() + self.time;
        let recorder = scene.recorder;
        rotated.left_out.clone_from(&self.left_out);
        let mut calm = CALM_FIRST;
        for turn in 0.. {
            let (round, place) = (turn / self.faults.len(), turn % self.faults.len());
            if clock::now() >= end && round > 0 {
                break;
            }
            let spec = self.round(round)[place];
            tokio::time::sleep(calm).await;
            let mut fault = spec.make();
            fault.aim(self.aims_at_leader(round));
            let random = self.turn(turn);
            let healed = one(&spec, fault, random, cluster, scene, rotated).await?;
            recover(rotated, cluster, scene).await?;
            let Some(run) = rotated.runs.last().filter(|_| healed) else { break };
            // A quarter of the time is calm.
            let busy = Duration::from_micros(run.whole_us.saturating_sub(run.begun_us));
            let calmed = recorder.elapsed().saturating_sub(Duration::from_micros(run.whole_us));
            calm = CALM.max((busy / 3).saturating_sub(calmed));
        }
        Ok(())
    }
}

/// What a fault takes in the mean, with the calm that follows: a quarter of the time.
fn takes(spec: &FaultSpec) -> Duration {
    (spec.mean() + BESIDE) * 4 / 3
}

/// Where faults take place, and who is to be told.
pub(super) struct Scene<'r> {
    pub(super) partitions: &'r [Partition],
    pub(super) recorder: &'r Recorder,
    pub(super) watcher: &'r Watcher,
    pub(super) progress: &'r Progress,
}

/// Installs a fault, and heals it when its time is over. Whether it was healed.
async fn one(
    spec: &FaultSpec,
    mut fault: Box<dyn Fault>,
    mut random: Random,
    cluster: &mut Cluster,
    scene: &Scene<'_>,
    rotated: &mut Rotated,
) -> Result<bool, ChaosError> {
    let recorder = scene.recorder;
    let named =
        |detail: &str| Operation::Fault { fault: spec.name.to_owned(), detail: detail.to_owned() };
    // How long does not depend on what it chooses.
    let lasts = spec.lasts(&mut random.fork(1));
    // What links were struck by before is not this one's.
    cluster.links().struck();
    let begun_us = recorder.elapsed_us();
    recorder.record(HARNESS, Outcome::Invoke, named(""));
    let installed = fault.install(cluster, &mut random).await;
    let (outcome, detail) = match &installed {
        Ok(detail) => (Outcome::Ok, detail.clone()),
        Err(error) => (Outcome::Fail, format!("could not be installed: {error}")),
    };
    recorder.record(HARNESS, outcome, named(&detail));
    let at = recorder.elapsed().as_secs_f64();
    (scene.progress)(&format!("{at:>6.1} s  {}: {detail}", spec.name));
    // It is known from here on, also to a run that is broken off.
    rotated.begin(spec, detail, (begun_us, recorder.elapsed_us()), &installed);
    if installed.is_ok() {
        tokio::time::sleep(lasts).await;
    }
    let hit_leader = fault.hit_leader();
    let healed = heal(spec, fault, cluster, recorder).await;
    if let Some(run) = rotated.runs.last_mut() {
        run.hit_leader = hit_leader;
        came_to(run, recorder.mark_us(), installed.is_ok(), &healed);
    }
    match healed {
        Ok(_) => Ok(true),
        Err(error) if error.is_of_cluster() => cluster.mend().map(|()| false),
        Err(error) => {
            let problem = format!("cannot be healed: {error}");
            Err(ChaosError::Fault { fault: spec.name, problem })
        }
    }
}

impl Rotated {
    /// A fault was to be installed, and is not healed yet.
    fn begin(
        &mut self,
        spec: &FaultSpec,
        detail: String,
        (begun_us, now_us): (u64, u64),
        installed: &Result<String, ChaosError>,
    ) {
        let name = spec.name;
        let mut problem = None;
        match installed {
            Ok(_) => {}
            Err(ChaosError::Finding(found)) => problem = Some(found.clone()),
            Err(_) => {
                let at = begun_us as f64 / 1e6;
                self.not_installed.push(format!("{name} at {at:.1} s {detail}"));
            }
        }
        self.runs.push(FaultRun {
            name,
            detail,
            installed: false,
            hit_leader: None,
            begun_us,
            healed_us: now_us,
            whole_us: now_us,
            pause_us: 0,
            judged: Judged { us: 0, allowed_us: 0, bound: spec.pause },
            writable_us: None,
            problem,
        });
    }
}

/// What is known of a fault once it is healed.
fn came_to(
    run: &mut FaultRun,
    healed_us: u64,
    installed: bool,
    healed: &Result<Healed, ChaosError>,
) {
    (run.healed_us, run.whole_us) = (healed_us, healed_us);
    match healed {
        Ok(healed) if installed => {
            let no = if healed.effective { "" } else { "no effect, " };
            run.installed = healed.effective;
            run.detail = format!("{}: {no}{}", run.detail, healed.detail);
        }
        Ok(_) => {}
        Err(error) => add(&mut run.problem, format!("cannot be healed: {error}")),
    }
}

async fn heal(
    spec: &FaultSpec,
    mut fault: Box<dyn Fault>,
    cluster: &mut Cluster,
    recorder: &Recorder,
) -> Result<Healed, ChaosError> {
    let healed = fault.heal(cluster).await;
    let (outcome, detail) = match &healed {
        Ok(healed) => (Outcome::Ok, healed.detail.clone()),
        Err(error) => (Outcome::Fail, error.to_string()),
    };
    let fault = spec.name.to_owned();
    recorder.record(HARNESS, outcome, Operation::Heal { fault, detail });
    healed
}

/// Waits until the cluster is whole, its partitions are written and its controllers are identical, each measured from the
/// healing on: the next one's pauses are to be its own.
async fn recover(
    rotated: &mut Rotated,
    cluster: &mut Cluster,
    scene: &Scene<'_>,
) -> Result<(), ChaosError> {
    let Some(run) = rotated.runs.last_mut() else { return Ok(()) };
    let Scene { partitions, recorder, watcher, .. } = *scene;
    let (access, healed_us) = (cluster.access().clone(), run.healed_us);
    let (finished, late, identical) = tokio::join!(
        finish(run, cluster, recorder),
        recovery::writable(recorder, partitions, healed_us, watcher),
        recovery::identical(&access, recorder, healed_us, watcher),
    );
    late.into_iter().for_each(|late| add(&mut run.problem, late));
    match identical {
        Ok(after) => rotated.identical_after = rotated.identical_after.max(Some(after)),
        Err(late) => add(&mut run.problem, late),
    }
    finished
}

/// Waits until the cluster is whole. A process that ended by itself is a finding; the others are still to be tried with
/// it.
async fn finish(
    run: &mut FaultRun,
    cluster: &mut Cluster,
    recorder: &Recorder,
) -> Result<(), ChaosError> {
    revive(run, cluster).await?;
    wait(run, cluster).await;
    // One that ended meanwhile.
    if revive(run, cluster).await? {
        wait(run, cluster).await;
    }
    run.whole_us = recorder.elapsed_us();
    Ok(())
}

async fn wait(run: &mut FaultRun, cluster: &mut Cluster) {
    if let Err(error) = cluster.wait_until_whole(WHOLE).await {
        add(&mut run.problem, error.to_string());
    }
}

/// Starts those that ended by themselves, if there are any; a controller that says that its disk is of no use begins anew.
async fn revive(run: &mut FaultRun, cluster: &mut Cluster) -> Result<bool, ChaosError> {
    let fallen = cluster.fallen();
    for (node, code) in &fallen {
        let words = panics::last_words(cluster.folder(), &node.file_name());
        add(&mut run.problem, format!("{node} ended by itself, exit {code}; {words}"));
    }
    for (node, code) in &fallen {
        if let (Node::Controller(n), DAMAGED) = (*node, *code)
            && !cluster.is_running(*node)
            && let Err(error) = cluster.repair(n).await
        {
            add(&mut run.problem, error.to_string());
        }
        cluster.start_process(*node)?;
    }
    Ok(!fallen.is_empty())
}

fn add(problem: &mut Option<String>, found: String) {
    *problem = Some(match problem.take() {
        Some(before) => format!("{before}; {found}"),
        None => found,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults;

    const HALF_AN_HOUR: Duration = Duration::from_secs(1_800);

    fn plan(time: Duration, seed: u64) -> Plan {
        Plan::new(faults::all().to_vec(), time, seed).unwrap()
    }

    #[test]
    fn one_seed_gives_one_order() {
        let order = |seed, round| {
            let faults = plan(HALF_AN_HOUR, seed).round(round);
            faults.iter().map(|spec| spec.name).collect::<Vec<_>>()
        };
        assert_eq!(order(7, 0), order(7, 0));
        assert_ne!(order(7, 0), order(8, 0));
        assert_ne!(order(7, 0), order(7, 1));
    }

    #[test]
    fn what_a_turn_chooses_does_not_depend_on_those_before() {
        let plan = plan(HALF_AN_HOUR, 7);
        let mut numbers: Vec<_> = (0..100).map(|turn| plan.turn(turn).number()).collect();
        assert_eq!(plan.turn(50).number(), numbers[50]);
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 100);
        // Of two runs with seeds that follow each other, or two rounds of one, one aims at the leader.
        let other = super::tests::plan(HALF_AN_HOUR, 8);
        assert_ne!(plan.aims_at_leader(0), plan.aims_at_leader(1));
        assert_ne!(plan.aims_at_leader(0), other.aims_at_leader(0));
    }

    #[test]
    fn half_an_hour_has_a_turn_for_every_fault_also_if_each_takes_its_longest() {
        for seed in 0..20 {
            assert_eq!(plan(HALF_AN_HOUR, seed).left_out(), [""; 0]);
        }
        let longest = |spec: &FaultSpec| (Duration::from_millis(spec.lasts.1) + BESIDE) * 4 / 3;
        let all: Duration = faults::all().iter().map(longest).sum();
        assert!(all < HALF_AN_HOUR, "{all:?}");
    }

    #[test]
    fn what_does_not_fit_is_left_out_by_name() {
        let two_minutes = Duration::from_secs(120);
        let plan = plan(two_minutes, 3);
        let taken: Duration = plan.faults.iter().map(takes).sum();
        assert!(plan.faults.len() >= 4 && taken <= two_minutes, "{taken:?}");
        let left = plan.faults.iter().map(|spec| spec.name).chain(plan.left_out().iter().copied());
        let mut left: Vec<_> = left.collect();
        left.sort_unstable();
        let mut all: Vec<_> = faults::all().iter().map(|spec| spec.name).collect();
        all.sort_unstable();
        assert_eq!(left, all);
    }

    #[test]
    fn a_fault_is_known_before_it_is_healed_and_counts_once_it_was_felt() {
        let mut rotated = Rotated::default();
        let spec = |name| faults::all().iter().find(|spec| spec.name == name).unwrap();
        let found = Err(ChaosError::Finding("it serves on".to_owned()));
        rotated.begin(spec("disk-full"), String::new(), (1, 2), &found);
        let error = Err(ChaosError::Harness("no compiler".to_owned()));
        let power_cut = spec("power-cut");
        rotated.begin(power_cut, "not so".to_owned(), (3_000_000, 3_000_001), &error);
        rotated.begin(spec("store-500"), "agents".to_owned(), (5, 6), &Ok(String::new()));
        assert_eq!(rotated.runs[0].problem.as_deref(), Some("it serves on"));
        assert_eq!(rotated.not_installed, ["power-cut at 3.0 s not so"]);
        let run = &mut rotated.runs[2];
        assert!(!run.installed);
        let healed = |effective| Ok(Healed { detail: "0 requests".to_owned(), effective });
        came_to(run, 9, true, &healed(false));
        assert_eq!((run.installed, run.detail.as_str()), (false, "agents: no effect, 0 requests"));
        came_to(run, 9, true, &healed(true));
        assert_eq!((run.installed, run.healed_us), (true, 9));
    }

    #[test]
    fn a_run_too_short_for_any_fault_is_refused() {
        let refused = Plan::new(faults::all().to_vec(), Duration::from_secs(2), 1);
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("give it more time"), "{error}");
    }
}
