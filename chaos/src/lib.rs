//! What a trial saw, and what that proves: histories and the checker.
//!
//! A history is JSON lines, two events per operation: `invoke`, then `ok`,
//! `fail` (certainly did not happen) or `info` (may have happened). The
//! checker reads one and names every anomaly with the operations that prove
//! it. The names, and the idea of the log workload, are those of Jepsen's
//! Kafka tests.

mod checker;
mod history;

pub use checker::{Anomaly, AnomalyKind, Report, check};
pub use history::{Event, History, HistoryError, Operation, Outcome, Read, Value};
