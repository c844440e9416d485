//! What applying a command answers, and what it changed.
//!
//! Replies are stored for RETRY, so they follow the rules of [`crate::codec`].

use super::collector::CollectorReply;
use super::command::{GenerationKey, PartitionKey, ProducerEpoch, TopicKey};
use super::groups::MemberId;
use bincode::{Decode, Encode};

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// Done; nothing to tell.
    Done,
    /// The command was refused without effect.
    Refused(Refusal),
    /// A topic was created, or is being created, or was deleted.
    Topic(TopicKey),
    /// A session was opened (or found, for a retried registration).
    Session(u64),
    /// One per object of the commit.
    Objects(Vec<ObjectReply>),
    /// One per offset of the commit.
    Offsets(Vec<Option<Refusal>>),
    /// Whether more chunks are waiting.
    Continued {
        /// Propose `Continue` again.
        more: bool,
    },
    /// A controller's number.
    Controller(u64),
    /// A restore has begun, or goes on.
    Restoring {
        /// The generation that it mints.
        generation: GenerationKey,
        /// The part that comes next.
        next_part: u64,
    },
    /// One per slice of a `RestoreSlices`.
    Restored(Vec<Option<Refusal>>),
    /// A producer's id and epoch.
    Producer(ProducerEpoch),
    /// A member of a group, and the group epoch as of which it is one.
    Member {
        /// See [`Member`](super::groups::Member).
        epoch: u32,
    },
    /// To a step of the collector.
    Collector(CollectorReply),
}

/// Why a command, or a part of it, was refused.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// Name, partition count, configuration or another argument is wrong.
    Invalid(String),
    /// No such topic.
    UnknownTopic(String),
    /// The topic has no such partition.
    UnknownPartition(PartitionKey),
    /// The name is taken.
    TopicExists(String),
    /// The session has ended, or never was.
    SessionEnded(u64),
    /// The record of this request has expired; it may have been applied.
    OutcomeUnknown,
    /// A commit that is not the session's next.
    OutOfOrder {
        /// What must come next.
        expected: u64,
    },
    /// Another session holds the lease, or none does.
    NotHolder,
    /// Written under an epoch that has ended, or at an offset that is not the
    /// partition's next.
    Stale,
    /// Another store than the cluster's.
    StoreMismatch {
        /// The cluster's.
        expected: String,
    },
    /// An older request than one already applied.
    Superseded,
    /// A limit of the cluster.
    Limit(String),
    /// A backup is being restored; nothing else changes until that has ended.
    Restoring,
    /// A backup is restored into an empty cluster only, and by one restore.
    NotRestorable(String),
    /// The producer's epoch is over.
    ProducerFenced {
        /// Who asked.
        producer: ProducerEpoch,
        /// The id's epoch now.
        current: u16,
    },
    /// No producer has this id or epoch, or none has any more.
    UnknownProducer(u64),
    /// Batches of idempotent producers that keep their slice from being
    /// accepted, in order.
    Batches(Vec<BatchRefusal>),
    /// No member of the group, or no longer one.
    FencedMember(String),
    /// An epoch that is not the member's, or not yet the group's.
    StaleMember {
        /// The group's epoch.
        epoch: u32,
    },
    /// The member does not own the partition, or has not since that epoch.
    NotOwner(PartitionKey),
    /// Only a group without members can be changed so.
    GroupNotEmpty {
        /// The group.
        group: String,
        /// How many it has.
        members: u32,
    },
    /// No such consumer group.
    UnknownGroup(String),
    /// The group is being removed.
    GroupBusy(String),
}

/// A batch for which its slice was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BatchRefusal {
    /// Its place among the slice's batches of idempotent producers.
    pub index: u32,
    /// What is wrong with it.
    pub fault: BatchFault,
}

/// Why a batch of an idempotent producer cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum BatchFault {
    /// It was committed before; its base offset, while that is kept.
    Committed(Option<u64>),
    /// Its epoch is over.
    Fenced {
        /// The producer's epoch now.
        current: u16,
    },
    /// No producer has this id or epoch, or none has any more.
    Unknown,
    /// Not the producer's next one.
    OutOfOrder {
        /// The sequence number that comes next.
        expected: u32,
    },
    /// The partition remembers as many producers as it may.
    TooMany,
}

/// What became of one object of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ObjectReply {
    /// Processed: one per slice, or per abandoned partition.
    Processed(Vec<SliceReply>),
    /// Not processed as a whole.
    Refused(Refusal),
}

/// What became of one slice.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SliceReply {
    /// `None` if it was accepted.
    pub refusal: Option<Refusal>,
    /// The partition's lease epoch after the command.
    pub lease_epoch: u32,
    /// The partition's next offset after the command.
    pub next_offset: u64,
    /// Whether the session still holds the lease.
    pub still_holder: bool,
}

/// Something that watchers care about; they read the state for the details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Records were added: the partition's new next offset.
    Appended(PartitionKey, u64),
    /// Holder, epoch or revocation of a partition changed; `was` held it.
    Lease {
        /// Which.
        partition: PartitionKey,
        /// The session that held it before, 0 if none.
        was: u64,
        /// The session that holds it now, 0 if none.
        now: u64,
        /// For operators.
        why: LeaseChange,
    },
    /// An object's commit, or some of its slices, was refused now; one that
    /// was refused before and is answered again is not told again.
    CommitRefused {
        /// Whose commit.
        session: u64,
        /// The session's number for the object.
        sequence: u64,
        /// How many slices it has.
        slices: usize,
        /// What was refused, and why; a partition is missing where the object
        /// was refused as a whole.
        refused: Vec<(Option<PartitionKey>, Refusal)>,
    },
    /// A commit of group offsets, or some of it, was refused.
    OffsetsRefused {
        /// The group, as it was named.
        group: String,
        /// See `CommitRefused`.
        refused: Vec<(Option<PartitionKey>, Refusal)>,
    },
    /// A session was opened.
    SessionOpened(u64),
    /// A session has ended.
    SessionEnded(u64),
    /// A topic was created and is ready.
    TopicReady(TopicKey),
    /// A topic was deleted.
    TopicDeleted(TopicKey),
    /// The cluster got its identity or its store.
    Cluster,
    /// Chunks are waiting for `Continue`.
    WorkPending,
    /// A group has a new member, or a member wants something else.
    MemberJoined {
        /// The group.
        group: String,
        /// Who.
        member: MemberId,
        /// How long it may be silent.
        session_timeout_ms: u32,
    },
    /// A group has a member less.
    MemberLeft {
        /// The group.
        group: String,
        /// Who.
        member: MemberId,
        /// Why.
        why: LeftBecause,
    },
    /// Who owns or is to own partitions of a group has changed.
    Assigned {
        /// The group.
        group: String,
        /// Its epoch now.
        epoch: u32,
        /// Partitions that changed hands.
        owners: Vec<OwnerChange>,
        /// Members that must hear of it, the gone ones included.
        members: Vec<MemberId>,
    },
    /// A consumer group was removed, with its offsets.
    GroupDeleted(String),
}

/// A partition of a group that changed hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerChange {
    /// Which.
    pub partition: PartitionKey,
    /// Who owned it before, perhaps a member no more.
    pub was: Option<MemberId>,
    /// Who owns it now.
    pub now: Option<MemberId>,
    /// Why.
    pub why: MovedBecause,
}

/// Why a partition of a group changed hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MovedBecause {
    /// Nobody owned it.
    Unowned,
    /// Its owner gave it up as asked.
    Released,
    /// Its owner is a member no more: of an earlier entry, which says why.
    OwnerGone,
    /// Its owner's instance has joined again, in this entry.
    Replaced,
    /// Its topic is gone.
    TopicGone,
}

impl MovedBecause {
    /// The reason in a log line.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unowned => "nobody owned it",
            Self::Released => "its owner gave it up",
            Self::OwnerGone => "its owner is a member no more",
            Self::Replaced => "its owner's instance has joined again",
            Self::TopicGone => "its topic is gone",
        }
    }
}

/// Why a member is one no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftBecause {
    /// It said so.
    Left,
    /// Nothing was heard of it for its session timeout.
    Expired,
    /// The same instance has joined again.
    Replaced,
}

impl LeftBecause {
    /// The reason in a log line.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Left => "it left",
            Self::Expired => "it was silent for its session timeout",
            Self::Replaced => "its instance has joined again",
        }
    }
}

/// Why a partition's lease changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// The partition was created.
    Created,
    /// Nobody could hold it before, and somebody can now.
    Waited,
    /// The holder's session ended.
    SessionEnded,
    /// The holder is asked to flush and release it.
    Revoked,
    /// The holder released it after it was asked to.
    Released,
    /// The holder did not release it in time.
    Overdue,
    /// A slice of the current epoch was refused; the holder stays.
    SliceRefused,
    /// The holder gave up an object; it stays the holder.
    Abandoned,
    /// The partition was deleted.
    Deleted,
}

impl LeaseChange {
    /// The reason in a log line.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Created => "the partition was created",
            Self::Waited => "an agent came for a partition without one",
            Self::SessionEnded => "the holder's session ended",
            Self::Revoked => "the holder is asked to release it",
            Self::Released => "the holder released it as asked, to balance or to drain",
            Self::Overdue => "the holder did not release it in time",
            Self::SliceRefused => "a slice of the current epoch was refused",
            Self::Abandoned => "the holder gave up an object",
            Self::Deleted => "the partition was deleted",
        }
    }
}
