//! What can go wrong with a store, per operation, and what the caller may conclude from it.

use std::io;
use std::path::PathBuf;

/// Why a store could not be opened. None of these is cured by trying again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one that names a store. `url` never shows userinfo or a query.
    #[error("store URL {url:?}: {reason}")]
    Url { url: String, reason: String },
    /// The URL is fine, the options (environment or explicit) are not.
    #[error("store {url}: {reason}")]
    Options { url: String, reason: String },
    /// A `file://` store's folder cannot be made, written or synced.
    #[error("store {url}: folder {}: {action}: {source}", path.display())]
    Folder { url: String, path: PathBuf, action: &'static str, source: io::Error },
}

/// Why a write, a delete or a sync did not report success.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PutError {
    /// No connection was made.
    #[error("store {store} cannot be reached to write {key}: {cause}")]
    Unavailable { store: String, key: String, cause: String },
    /// The request may have arrived: time-out, reset, server error.
    #[error("store {store} did not confirm the write of {key}, it may have happened: {cause}")]
    Ambiguous { store: String, key: String, cause: String },
    /// The store asks for fewer requests.
    #[error("store {store} asks to slow down, writing {key}: {cause}")]
    Throttled { store: String, key: String, cause: String },
    /// The credentials are missing, wrong, or do not allow it.
    #[error("store {store} denies writing {key}: {cause}")]
    Denied { store: String, key: String, cause: String },
    /// No space or quota left.
    #[error("store {store} is full, writing {key}: {cause}")]
    Full { store: String, key: String, cause: String },
    /// The folder or its file system does not take writes.
    #[error("store {store} cannot be written, at {key}: {cause}")]
    ReadOnly { store: String, key: String, cause: String },
    /// The disk failed, or the folder is not what it should be. After a failed sync nothing unsynced can be
    /// trusted, so it is not tried again.
    #[error("store {store} failed writing {key}: {cause}")]
    Fatal { store: String, key: String, cause: String },
    /// The store understood and refused: no such bucket, a bad key, an operation it does not know.
    #[error("store {store} refuses to write {key}: {cause}")]
    Invalid { store: String, key: String, cause: String },
}

impl PutError {
    /// Whether the same write, with the same key and bytes, may succeed later.
    #[must_use]
    pub fn can_retry(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::Ambiguous { .. }
            | Self::Throttled { .. }
            | Self::Full { .. } => true,
            Self::Denied { .. }
            | Self::ReadOnly { .. }
            | Self::Fatal { .. }
            | Self::Invalid { .. } => false,
        }
    }

    /// Whether the write may have taken effect, now or after this answer.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            // A proxy may answer 503 for a request that it passed on.
            Self::Ambiguous { .. } | Self::Throttled { .. } => true,
            // On a disk the failing step may be the one after the file got its name.
            Self::Full { .. } | Self::ReadOnly { .. } | Self::Fatal { .. } => true,
            Self::Unavailable { .. } | Self::Denied { .. } | Self::Invalid { .. } => false,
        }
    }
}

/// Why a read did not deliver. Reads have no effect, so they leave one question.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GetError {
    /// The store has no such object.
    #[error("store {store} has no object {key}")]
    NotFound { store: String, key: String },
    /// Not reached, timed out, reset, or a server error.
    #[error("store {store} did not answer for {key}: {cause}")]
    Unavailable { store: String, key: String, cause: String },
    /// The store asks for fewer requests.
    #[error("store {store} asks to slow down, reading {key}: {cause}")]
    Throttled { store: String, key: String, cause: String },
    /// The credentials are missing, wrong, or do not allow it.
    #[error("store {store} denies reading {key}: {cause}")]
    Denied { store: String, key: String, cause: String },
    /// The object holds fewer bytes than were asked for.
    #[error(
        "store {store}: object {key} holds {got} of the {wanted} bytes asked for from byte {from}"
    )]
    Short { store: String, key: String, from: u64, wanted: u64, got: u64 },
    /// Anything else: a failing disk, an answer that is not one.
    #[error("store {store} failed reading {key}: {cause}")]
    Other { store: String, key: String, cause: String },
}

impl GetError {
    /// Whether the same read may succeed later.
    #[must_use]
    pub fn can_retry(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Throttled { .. } => true,
            Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Short { .. }
            | Self::Other { .. } => false,
        }
    }
}

/// Why a store is not fit to hold StreamHouse's objects, or could not show that it is.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProbeError {
    /// Several writers of one key were told that they had created it.
    #[error(
        "the store {store} does not honour create-only PUT: {winners} of {attempts} concurrent creates of one key won"
    )]
    NotExclusive { store: String, winners: usize, attempts: usize },
    /// A fresh key was "already there" for every writer.
    #[error(
        "the store {store} does not honour create-only PUT: none of {attempts} concurrent creates of one key won"
    )]
    NoWinner { store: String, attempts: usize },
    /// A second create of an existing key was told that it had created it.
    #[error(
        "the store {store} does not honour create-only PUT: an existing object was created again"
    )]
    Overwrites { store: String },
    /// The object that was read is not the one whose writer won.
    #[error("the store {store} returned other bytes than the winning create wrote ({what})")]
    WrongBytes { store: String, what: &'static str },
    /// A write failed in a way that a retry does not cure, or kept failing.
    #[error("the store could not be probed: {0}")]
    Put(#[from] PutError),
    /// A read failed in a way that a retry does not cure, or kept failing.
    #[error("the store could not be probed: {0}")]
    Get(#[from] GetError),
}

impl ProbeError {
    /// Whether probing again later may succeed.
    #[must_use]
    pub fn can_retry(&self) -> bool {
        match self {
            Self::Put(error) => error.can_retry(),
            Self::Get(error) => error.can_retry(),
            Self::NotExclusive { .. }
            | Self::NoWinner { .. }
            | Self::Overwrites { .. }
            | Self::WrongBytes { .. } => false,
        }
    }
}
