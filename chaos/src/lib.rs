//! What a trial saw, and what that proves: histories and the checker.

mod checker;
mod history;

pub use checker::{Anomaly, AnomalyKind, Report, check};
pub use history::{
    Answer, Ask, Event, History, HistoryError, Operation, Outcome, Partition, Read, Value,
};
