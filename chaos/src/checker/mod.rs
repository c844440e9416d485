//! The checker: a history in, every anomaly in it out, with the operations that prove it.
//!
//! | file | what it looks at |
//! |---|---|
//! | `log.rs` | what was sent and acknowledged against what was read |
//! | `polls.rs` | the order in which each consumer was handed records |
//! | `index.rs` | the final index against itself, against what was acknowledged and against the store |
//! | `leases.rs` | epochs as they were seen, and as the index has them |
//! | `offsets.rs` | consumers' committed offsets |
//! | `groups.rs` | members of groups: who owns what, who may commit it, and whether all of it was handed out |
//! | `watermarks.rs` | where each log begins and ends, as it was seen |
//! | `alarms.rs` | what consumers say of the log themselves |
//! | `fencing.rs` | producers that another one has taken over from |
//! | `meta.rs` | each key of the metadata by itself: is there an order that explains all answers? |
//! | `form.rs` | whether it is a history: answers to what was asked, in order |
//!
//! Facts are taken from the history alone. An operation that may have happened explains one effect, of its own value,
//! and none before it was asked. All but `meta.rs` take time linear in the history's size, but for maps in order;
//! `meta.rs` is exponential in the worst case and gives up at a bound, which the report then says: such a history has
//! not passed.

mod alarms;
mod anomaly;
mod fencing;
mod form;
mod groups;
mod index;
mod leases;
mod log;
mod meta;
mod offsets;
mod polls;
mod watermarks;

pub use anomaly::{Anomaly, AnomalyKind, Report};

use std::collections::{BTreeMap, HashMap};

use crate::history::{History, Operation, Outcome, Partition, Reached};

/// Checks a whole history.
pub fn check(history: &History) -> Report {
    check_so_far(history, Reached::END)
}

/// Checks the history of a run that got so far. Rules by which something is missing are kept only where it was looked for.
pub(crate) fn check_so_far(history: &History, reached: Reached) -> Report {
    let mut report = Report::default();
    form::check(history, &mut report);
    let log = log::Log::gather(history, &mut report);
    log.check(reached, &mut report);
    polls::check(history, &log, &mut report);
    alarms::check(history, &mut report);
    index::check(history, &log, reached, &mut report);
    leases::check(history, &mut report);
    watermarks::check(history, &log, &mut report);
    offsets::check(history, &mut report);
    groups::check(history, &log, &mut report);
    fencing::check(history, &mut report);
    meta::check(history, &mut report);
    check_replicas(history, &mut report);
    check_probes(history, reached, &mut report);
    report
}

/// PURE: two replicas at one applied index have one hash.
fn check_replicas(history: &History, report: &mut Report) {
    let mut first: HashMap<u64, (usize, u64, &str)> = HashMap::new();
    for (at, event) in history.events.iter().enumerate() {
        let Operation::Replica { controller, applied, hash } = &event.operation else { continue };
        let (seen, other, known) = *first.entry(*applied).or_insert((at, *controller, hash));
        if known != hash {
            let detail = format!(
                "at index {applied} controller {other} has state {known}, controller {controller} has {hash}"
            );
            report.found(AnomalyKind::ReplicaDivergence, detail, vec![seen, at]);
        }
    }
}

fn check_probes(history: &History, reached: Reached, report: &mut Report) {
    let mut probed: BTreeMap<Partition, usize> = BTreeMap::new();
    for (position, event) in history.events.iter().enumerate() {
        let Operation::Probe { at, problem } = &event.operation else { continue };
        match event.outcome {
            Outcome::Invoke => drop(probed.insert(*at, position)),
            Outcome::Ok => drop(probed.remove(at)),
            Outcome::Fail | Outcome::Info => {
                probed.remove(at);
                let detail = format!("partition {at} after healing: {problem}");
                report.found(AnomalyKind::StuckPartition, detail, vec![position]);
            }
        }
    }
    // In a run that was broken off nobody waited for it.
    let unanswered = probed.into_iter().filter(|_| reached.audited);
    for (at, position) in unanswered {
        let detail = format!("partition {at} after healing: nobody knows whether it was written");
        report.found(AnomalyKind::StuckPartition, detail, vec![position]);
    }
}
