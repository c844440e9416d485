//! Which fault when. The seed decides order, lengths and victims.

use std::time::Duration;

use crate::clock;
use crate::cluster::{Cluster, DAMAGED, Node};
use crate::error::ChaosError;
use crate::faults::{Fault, FaultSpec, Healed};
use crate::history::{Operation, Outcome, Partition};
use crate::random::Random;
use crate::recorder::{HARNESS, Recorder};

use super::report::FaultRun;
use super::{Progress, recovery};

/// Before the first fault.
const CALM_FIRST: Duration = Duration::from_secs(3);
/// The least between two faults.
const CALM: Duration = Duration::from_secs(1);
/// How long a healed cluster may take to be whole before that is a finding.
const WHOLE: Duration = Duration::from_secs(90);
/// What one fault takes, with what comes before and after it: for the least length of a run.
const EACH: Duration = Duration::from_secs(10);

/// What has come of the faults.
#[derive(Default)]
pub(super) struct Rotated {
    pub(super) runs: Vec<FaultRun>,
    /// Those that could not be installed, and why.
    pub(super) not_installed: Vec<String>,
    /// The longest from a healing until the controllers were identical.
    pub(super) identical_after: Option<Duration>,
}

/// What a run's faults are, in which order.
pub(super) struct Plan {
    faults: Vec<FaultSpec>,
    time: Duration,
    random: Random,
}

impl Plan {
    /// Refuses a run that would be over before each fault had its turn.
    pub(super) fn new(
        mut faults: Vec<FaultSpec>,
        time: Duration,
        seed: u64,
    ) -> Result<Self, ChaosError> {
        let least = EACH * u32::try_from(faults.len()).unwrap_or(u32::MAX);
        if time < least {
            return Err(ChaosError::Usage(format!(
                "{} faults take about {} s, the run is to take {} s: give it more time or name fewer",
                faults.len(),
                least.as_secs(),
                time.as_secs()
            )));
        }
        let mut random = Random::new(seed).fork(3);
        random.shuffle(&mut faults);
        Ok(Self { faults, time, random })
    }

    /// Rotates the faults until the time is over and each has had its turn; each is healed again. It ends with one that
    /// cannot be.
    pub(super) async fn rotate(
        mut self,
        cluster: &mut Cluster,
        partitions: &[Partition],
        recorder: &Recorder,
        progress: &Progress,
        rotated: &mut Rotated,
    ) -> Result<(), ChaosError> {
        let end = clock::now() + self.time;
        let mut calm = CALM_FIRST;
        for turn in 0.. {
            if clock::now() >= end && turn >= self.faults.len() {
                break;
            }
            if turn > 0 && turn % self.faults.len() == 0 {
                self.random.shuffle(&mut self.faults);
            }
            let spec = self.faults[turn % self.faults.len()];
            tokio::time::sleep(calm).await;
            let healed = self.one(&spec, cluster, recorder, progress, rotated).await?;
            recover(rotated, cluster, partitions, recorder).await?;
            let Some(run) = rotated.runs.last().filter(|_| healed) else { break };
            // A quarter of the time is calm.
            let busy = Duration::from_micros(run.whole_us.saturating_sub(run.begun_us));
            let calmed = recorder.elapsed().saturating_sub(Duration::from_micros(run.whole_us));
            calm = CALM.max((busy / 3).saturating_sub(calmed));
        }
        Ok(())
    }

    /// Whether it was healed.
    async fn one(
        &mut self,
        spec: &FaultSpec,
        cluster: &mut Cluster,
        recorder: &Recorder,
        progress: &Progress,
        rotated: &mut Rotated,
    ) -> Result<bool, ChaosError> {
        let named = |detail: &str| Operation::Fault {
            fault: spec.name.to_owned(),
            detail: detail.to_owned(),
        };
        let mut fault = spec.make();
        let begun_us = elapsed_us(recorder);
        recorder.record(HARNESS, Outcome::Invoke, named(""));
        let installed = fault.install(cluster, &mut self.random).await;
        let (outcome, detail) = match &installed {
            Ok(detail) => (Outcome::Ok, detail.clone()),
            Err(error) => (Outcome::Fail, format!("could not be installed: {error}")),
        };
        recorder.record(HARNESS, outcome, named(&detail));
        progress(&format!("{:>6.1} s  {}: {detail}", recorder.elapsed().as_secs_f64(), spec.name));
        // It is known from here on, also to a run that is broken off.
        rotated.begin(spec.name, detail, (begun_us, elapsed_us(recorder)), &installed);
        if installed.is_ok() {
            let lasts = self.random.within(spec.lasts_ms());
            tokio::time::sleep(Duration::from_millis(lasts)).await;
        }
        let healed = heal(spec, fault, cluster, recorder).await;
        if let Some(run) = rotated.runs.last_mut() {
            came_to(run, elapsed_us(recorder), installed.is_ok(), &healed);
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
}

impl Rotated {
    /// A fault was to be installed, and is not healed yet.
    fn begin(
        &mut self,
        name: &'static str,
        detail: String,
        (begun_us, now_us): (u64, u64),
        installed: &Result<String, ChaosError>,
    ) {
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
            begun_us,
            healed_us: now_us,
            whole_us: now_us,
            pause_us: 0,
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
        Ok(healed) if installed && healed.effective => run.installed = true,
        Ok(healed) if installed => {
            run.detail = format!("{}: no effect, {}", run.detail, healed.detail);
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
    partitions: &[Partition],
    recorder: &Recorder,
) -> Result<(), ChaosError> {
    let Some(run) = rotated.runs.last_mut() else { return Ok(()) };
    let (access, healed_us) = (cluster.access().clone(), run.healed_us);
    let (finished, late, identical) = tokio::join!(
        finish(run, cluster, recorder),
        recovery::writable(recorder, partitions, healed_us),
        recovery::identical(&access, recorder, healed_us),
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
    run.whole_us = elapsed_us(recorder);
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
        add(&mut run.problem, format!("{node} ended by itself, exit {code}"));
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

fn elapsed_us(recorder: &Recorder) -> u64 {
    u64::try_from(recorder.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults;

    #[test]
    fn one_seed_gives_one_order() {
        let order = |seed| {
            let plan = Plan::new(faults::all().to_vec(), Duration::from_secs(3_600), seed).unwrap();
            plan.faults.iter().map(|spec| spec.name).collect::<Vec<_>>()
        };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
    }

    #[test]
    fn a_fault_is_known_before_it_is_healed_and_counts_once_it_was_felt() {
        let mut rotated = Rotated::default();
        let found = Err(ChaosError::Finding("it serves on".to_owned()));
        rotated.begin("disk-full", String::new(), (1, 2), &found);
        let error = Err(ChaosError::Harness("no compiler".to_owned()));
        rotated.begin("power-cut", "not so".to_owned(), (3_000_000, 3_000_001), &error);
        rotated.begin("store-500", "agents".to_owned(), (5, 6), &Ok(String::new()));
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
    fn a_run_too_short_for_its_faults_is_refused() {
        let refused = Plan::new(faults::all().to_vec(), Duration::from_secs(60), 1);
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("give it more time or name fewer"), "{error}");
    }
}
