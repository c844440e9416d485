//! What the `raft` column family holds: one key each, encoded by
//! [`codec::encode_serde`] unless said otherwise.

use super::db::{Db, ReadError};
use super::hash;
use super::types::{DiskId, LogId, StoredMembership, Vote};
use crate::codec;
use serde::{Deserialize, Serialize};

/// [`Identity`], written when the directory is first opened.
pub(crate) const IDENTITY: &[u8] = b"identity";
/// [`Vote`]; synced before it is acknowledged.
pub(crate) const VOTE: &[u8] = b"vote";
/// [`LogId`] of the last purged entry, written with the purge.
pub(crate) const PURGED: &[u8] = b"purged";
/// [`LogId`] of the last entry known to be committed; may lag.
pub(crate) const COMMITTED: &[u8] = b"committed";
/// [`AppliedMeta`], written with the state it describes.
pub(crate) const APPLIED: &[u8] = b"applied";
/// Empty value: a committed membership has named this node with this disk.
/// Not synced: one that is lost is written again, or is not needed.
pub(crate) const MEMBER: &[u8] = b"member";
/// Name of the snapshot file (UTF-8) whose installation has begun and not
/// ended; the state is a mixture while this exists.
pub(crate) const INSTALLING: &[u8] = b"installing";

/// Whose directory this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Its number; 0 until the cluster has given it one.
    pub(crate) node: u64,
    pub(crate) disk: DiskId,
    /// The number under which the operator starts it, if that is another: one
    /// that it replaces in the same directory. 0 for none.
    pub(crate) alias: u64,
}

impl Identity {
    /// Whether this directory may be started as controller `node`.
    pub(crate) fn answers_to(&self, node: u64) -> bool {
        node == self.node || (self.alias != 0 && node == self.alias)
    }
}

/// What the state is the state of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppliedMeta {
    /// The last applied entry.
    pub(crate) last_applied: Option<LogId>,
    /// The last applied membership.
    pub(crate) membership: StoredMembership,
    /// See [`hash`].
    pub(crate) state_hash: u128,
    /// The id of the first applied `InitCluster`: peers of another cluster
    /// are refused.
    pub(crate) cluster: Option<[u8; 16]>,
}

impl AppliedMeta {
    /// Decodes what [`APPLIED`] holds; a state that nothing was applied to
    /// has no such key.
    pub(crate) fn decode(bytes: Option<&[u8]>) -> Result<Self, String> {
        match bytes {
            Some(bytes) => codec::decode_serde(bytes).map_err(|e| format!("applied state: {e}")),
            None => Ok(Self { state_hash: hash::EMPTY, ..Self::default() }),
        }
    }

    pub(crate) fn load(db: &Db) -> Result<Self, ReadError> {
        Self::decode(db.get_raft(APPLIED)?.as_deref()).map_err(ReadError::Damaged)
    }

    /// Index of the last applied entry, 0 before the first.
    pub(crate) fn index(&self) -> u64 {
        self.last_applied.map_or(0, |id| id.index)
    }
}

/// The saved vote.
pub(crate) fn load_vote(db: &Db) -> Result<Option<Vote>, ReadError> {
    load(db, VOTE)
}

/// The saved id at [`PURGED`] or [`COMMITTED`].
pub(crate) fn load_log_id(db: &Db, key: &[u8]) -> Result<Option<LogId>, ReadError> {
    load(db, key)
}

fn load<T: serde::de::DeserializeOwned>(db: &Db, key: &[u8]) -> Result<Option<T>, ReadError> {
    let bytes = db.get_raft(key)?;
    let value = bytes.as_deref().map(codec::decode_serde).transpose();
    value.map_err(|e| ReadError::Damaged(format!("{}: {e}", String::from_utf8_lossy(key))))
}
