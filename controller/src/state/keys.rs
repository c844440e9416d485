//! The layout of the key space: one tag byte, then fixed-width big-endian
//! fields, so that byte order is field order.
//!
//! | tag | key after the tag | value |
//! |---|---|---|
//! | `01` | | [`Cluster`](super::cluster::Cluster) |
//! | `02` | | cluster time, `u64` milliseconds |
//! | `03` | disk id | [`Mark`](super::controllers::Mark) |
//! | `04` | | the highest controller number given out, `u64` |
//! | `05` | disk id | the controller number given to it, `u64` |
//! | `06` | | [`Restoring`](super::restore::Restoring), while a backup is being restored |
//! | `07` | | sessions up to this one are of an earlier generation, `u64` |
//! | `08` | | [`Collector`](super::collector::Collector) |
//! | `09` | | [`SweepReport`](super::collector::SweepReport), of the last sweep |
//! | `0a` | session, sequence | [`Unindexed`](super::collector::Unindexed), until its deletion is allowed |
//! | `0e` | | how many partitions all those topics have, `u64` |
//! | `0f` | | how many topics there are, in whatever stage, `u64` |
//! | `10` | topic name | topic id |
//! | `11` | topic id | [`Topic`](super::topics::Topic) |
//! | `12` | topic id, partition | [`Partition`](super::partitions::Partition) |
//! | `13` | topic id, partition, base offset | [`IndexEntry`](super::segments::IndexEntry) |
//! | `14` | session, sequence | [`ObjectRecord`](super::segments::ObjectRecord) |
//! | `20` | session | [`Session`](super::sessions::Session) |
//! | `21` | address | session |
//! | `22` | instance | session |
//! | `23` | session, topic id, partition | `()`: the leases it holds |
//! | `24` | agent group, `00`, session | `()`: live sessions |
//! | `25` | agent group, `00`, topic id, partition | `()`: partitions nobody holds |
//! | `26` | deadline, topic id, partition | `()`: revoked, not yet released |
//! | `27` | time of its end, session | `()`: ended, results still kept |
//! | `28` | session, sequence | [`ObjectReply`](super::reply::ObjectReply) |
//! | `30` | requester, number | [`Reply`](super::reply::Reply) |
//! | `31` | requester | [`Requester`](super::requests::Requester) |
//! | `32` | time of last use, to the minute, requester | `()` |
//! | `40` | kind, subject | `()`: work for `Continue` |
//! | `50` | consumer group | [`Group`](super::offsets::Group) |
//! | `51` | consumer group, `00`, topic id, partition | [`CommittedOffset`](super::offsets::CommittedOffset) |
//! | `52` | topic id, consumer group | `()`: groups with offsets in a topic |
//! | `60` | | [`ProducerIds`](super::producers::ProducerIds) |
//! | `61` | producer id | [`Producer`](super::producers::Producer) |
//! | `62` | producer name | producer id, `u64` |
//! | `63` | when it is forgotten, producer id | `()` |
//! | `64` | | how many producers there are, `u64` |
//! | `65` | topic id, partition, producer id | [`Committed`](super::sequences::Committed) |
//! | `66` | when it is forgotten, topic id, partition, producer id | `()` |
//! | `53` | consumer group | [`Membership`](super::groups::Membership) |
//! | `54` | consumer group, `00`, member | [`Member`](super::groups::Member) |
//! | `55` | consumer group, `00`, instance id | member |
//! | `56` | consumer group, `00`, topic id, partition | [`GroupPartition`](super::groups::GroupPartition) |
//! | `57` | consumer group, `00`, member, topic id, partition | `()`: what it owns |
//! | `58` | consumer group, `00`, hash of the topics | [`Subscription`](super::groups::Subscription) |
//! | `59` | topic id, consumer group | `()`: groups whose members subscribe to a topic |
//! | `5a` | | how many consumer groups there are, `u64` |

use super::command::{PartitionKey, TopicKey};
use super::kv::prefix_end;

/// The tag bytes of the table above.
pub(super) mod tag {
    pub(crate) const CLUSTER: u8 = 0x01;
    pub(crate) const TIME: u8 = 0x02;
    pub(crate) const DISK_MARK: u8 = 0x03;
    pub(crate) const CONTROLLER_NUMBER: u8 = 0x04;
    pub(crate) const CONTROLLER_DISK: u8 = 0x05;
    pub(crate) const RESTORING: u8 = 0x06;
    pub(crate) const SESSIONS_BEFORE: u8 = 0x07;
    pub(crate) const COLLECTOR: u8 = 0x08;
    pub(crate) const SWEEP: u8 = 0x09;
    pub(crate) const UNINDEXED: u8 = 0x0a;
    pub(crate) const PARTITION_COUNT: u8 = 0x0e;
    pub(crate) const TOPIC_COUNT: u8 = 0x0f;
    pub(crate) const TOPIC_NAME: u8 = 0x10;
    pub(crate) const TOPIC: u8 = 0x11;
    pub(crate) const PARTITION: u8 = 0x12;
    pub(crate) const SEGMENT: u8 = 0x13;
    pub(crate) const OBJECT: u8 = 0x14;
    pub(crate) const SESSION: u8 = 0x20;
    pub(crate) const SESSION_ADDRESS: u8 = 0x21;
    pub(crate) const SESSION_INSTANCE: u8 = 0x22;
    pub(crate) const SESSION_LEASE: u8 = 0x23;
    pub(crate) const LIVE: u8 = 0x24;
    pub(crate) const UNASSIGNED: u8 = 0x25;
    pub(crate) const REVOKED: u8 = 0x26;
    pub(crate) const ENDED: u8 = 0x27;
    pub(crate) const RESULT: u8 = 0x28;
    pub(crate) const REQUEST: u8 = 0x30;
    pub(crate) const REQUESTER: u8 = 0x31;
    pub(crate) const REQUESTER_TIME: u8 = 0x32;
    pub(crate) const WORK: u8 = 0x40;
    pub(crate) const GROUP: u8 = 0x50;
    pub(crate) const OFFSET: u8 = 0x51;
    pub(crate) const OFFSET_TOPIC: u8 = 0x52;
    pub(crate) const PRODUCER_IDS: u8 = 0x60;
    pub(crate) const PRODUCER: u8 = 0x61;
    pub(crate) const PRODUCER_NAME: u8 = 0x62;
    pub(crate) const PRODUCER_DUE: u8 = 0x63;
    pub(crate) const PRODUCER_COUNT: u8 = 0x64;
    pub(crate) const SEQUENCES: u8 = 0x65;
    pub(crate) const SEQUENCES_DUE: u8 = 0x66;
    pub(crate) const MEMBERSHIP: u8 = 0x53;
    pub(crate) const MEMBER: u8 = 0x54;
    pub(crate) const INSTANCE: u8 = 0x55;
    pub(crate) const GROUP_PARTITION: u8 = 0x56;
    pub(crate) const OWNED: u8 = 0x57;
    pub(crate) const SUBSCRIPTION: u8 = 0x58;
    pub(crate) const SUBSCRIBED: u8 = 0x59;
    pub(crate) const GROUP_COUNT: u8 = 0x5a;
}

/// Whether apply will hardly read what it writes at this key: entries of the
/// index and objects are written once and removed much later.
pub fn written_once(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(tag::SEGMENT | tag::OBJECT)))
}

/// Builds one key.
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn new(tag: u8) -> Self {
        let mut bytes = Vec::with_capacity(40);
        bytes.push(tag);
        Self(bytes)
    }

    pub(super) fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    /// A name inside a key: names hold no zero byte.
    pub(super) fn name(self, value: &str) -> Self {
        self.bytes(value.as_bytes()).byte(0)
    }

    pub(super) fn partition(mut self, partition: &PartitionKey) -> Self {
        self.0.extend_from_slice(&partition.topic);
        self.0.extend_from_slice(&partition.partition.to_be_bytes());
        self
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }

    /// Start and end of the range of keys that begin with this one.
    pub(super) fn range(self) -> (Vec<u8>, Vec<u8>) {
        let end = prefix_end(&self.0);
        (self.0, end)
    }
}

/// The partition in the last 20 bytes of a key.
pub(super) fn trailing_partition(key: &[u8]) -> Option<PartitionKey> {
    let tail = key.len().checked_sub(20).map(|at| &key[at..])?;
    let (topic, partition) = tail.split_at(16);
    Some(PartitionKey {
        topic: TopicKey::try_from(topic).ok()?,
        partition: u32::from_be_bytes(partition.try_into().ok()?),
    })
}

/// The number in the last 8 bytes of a key.
pub(super) fn trailing_u64(key: &[u8]) -> Option<u64> {
    let at = key.len().checked_sub(8)?;
    Some(u64::from_be_bytes(key[at..].try_into().ok()?))
}

/// The 16 bytes at the end of a key.
pub(super) fn trailing_id(key: &[u8]) -> Option<[u8; 16]> {
    let at = key.len().checked_sub(16)?;
    key[at..].try_into().ok()
}
