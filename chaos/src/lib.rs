//! Trials: a cluster of real processes under faults, clients that write down what they asked and were told, and what
//! that proves.
//!
//! | folder | what it holds |
//! |---|---|
//! | `cluster/` | the processes, the proxies that every link goes through, the bucket with its faults |
//! | `faults/` | what can be done to a cluster, by name |
//! | `workload/` | the clients |
//! | `run/` | the course of a run, its report and its picture |
//! | `checker/` | a history in, every anomaly out |
//! | `disk/` | disks that lose their power, hang, fail and are full; clocks that jump |
//! | `audit/` | controllers against each other, the index against the bucket; also for operators |
//!
//! A harness error voids a run; it never passes it.

mod audit;
mod checker;
mod clock;
mod cluster;
mod disk;
mod error;
mod faults;
mod history;
mod random;
mod recorder;
mod run;
mod workload;

/// What a run is made of: for the simulation, whose machines, network and store are of another kind.
pub mod parts {
    pub use crate::cluster::{Access, admin};
    pub use crate::recorder::{HARNESS, Recorder};
    pub use crate::run::{Drained, audit, drain_and_probe};
    pub use crate::workload::{Crew, LogTopic, World, run as run_clients};
}

pub use audit::{
    Audit, AuditError, AuditReport, Entry, NoWitness, Problem, Replica, Replicas, Witness,
};
pub use checker::{Anomaly, AnomalyKind, Report, check};
pub use cluster::Storage;
pub use disk::{Disk, Tail};
pub use error::ChaosError;
pub use faults::{FaultSpec, Needs, all as all_faults};
pub use history::{
    Alarm, Answer, Ask, Event, Failure, History, HistoryError, Operation, Outcome, Partition, Read,
    Value,
};
pub use random::Random;
pub use run::{
    Counts, FaultRun, Gaps, Judged, Options, Progress, RunReport, Stood, Verdict, judge, run,
};
