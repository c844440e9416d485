//! What can go wrong with a trial itself. It voids the run; it never passes it.

use std::io;

/// A trial that could not be held.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The machine did not do what the suite needs.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// The cluster did not get to where a run can begin or go on.
    #[error("{0}")]
    Cluster(String),
    /// A fault could not be installed or healed.
    #[error("fault {fault}: {problem}")]
    Fault {
        /// Its name.
        fault: &'static str,
        /// Why not.
        problem: String,
    },
    /// The cluster did, under a fault, what it must not.
    #[error("{0}")]
    Finding(String),
    /// A client or a task of the suite failed in a way that says nothing about the cluster.
    #[error("the harness: {0}")]
    Harness(String),
    /// Ctrl-C.
    #[error("interrupted; every process was ended")]
    Interrupted,
}

impl ChaosError {
    /// It says something about the cluster, and not about the suite or the machine.
    pub(crate) fn is_of_cluster(&self) -> bool {
        match self {
            Self::Cluster(_) | Self::Finding(_) => true,
            Self::Usage(_)
            | Self::Io { .. }
            | Self::Fault { .. }
            | Self::Harness(_)
            | Self::Interrupted => false,
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { what: what.into(), error }
    }
}
