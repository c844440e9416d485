//! Questions about offsets: ends, beginnings, what is committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::commit::CommittedOffset;
use super::error::ConsumeError;
use super::handle::Consumer;
use crate::errors::{CallError, Code};
use crate::routing::Metadata;
use crate::types::{PartitionDescription, TopicDescription, TopicPartition};

/// A topic, linearizable.
pub(super) async fn describe(
    metadata: &Metadata,
    topic: &Arc<str>,
) -> Result<TopicDescription, ConsumeError> {
    metadata.describe(topic, true).await.map_err(|error: CallError| match error.code() {
        Some(Code::UnknownTopic) => ConsumeError::UnknownTopic { topic: topic.clone() },
        _ => ConsumeError::Call(error),
    })
}

impl Consumer {
    /// Per partition one past its last record: of every record acknowledged before this call. A consumer whose
    /// [`position`](Self::position) has got there has read them all.
    pub async fn end_offsets(&self) -> Result<BTreeMap<TopicPartition, u64>, ConsumeError> {
        self.each(|partition| partition.high_watermark).await
    }

    /// Per partition the first offset that is kept.
    pub async fn beginning_offsets(&self) -> Result<BTreeMap<TopicPartition, u64>, ConsumeError> {
        self.each(|partition| partition.log_start).await
    }

    /// Per partition how many offsets lie between its position and its end: what is still to be read. Of every record
    /// acknowledged before this call. Partitions without a position are absent.
    pub async fn lag(&self) -> Result<BTreeMap<TopicPartition, u64>, ConsumeError> {
        let positions = self.positions();
        let ends = self.end_offsets().await?.into_iter();
        let lag = |(at, end): (TopicPartition, u64)| {
            let behind = end.saturating_sub(*positions.get(&at)?);
            Some((at, behind))
        };
        Ok(ends.filter_map(lag).collect())
    }

    async fn each(
        &self,
        which: impl Fn(&PartitionDescription) -> u64,
    ) -> Result<BTreeMap<TopicPartition, u64>, ConsumeError> {
        let mut offsets = BTreeMap::new();
        let mut topics: Vec<_> = self.table.iter().map(|(at, ..)| at.topic.clone()).collect();
        topics.dedup();
        for topic in topics {
            let description = describe(&self.metadata, &topic).await?;
            for partition in &description.partitions {
                let at = TopicPartition::new(topic.clone(), partition.partition);
                if self.table.slot(&at).is_some() {
                    offsets.insert(at, which(partition));
                }
            }
        }
        Ok(offsets)
    }

    /// What the group has committed for this consumer's partitions; those without a commit are absent. Linearizable.
    pub async fn committed(&self) -> Result<BTreeMap<TopicPartition, u64>, ConsumeError> {
        let committed = self.committed_offsets().await?.into_iter();
        Ok(committed.map(|(at, committed)| (at, committed.offset)).collect())
    }

    /// The same with what the application noted beside each offset.
    pub async fn committed_offsets(
        &self,
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>, ConsumeError> {
        let Some(group) = &self.options.group_id else { return Err(ConsumeError::NoGroup) };
        let keys: Vec<_> = self.table.iter().map(|(at, topic, _)| (topic, at.partition)).collect();
        let mut found = self.metadata.fetch_offsets(group, &keys).await?;
        let all = self.table.iter().map(|(at, ..)| at).zip(keys);
        Ok(all.filter_map(|(at, key)| Some(((**at).clone(), found.remove(&key)?))).collect())
    }

    /// Reads on from the first offset that is kept, in all partitions.
    pub async fn seek_to_beginning(&mut self) -> Result<(), ConsumeError> {
        for (at, offset) in self.beginning_offsets().await? {
            self.seek(&at.topic, at.partition, offset)?;
        }
        Ok(())
    }

    /// Reads only what is acknowledged from now on, in all partitions.
    pub async fn seek_to_end(&mut self) -> Result<(), ConsumeError> {
        for (at, offset) in self.end_offsets().await? {
            self.seek(&at.topic, at.partition, offset)?;
        }
        Ok(())
    }
}
