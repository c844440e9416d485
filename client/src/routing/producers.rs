//! Who an idempotent producer is, and what is committed of it.

use streamhouse_proto::v1;
use streamhouse_segment::ids::TopicId;
use streamhouse_segment::sequences::{SequenceRun, Sequences};

use super::channel::Client;
use super::metadata::Metadata;
use crate::convert;
use crate::errors::CallError;

/// A producer in one of its epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProducerId {
    pub(crate) id: u64,
    pub(crate) epoch: u16,
}

/// What a partition has of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The producer's epoch; `None` if it was forgotten.
    pub(crate) current: Option<u16>,
    /// The epoch of what the partition has.
    pub(crate) epoch: u16,
    pub(crate) sequences: Sequences,
}

impl Metadata {
    /// An id and epoch, and the index as of which whatever came before is fenced: a new one, the name's, or the one
    /// after `from`.
    pub(crate) async fn init_producer(
        &self,
        id: v1::RequestId,
        name: Option<&str>,
        from: Option<ProducerId>,
    ) -> Result<(ProducerId, u64), CallError> {
        let request = v1::InitProducerRequest {
            request: Some(id),
            name: name.unwrap_or_default().to_owned(),
            producer: from
                .map(|from| v1::ProducerEpoch { producer_id: from.id, epoch: from.epoch.into() }),
        };
        let answer = self
            .pool
            .call("init producer", |mut client: Client| {
                let request = request.clone();
                async move { client.producers.init_producer(request).await }
            })
            .await?;
        self.pool.observe(answer.applied);
        let given = answer.producer.ok_or_else(|| convert::malformed("producer"))?;
        let epoch = epoch(given.epoch)?;
        // The batch's header has 63 bits for it.
        i64::try_from(given.producer_id).map_err(|_| convert::malformed("producer id"))?;
        Ok((ProducerId { id: given.producer_id, epoch }, answer.applied))
    }

    /// What the partition has of the producer, as of `since` or later, and of every commit acknowledged before.
    pub(crate) async fn find_producer(
        &self,
        topic: TopicId,
        partition: u32,
        id: u64,
        since: u64,
    ) -> Result<Progress, CallError> {
        let request = v1::FindProducersRequest {
            producers: vec![v1::PartitionProducer {
                partition: Some(convert::topic_partition(topic, partition)),
                producer_id: id,
            }],
            min_applied: since,
            linearizable: true,
        };
        let answer = self
            .pool
            .call("find producers", |mut client: Client| {
                let request = request.clone();
                async move { client.producers.find_producers(request).await }
            })
            .await?;
        self.pool.observe(answer.applied);
        let found = answer.producers.into_iter().next();
        progress(found.ok_or_else(|| convert::malformed("look-up"))?)
    }
}

fn epoch(wire: u32) -> Result<u16, CallError> {
    let epoch = u16::try_from(wire).ok().filter(|epoch| i16::try_from(*epoch).is_ok());
    epoch.ok_or_else(|| convert::malformed("producer epoch"))
}

fn progress(wire: v1::ProducerProgress) -> Result<Progress, CallError> {
    // A retired id's is one above the last that there can be.
    let current = wire.current_epoch.map(|epoch| u16::try_from(epoch).unwrap_or(u16::MAX));
    let committed = wire.committed.unwrap_or_default();
    let run = |run: v1::SequenceRun| SequenceRun {
        first: run.first,
        records: run.records,
        base_offset: run.base_offset,
    };
    Ok(Progress {
        current,
        epoch: epoch(committed.epoch)?,
        sequences: Sequences {
            records: committed.records,
            runs: committed.runs.into_iter().map(run).collect(),
        },
    })
}
