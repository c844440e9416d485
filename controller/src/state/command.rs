//! The commands of the replicated log: everything that changes state.
//!
//! Stored in the log under the rules of [`crate::codec`]: variants and fields
//! are only ever appended. Time and random values travel inside (PURE, CLOCK).

use super::assignors::Assignor;
use super::collector::CollectorStep;
use super::controllers::DiskMark;
use super::features;
use super::groups::MemberId;
use bincode::{Decode, Encode};

/// A topic's UUID.
pub type TopicKey = [u8; 16];

/// One partition of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PartitionKey {
    /// The topic.
    pub topic: TopicKey,
    /// Partition number from 0.
    pub partition: u32,
}

/// One log entry.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Command {
    /// The leader's cluster time in milliseconds since the epoch, set by the
    /// leader when it proposes.
    pub time_ms: u64,
    /// RETRY: who asked, and as which of its requests.
    pub request: Option<RequestKey>,
    /// What to do.
    pub body: CommandBody,
}

/// Names one attempt of a mutating call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct RequestKey {
    /// Random, chosen once by the caller.
    pub requester: [u8; 16],
    /// Counts up from 1 per requester.
    pub number: u64,
}

/// The generation of a cluster: see DESIGN, "Records and objects".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct GenerationKey {
    /// 1 when created, one more with each restore or rebuild.
    pub counter: u32,
    /// Minted with the counter.
    pub random: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CommandBody {
    /// Gives a new cluster its identity; without effect on one that has it.
    InitCluster {
        /// Random.
        cluster: [u8; 16],
        /// The first generation.
        generation: GenerationKey,
    },
    /// Creates a topic; continued by `Continue` where it is large.
    CreateTopic {
        /// Random, used if the topic is created.
        topic: TopicKey,
        /// The name.
        name: String,
        /// How many.
        partitions: u32,
        /// The configuration, in key order.
        config: Vec<(String, String)>,
    },
    /// Deletes a topic by name; its partitions go by `Continue`.
    DeleteTopic {
        /// The name.
        name: String,
    },
    /// Opens a session; its id is the index of this entry.
    RegisterSession(Registration),
    /// Ends a session and fences its partitions.
    EndSession {
        /// Which.
        session: u64,
    },
    /// Revokes every lease of a session and grants it no new ones.
    DrainSession {
        /// Which.
        session: u64,
    },
    /// Gives leases back: partition and the epoch under which it was held.
    ReleaseLeases {
        /// Whose.
        session: u64,
        /// At most [`crate::state::MAX_BATCH`].
        leases: Vec<(PartitionKey, u32)>,
    },
    /// Puts a session's uploaded objects into the index.
    CommitObjects {
        /// Whose.
        session: u64,
        /// Ascending sequences without gap.
        objects: Vec<ObjectCommit>,
        /// The instance that registered it, as its agent has it.
        instance: [u8; 16],
    },
    /// Sets group offsets, outside membership.
    CommitOffsets {
        /// The group.
        group: String,
        /// Partition, next offset to read, metadata.
        offsets: Vec<(PartitionKey, u64, String)>,
    },
    /// Does the next chunk of whatever was too large for one entry, and
    /// expires what is due.
    Continue,
    /// How far the controllers' disks have got: all of them.
    MarkDisks(Vec<DiskMark>),
    /// Gives a new controller its number.
    AllocateController {
        /// Its disk.
        disk: [u8; 16],
        /// The highest number in the membership.
        above: u64,
    },
    /// Controller numbers up to this one are never given out.
    ReserveControllers {
        /// The highest of them.
        upto: u64,
    },
    /// Begins to restore a backup into this cluster, which must be empty.
    BeginRestore(RestoreStart),
    /// The next pairs of the backup.
    RestorePairs {
        /// The generation that the restore mints: which restore it is.
        restore: GenerationKey,
        /// Counts the parts from 0.
        part: u64,
        /// Key and value.
        pairs: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// Puts slices that were committed after the backup back into the index.
    RestoreSlices {
        /// See `RestorePairs`.
        restore: GenerationKey,
        /// At most [`crate::state::MAX_BATCH`] slices in all.
        objects: Vec<RestoredObject>,
    },
    /// The cluster takes the backup's identity and begins its new generation.
    EndRestore {
        /// See `RestorePairs`.
        restore: GenerationKey,
        /// How many parts the backup has.
        parts: u64,
    },
    /// From here on the cluster uses what this feature level adds: every
    /// controller reads it.
    RaiseFeatureLevel {
        /// See [`crate::state::features`].
        level: u32,
    },
    /// Gives a producer its id and epoch.
    InitProducer(ProducerRequest),
    /// Makes a member of a consumer group, or changes what one wants.
    JoinGroup(GroupJoin),
    /// Members are so no more.
    LeaveGroup {
        /// The group.
        group: String,
        /// At most [`crate::state::MAX_BATCH`].
        members: Vec<MemberId>,
        /// The leader has not heard of them for too long.
        expired: bool,
    },
    /// A member gives up partitions that it was asked for.
    ReleasePartitions {
        /// The group.
        group: String,
        /// Whose.
        member: MemberId,
        /// Partition, and the group epoch of its grant; at most
        /// [`crate::state::MAX_BATCH`].
        partitions: Vec<(PartitionKey, u32)>,
    },
    /// Sets group offsets as a member.
    CommitMemberOffsets {
        /// The group.
        group: String,
        /// Who.
        member: MemberId,
        /// The group epoch that it has heard of.
        epoch: u32,
        /// As in `CommitOffsets`.
        offsets: Vec<(PartitionKey, u64, String)>,
    },
    /// Removes a consumer group without members; its offsets go by `Continue`
    /// where they are many.
    DeleteGroup {
        /// The group.
        group: String,
    },
    /// Removes those of the groups in which nothing has happened for long.
    ExpireGroups {
        /// The candidates; at most [`crate::state::MAX_BATCH`].
        groups: Vec<String>,
        /// Cluster time before which the last thing must have happened.
        idle_before_ms: u64,
    },
    /// What the collector of unreachable objects asks, or its operator.
    Collect(CollectorStep),
}

impl CommandBody {
    /// The feature level from which on the cluster may write this command:
    /// one that was added since the first release names the level that came
    /// with it.
    pub fn min_level(&self) -> u32 {
        match self {
            Self::InitCluster { .. }
            | Self::CreateTopic { .. }
            | Self::DeleteTopic { .. }
            | Self::RegisterSession(_)
            | Self::EndSession { .. }
            | Self::DrainSession { .. }
            | Self::ReleaseLeases { .. }
            | Self::CommitObjects { .. }
            | Self::CommitOffsets { .. }
            | Self::Continue
            | Self::MarkDisks(_)
            | Self::AllocateController { .. }
            | Self::ReserveControllers { .. }
            | Self::RestorePairs { .. }
            | Self::RestoreSlices { .. }
            | Self::EndRestore { .. } => features::OLDEST,
            // The pairs that follow are as old as the backup.
            Self::BeginRestore(start) => start.feature_level.max(features::OLDEST),
            // Proposed by the leader alone, and only once everyone reads the
            // level that it raises to, which is above the oldest.
            Self::RaiseFeatureLevel { .. } => features::OLDEST,
            Self::InitProducer(_)
            | Self::JoinGroup(_)
            | Self::LeaveGroup { .. }
            | Self::ReleasePartitions { .. }
            | Self::CommitMemberOffsets { .. }
            | Self::DeleteGroup { .. }
            | Self::ExpireGroups { .. }
            | Self::Collect(_) => 2,
        }
    }
}

/// Who asks for an id and epoch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ProducerRequest {
    /// What it is called, if it is to take over from whoever was called so.
    pub name: Option<String>,
    /// What it has: it asks for its next epoch.
    pub producer: Option<ProducerEpoch>,
}

/// A producer in one of its epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct ProducerEpoch {
    /// Its id; below 2^62.
    pub id: u64,
    /// At most `i16::MAX`.
    pub epoch: u16,
}

/// What a member of a consumer group wants.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct GroupJoin {
    /// The group.
    pub group: String,
    /// Random, chosen by the member for this membership.
    pub member: MemberId,
    /// Static membership: which instance it is.
    pub instance: Option<String>,
    /// What it calls itself.
    pub client: String,
    /// The topics it subscribes to.
    pub topics: Vec<TopicKey>,
    /// The assignor it asks for.
    pub assignor: Assignor,
    /// How long it may be silent.
    pub session_timeout_ms: u32,
    /// It says that it is a member already, and only changes what it wants.
    pub is_member: bool,
}

/// What is restored, and into which generation.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RestoreStart {
    /// The cluster that was backed up.
    pub cluster: [u8; 16],
    /// Its generation at the time of the backup.
    pub backup_generation: GenerationKey,
    /// The index of which the backup is.
    pub backup_index: u64,
    /// The new generation: a higher counter than any of the cluster's before,
    /// and a random half.
    pub generation: GenerationKey,
    /// Cluster time of the backup.
    pub time_ms: u64,
    /// Sessions of the backup's generation up to this one were opened before
    /// the backup.
    pub sessions_upto: u64,
    /// Where the data lies.
    pub store_url: Option<String>,
    /// What the backed up cluster was allowed to use.
    pub feature_level: u32,
}

/// Slices of one object that a restore found in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RestoredObject {
    /// The cluster's generation when it was written.
    pub generation: GenerationKey,
    /// The session that wrote it.
    pub session: u64,
    /// The session's number for it.
    pub sequence: u64,
    /// Bytes of the whole object.
    pub size: u64,
    /// Some or all of its slices.
    pub slices: Vec<SliceCommit>,
}

/// A session's registration.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Registration {
    /// Random, new with every start of an agent.
    pub instance: [u8; 16],
    /// Advertised `host:port`.
    pub address: String,
    /// Agent group.
    pub group: String,
    /// Zone, or empty.
    pub zone: String,
    /// Process id, for operators.
    pub pid: u32,
    /// Where the agent writes.
    pub store_url: String,
}

/// One object of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ObjectCommit {
    /// The session's number for it.
    pub sequence: u64,
    /// Bytes.
    pub size: u64,
    /// What became of its PUT.
    pub contents: ObjectContents,
}

/// What became of an object's PUT.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ObjectContents {
    /// It succeeded; these are its slices.
    Written(Vec<SliceCommit>),
    /// It was given up: the number is used up, these epochs are raised.
    Abandoned(Vec<PartitionKey>),
}

/// One slice of an object.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SliceCommit {
    /// Which partition.
    pub partition: PartitionKey,
    /// Epoch under which it was written.
    pub lease_epoch: u32,
    /// First offset.
    pub base_offset: u64,
    /// Last offset.
    pub last_offset: u64,
    /// Records in it.
    pub record_count: u32,
    /// Byte position in the object.
    pub position: u64,
    /// Bytes.
    pub length: u32,
    /// Over those bytes.
    pub crc32c: u32,
    /// Cluster time at the agent.
    pub append_time_ms: u64,
    /// Smallest record timestamp.
    pub min_timestamp_ms: i64,
    /// Largest record timestamp.
    pub max_timestamp_ms: i64,
    /// Bits of the segment format.
    pub flags: u32,
    /// One per batch of an idempotent producer, in order.
    pub producers: Vec<ProducerBatch>,
}

/// A batch of an idempotent producer inside a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ProducerBatch {
    /// Whose.
    pub producer: ProducerEpoch,
    /// Of its first record, below 2^31.
    pub base_sequence: u32,
    /// Records in it.
    pub records: u32,
    /// Its base offset less the slice's.
    pub offset_delta: u64,
}
