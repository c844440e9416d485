//! The types that openraft is instantiated with.
//!
//! Commands travel through the log as opaque bytes: encoded once where they
//! are proposed, decoded once where they are applied.

use crate::codec;
use crate::state::reply::Reply;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

openraft::declare_raft_types!(
    /// Standard Raft (one leader per term) over tokio.
    pub(crate) TypeConfig:
        D = EncodedCommand,
        R = Applied,
        NodeId = u64,
        Node = ControllerNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Payload = openraft::alias::EntryPayloadOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot =
    openraft::alias::SnapshotOf<TypeConfig, super::snapshot_store::SnapshotFile>;
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;

/// A command as [`crate::codec`] encoded it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EncodedCommand(pub(crate) Bytes);

impl fmt::Debug for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

// openraft demands serde of every type; the log and the network use
// `super::entry` instead.
impl Serialize for EncodedCommand {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for EncodedCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::<u8>::deserialize(deserializer)?.into()))
    }
}

/// What applying one log entry answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The entry's index.
    pub(crate) index: u64,
    /// The state machine's answer; `Done` for entries that carry no command.
    pub(crate) reply: Reply,
}

impl Serialize for Applied {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.index, codec::encode(&self.reply)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Applied {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (index, reply) = <(u64, Vec<u8>)>::deserialize(deserializer)?;
        let reply = codec::decode(&reply).map_err(serde::de::Error::custom)?;
        Ok(Self { index, reply })
    }
}

/// The random id of a disk, made when its directory was first opened.
pub(crate) type DiskId = [u8; 16];

/// A member of the cluster, as the membership records it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ControllerNode {
    /// `host:port` under which it was first known.
    pub(crate) address: String,
    /// The disk that holds its log; messages for another disk are refused.
    pub(crate) disk: DiskId,
    /// The member whose place it takes once it has caught up; 0 for none.
    pub(crate) replaces: u64,
}
