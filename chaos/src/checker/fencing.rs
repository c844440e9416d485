//! Producers that another one has taken over from (DEDUP): nothing that they send after that is acknowledged.

use std::collections::HashMap;

use super::anomaly::{AnomalyKind, Report};
use crate::history::{History, Operation, Outcome, Value};

pub(super) fn check(history: &History, report: &mut Report) {
    // By process: the event by which it was taken over from.
    let mut over: HashMap<u32, usize> = HashMap::new();
    // Sends of such processes.
    let mut late: HashMap<Value, usize> = HashMap::new();
    for (event, line) in history.events.iter().enumerate() {
        match (&line.operation, line.outcome) {
            (Operation::TakeOver { from }, Outcome::Ok) => {
                over.entry(*from).or_insert(event);
            }
            (Operation::Send { value, .. }, Outcome::Invoke) => {
                if let Some(taken) = over.get(&line.process) {
                    late.insert(*value, *taken);
                }
            }
            (Operation::Send { at, value, offset, .. }, Outcome::Ok) => {
                if let Some(taken) = late.get(value) {
                    let detail = format!(
                        "{value} was acknowledged at {at}@{offset:?}, sent by a producer that had been taken over from"
                    );
                    report.found(AnomalyKind::ZombieSend, detail, vec![*taken, event]);
                }
            }
            _ => {}
        }
    }
}
