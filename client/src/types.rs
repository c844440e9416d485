//! What a cluster tells about itself, in plain types. The wire's types stay behind `convert.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use streamhouse_segment::ids::{ClusterId, Generation, SessionId, TopicId};

/// One partition of a topic, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// That partition of that topic.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl<T: Into<Arc<str>>> From<(T, u32)> for TopicPartition {
    fn from((topic, partition): (T, u32)) -> Self {
        Self::new(topic, partition)
    }
}

/// The cluster as a controller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's identity.
    pub id: ClusterId,
    /// The life of its metadata.
    pub generation: Generation,
    /// Where the data lies; `None` until the first agent has registered.
    pub store_url: Option<String>,
    /// All members.
    pub controllers: Vec<ControllerAddress>,
    /// The leader's id, if the controller that answered knows one.
    pub leader: Option<u64>,
    /// How many topics there are.
    pub topics: u64,
    /// The Raft index at which this was true.
    pub applied: u64,
}

/// Where a controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerAddress {
    /// The controller's id.
    pub id: u64,
    /// `host:port`.
    pub address: String,
    /// It votes (otherwise it is a learner).
    pub voter: bool,
}

/// What a controller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It leads.
    Leader,
    /// It follows a leader.
    Follower,
    /// It wants to lead.
    Candidate,
    /// It follows and has no vote.
    Learner,
    /// It did not answer.
    Unreachable,
}

impl Role {
    /// The role in lower case, as the command line prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One controller, asked about itself. Numbers are 0 and texts empty if it is unreachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerStatus {
    /// The controller's id.
    pub id: u64,
    /// `host:port`.
    pub address: String,
    /// What it does.
    pub role: Role,
    /// Its process.
    pub pid: u32,
    /// The Raft term it is in; 0 while it does not know it, at its start.
    pub term: u64,
    /// The last index it has applied.
    pub applied: u64,
    /// The last index in its log.
    pub last_log: u64,
    /// The index of its last snapshot.
    pub snapshot: u64,
    /// Hash of its whole state at `applied`.
    pub state_hash: String,
    /// The last index that it knows to be committed.
    pub committed: u64,
    /// Who leads, if it knows one that still has its majority.
    pub leader: Option<u64>,
    /// The id of its disk, 32 hexadecimal digits and dashes.
    pub disk: String,
    /// Time since its snapshot was written; `None` if it has none.
    pub snapshot_age: Option<Duration>,
    /// The size of its state, estimated.
    pub state_bytes: u64,
    /// Synced writes of its log since it started.
    pub log_syncs: u64,
    /// The feature level of its state: which encodings the cluster may use.
    pub feature_level: u32,
    /// The highest feature level that its release reads; the cluster's rises to the lowest of all controllers'.
    pub reads_level: u32,
    /// Why it is unreachable.
    pub problem: Option<String>,
}

/// An agent with an open session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentStatus {
    /// Its session.
    pub session: SessionId,
    /// Where producers reach it, `host:port`.
    pub address: String,
    /// Its process.
    pub pid: u32,
    /// Its agent group.
    pub group: String,
    /// Its zone.
    pub zone: String,
    /// It gives its leases away.
    pub draining: bool,
    /// How many partitions it holds.
    pub leases: u64,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The topic's identity; another one after it was deleted and created again.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// Its configuration.
    pub config: BTreeMap<String, String>,
}

/// A topic and the state of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// The topic.
    pub topic: Topic,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionDescription>,
    /// The Raft index at which this was true.
    pub applied: u64,
}

/// A partition's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: u32,
    /// The session that holds its write lease.
    pub holder: Option<SessionId>,
    /// Where that agent takes batches, `host:port`.
    pub address: Option<String>,
    /// How often the lease was granted.
    pub lease_epoch: u32,
    /// The first offset that is kept.
    pub log_start: u64,
    /// One past the last committed offset.
    pub high_watermark: u64,
    /// How many entries its segment index has.
    pub segments: u64,
    /// How many bytes these hold in the object store.
    pub bytes: u64,
    /// Records appended within the last minute, about; told by [`Admin::describe_topic`](crate::Admin::describe_topic).
    pub last_minute_records: u64,
    /// Their bytes in the object store.
    pub last_minute_bytes: u64,
}
