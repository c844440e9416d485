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
//! | `alarms.rs` | what consumers say of the log themselves |
//! | `fencing.rs` | producers that another one has taken over from |
//! | `meta.rs` | each key of the metadata by itself: is there an order that explains all answers? |
//!
//! Facts are taken from the history alone. All but `meta.rs` take time linear in the history's size, but for maps in
//! order; `meta.rs` is exponential in the worst case and gives up at a bound, which the report then says.

mod alarms;
mod anomaly;
mod fencing;
mod groups;
mod index;
mod leases;
mod log;
mod meta;
mod offsets;
mod polls;

pub use anomaly::{Anomaly, AnomalyKind, Report};

use crate::history::{Event, History, Operation, Outcome, Reached};
use std::collections::HashMap;

/// Checks a whole history.
pub fn check(history: &History) -> Report {
    check_so_far(history, Reached::END)
}

/// Checks the history of a run that got so far. Rules by which something is missing are kept only where it was looked for.
pub(crate) fn check_so_far(history: &History, reached: Reached) -> Report {
    let mut report = Report::default();
    let log = log::Log::gather(history, &mut report);
    log.check(reached, &mut report);
    polls::check(history, &log, &mut report);
    alarms::check(history, &mut report);
    index::check(history, &log, reached, &mut report);
    leases::check(history, &mut report);
    offsets::check(history, &mut report);
    groups::check(history, &log, &mut report);
    fencing::check(history, &mut report);
    meta::check(history, &mut report);
    check_replicas(history, &mut report);
    check_probes(history, &mut report);
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

fn check_probes(history: &History, report: &mut Report) {
    for (position, event) in history.events.iter().enumerate() {
        let Event { outcome: Outcome::Fail | Outcome::Info, operation, .. } = event else {
            continue;
        };
        if let Operation::Probe { at, problem } = operation {
            let detail = format!("partition {at} after healing: {problem}");
            report.found(AnomalyKind::StuckPartition, detail, vec![position]);
        }
    }
}
