//! The audit at the end of a run, written into its history.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::{Audit, AuditReport, Entry, NoWitness, Problem, Witness};
use crate::clock;
use crate::error::ChaosError;
use crate::history::{Operation, Outcome, Partition};
use crate::recorder::{HARNESS, Recorder};
use crate::workload::World;

/// How long the controllers may take to be identical.
const IDENTICAL: Duration = Duration::from_secs(60);
/// How long the collector may take to find everything that nothing refers to, once nobody writes: its interval, the
/// grace, and what it takes to have another agent collect.
const COLLECTED: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Compares controllers, index and bucket, and waits for the collector to have done its work.
pub async fn audit(world: &World) -> Result<AuditReport, ChaosError> {
    let audit = Audit {
        controllers: world.access.direct.clone(),
        store: world.access.direct_store.clone(),
        deep: true,
        patience: IDENTICAL,
    };
    let numbers = world.topics.iter().zip(0..).map(|(topic, n)| (topic.name.to_string(), n));
    let mut scribe = Scribe { numbers: numbers.collect(), recorder: Arc::clone(&world.recorder) };
    let report = audit.run(&mut scribe).await;
    let mut report = report.map_err(|error| ChaosError::Cluster(format!("the audit: {error}")))?;
    for replica in &report.replicas.controllers {
        let (controller, applied) = (replica.controller, replica.applied);
        let hash = replica.state_hash.clone();
        scribe.note(Operation::Replica { controller, applied, hash });
    }
    report.problems.iter().for_each(|problem| scribe.problem(problem));
    let (orphans, later) = orphans(world).await?;
    // The collector may take away what is needed, too, while it is waited for.
    for problem in later {
        if !report.problems.contains(&problem) {
            scribe.problem(&problem);
            report.problems.push(problem);
        }
    }
    for object in orphans {
        scribe.note(Operation::Orphan { object });
    }
    scribe.note(Operation::Audited);
    Ok(report)
}

/// What the collector has left though nothing refers to it, nobody writes, and it had time; and what was found to be wrong
/// meanwhile.
async fn orphans(world: &World) -> Result<(Vec<String>, Vec<Problem>), ChaosError> {
    let audit = Audit {
        controllers: world.access.direct.clone(),
        store: world.access.direct_store.clone(),
        deep: false,
        patience: IDENTICAL,
    };
    let deadline = clock::now() + COLLECTED;
    let mut found = Vec::new();
    loop {
        let report = audit.run(&mut NoWitness).await;
        let report = report.map_err(|error| ChaosError::Cluster(format!("the audit: {error}")))?;
        let last = report.unreferenced.is_empty() || clock::now() >= deadline;
        keep(&mut found, report.problems, last);
        if last {
            return Ok((report.unreferenced, found));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Adds what a look has found. That controllers were not compared may be over by the next one; all else was wrong for good,
/// though another look may not meet it.
fn keep(found: &mut Vec<Problem>, looked: Vec<Problem>, last: bool) {
    for problem in looked {
        let counts = match problem {
            Problem::NotCompared { .. } => last,
            Problem::ReplicaDivergence { .. }
            | Problem::NotDense { .. }
            | Problem::DanglingIndex { .. }
            | Problem::CorruptSlice { .. } => true,
        };
        if counts && !found.contains(&problem) {
            found.push(problem);
        }
    }
}

/// Writes down what belongs to the log workload's topics.
struct Scribe {
    numbers: HashMap<String, u32>,
    recorder: Arc<Recorder>,
}

impl Scribe {
    fn note(&self, operation: Operation) {
        self.recorder.record(HARNESS, Outcome::Ok, operation);
    }

    fn at(&self, topic: &str, partition: u32) -> Option<Partition> {
        Some(Partition { topic: *self.numbers.get(topic)?, partition })
    }

    fn problem(&self, problem: &Problem) {
        match problem {
            Problem::ReplicaDivergence { applied, hashes } => {
                for (controller, hash) in hashes {
                    let (controller, applied, hash) = (*controller, *applied, hash.clone());
                    self.note(Operation::Replica { controller, applied, hash });
                }
            }
            Problem::DanglingIndex { object, .. } => {
                self.note(Operation::Missing { object: object.clone() });
            }
            Problem::CorruptSlice { object, at, base, reason } => {
                let parts = at.rsplit_once('/');
                let at = parts.and_then(|(topic, n)| self.at(topic, n.parse().ok()?));
                let at = at.unwrap_or(Partition { topic: u32::MAX, partition: 0 });
                let (object, problem) = (object.clone(), reason.clone());
                self.note(Operation::Damaged { object, at, base: *base, problem });
            }
            // The checker sees the first by itself; the second is the report's.
            Problem::NotDense { .. } | Problem::NotCompared { .. } => {}
        }
    }
}

impl Witness for Scribe {
    fn partition(&mut self, topic: &str, partition: u32, log_start: u64, high_watermark: u64) {
        if let Some(at) = self.at(topic, partition) {
            self.note(Operation::Extent { at, log_start, high_watermark });
        }
    }

    fn entry(&mut self, topic: &str, partition: u32, entry: &Entry) {
        let Some(at) = self.at(topic, partition) else { return };
        self.note(Operation::Entry {
            at,
            base: entry.base,
            last: entry.last,
            epoch: entry.epoch,
            session: entry.object.session.0,
            object: entry.object.key(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wrong_once_stays_wrong_though_the_next_look_does_not_meet_it() {
        let differ = || Problem::ReplicaDivergence { applied: 7, hashes: [].into() };
        let busy = || Problem::NotCompared { reason: "one does not answer".to_owned() };
        let mut found = Vec::new();
        keep(&mut found, vec![busy(), differ()], false);
        keep(&mut found, vec![differ()], false);
        assert_eq!(found, [differ()]);
        keep(&mut found, vec![busy()], true);
        assert_eq!(found, [differ(), busy()]);
    }
}
