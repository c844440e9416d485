//! One partition's identity, and its way to and from the wire.

use std::fmt;
use streamhouse_proto::v1::TopicPartition;
use streamhouse_segment::TopicId;

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartitionId {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
}

impl PartitionId {
    /// `None` if the message is missing or its topic id is not a UUID.
    pub(crate) fn from_wire(wire: Option<&TopicPartition>) -> Option<Self> {
        let wire = wire?;
        let topic: [u8; 16] = wire.topic_id.as_slice().try_into().ok()?;
        Some(Self { topic: TopicId::from_bytes(topic), partition: wire.partition })
    }

    pub(crate) fn to_wire(self) -> TopicPartition {
        TopicPartition { topic_id: self.topic.to_bytes().to_vec(), partition: self.partition }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_survives_the_wire() {
        let id = PartitionId { topic: TopicId::from_bytes([7; 16]), partition: 3 };
        assert_eq!(PartitionId::from_wire(Some(&id.to_wire())), Some(id));
    }

    #[test]
    fn a_topic_id_of_another_length_is_none() {
        let wire = TopicPartition { topic_id: vec![1; 15], partition: 0 };
        assert_eq!(PartitionId::from_wire(Some(&wire)), None);
        assert_eq!(PartitionId::from_wire(None), None);
    }
}
