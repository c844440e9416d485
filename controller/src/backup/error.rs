//! What can go wrong with a backup.

use super::file::{DecodeError, EncodeError};
use streamhouse_proto::advice;
use streamhouse_proto::v1::ErrorInfo;
use streamhouse_store::{GetError, OpenError, PutError};

/// Why a backup was not taken, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The URL names no backup, or no place for one.
    #[error("{0}")]
    Place(String),
    /// It does not name a store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file is there, and cannot be used.
    #[error("backup {url} {error}")]
    File {
        /// Where it is.
        url: String,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The store that was given for the objects is not the cluster's.
    #[error("the store {store} is not the one that cluster {cluster} wrote to: {key} is not there")]
    Foreign {
        /// Its URL.
        store: String,
        /// The cluster of the backup.
        cluster: String,
        /// The marker's key.
        key: String,
    },
    /// What was said about the objects does not fit the backup.
    #[error("backup {url} {problem}")]
    Objects {
        /// Where the backup is.
        url: String,
        /// What it says of the store, and what to say instead.
        problem: &'static str,
    },
    /// The store does not take it.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The store does not give it out, or not the objects.
    #[error(transparent)]
    Get(#[from] GetError),
    /// The state cannot be backed up.
    #[error(transparent)]
    State(#[from] EncodeError),
    /// The controllers refuse, or cannot be reached.
    #[error("{message}")]
    Cluster {
        /// A retry may help.
        retryable: bool,
        /// Why not.
        message: String,
    },
}

impl BackupError {
    /// The same may succeed later.
    pub fn can_retry(&self) -> bool {
        match self {
            Self::Place(_)
            | Self::Open(_)
            | Self::File { .. }
            | Self::Foreign { .. }
            | Self::Objects { .. } => false,
            Self::Put(error) => error.can_retry(),
            Self::Get(error) => error.can_retry(),
            Self::State(EncodeError::NotNow(_)) => true,
            Self::State(EncodeError::State(_)) => false,
            Self::Cluster { retryable, .. } => *retryable,
        }
    }
}

impl From<ErrorInfo> for BackupError {
    fn from(error: ErrorInfo) -> Self {
        Self::Cluster { retryable: advice(error.code()).retryable, message: error.message }
    }
}
