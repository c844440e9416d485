//! Which fault when. The seed decides order, lengths and victims.

use std::time::Duration;

use crate::clock;
use crate::cluster::Cluster;
use crate::error::ChaosError;
use crate::faults::{Fault, FaultSpec};
use crate::history::{Operation, Outcome};
use crate::random::Random;
use crate::recorder::{HARNESS, Recorder};

use super::Progress;
use super::report::FaultRun;

/// Before the first fault.
const CALM_FIRST: Duration = Duration::from_secs(3);
/// The least between two faults.
const CALM: Duration = Duration::from_secs(1);
/// How long a healed cluster may take to be whole before that is a finding.
const WHOLE: Duration = Duration::from_secs(90);
/// What one fault takes, with what comes before and after it: for the least length of a run.
const EACH: Duration = Duration::from_secs(10);

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

    /// Rotates the faults until the time is over and each has had its turn; each is healed again.
    pub(super) async fn rotate(
        mut self,
        cluster: &mut Cluster,
        recorder: &Recorder,
        progress: &Progress,
    ) -> Result<Vec<FaultRun>, ChaosError> {
        let end = clock::now() + self.time;
        let mut runs = Vec::new();
        tokio::time::sleep(CALM_FIRST).await;
        for turn in 0.. {
            if clock::now() >= end && turn >= self.faults.len() {
                break;
            }
            if turn > 0 && turn % self.faults.len() == 0 {
                self.random.shuffle(&mut self.faults);
            }
            let spec = self.faults[turn % self.faults.len()];
            let run = self.one(&spec, cluster, recorder, progress).await?;
            // A quarter of the time is calm.
            let busy = Duration::from_micros(run.whole_us.saturating_sub(run.begun_us));
            tokio::time::sleep(CALM.max(busy / 3)).await;
            runs.push(run);
        }
        Ok(runs)
    }

    async fn one(
        &mut self,
        spec: &FaultSpec,
        cluster: &mut Cluster,
        recorder: &Recorder,
        progress: &Progress,
    ) -> Result<FaultRun, ChaosError> {
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
            Err(error) => (Outcome::Fail, error.to_string()),
        };
        recorder.record(HARNESS, outcome, named(&detail));
        progress(&format!("{:>6.1} s  {}: {detail}", recorder.elapsed().as_secs_f64(), spec.name));
        let took_hold = installed.is_ok();
        if took_hold {
            let lasts = self.random.within(spec.lasts_ms());
            tokio::time::sleep(Duration::from_millis(lasts)).await;
        }
        let (effective, healed_us) = heal(spec, fault, cluster, recorder).await?;
        let whole = cluster.wait_until_whole(WHOLE).await;
        let mut problem = whole.err().map(|error| error.to_string());
        if let Err(ChaosError::Finding(found)) = installed {
            problem = Some(found);
        }
        // A process that ended by itself is a finding; the others are still to be tried with it.
        for (node, code) in cluster.fallen() {
            let fell = format!("{node} ended by itself, exit {code}");
            problem = Some(problem.map_or(fell.clone(), |before| format!("{before}; {fell}")));
            cluster.start_process(node)?;
        }
        Ok(FaultRun {
            name: spec.name,
            detail,
            installed: took_hold && effective,
            begun_us,
            healed_us,
            whole_us: elapsed_us(recorder),
            pause_us: 0,
            writable_us: None,
            problem,
        })
    }
}

async fn heal(
    spec: &FaultSpec,
    mut fault: Box<dyn Fault>,
    cluster: &mut Cluster,
    recorder: &Recorder,
) -> Result<(bool, u64), ChaosError> {
    let healed = fault.heal(cluster).await.map_err(|error| ChaosError::Fault {
        fault: spec.name,
        problem: format!("cannot be healed: {error}"),
    })?;
    let (fault, detail) = (spec.name.to_owned(), healed.detail);
    recorder.record(HARNESS, Outcome::Ok, Operation::Heal { fault, detail });
    Ok((healed.effective, elapsed_us(recorder)))
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
    fn a_run_too_short_for_its_faults_is_refused() {
        let refused = Plan::new(faults::all().to_vec(), Duration::from_secs(60), 1);
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("give it more time or name fewer"), "{error}");
    }
}
