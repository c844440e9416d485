//! Wire types to state types and back.

use crate::errors::{fault_info, invalid, refusal_info};
use crate::state::command::{
    GenerationKey, ObjectCommit, ObjectContents, PartitionKey, ProducerBatch, ProducerEpoch,
    RequestKey, SliceCommit, TopicKey,
};
use crate::state::partitions::Partition;
use crate::state::reply::{BatchFault, BatchRefusal, ObjectReply, Refusal, SliceReply};
use crate::state::segments::{IndexEntry, Source};
use crate::state::sequences::Committed;
use crate::state::topics::Topic;
use streamhouse_proto::v1;
use tonic::Status;

pub(crate) fn id16(what: &str, bytes: &[u8]) -> Result<[u8; 16], Status> {
    <[u8; 16]>::try_from(bytes)
        .map_err(|_| invalid(format!("{what} has {} bytes, must have 16", bytes.len())))
}

pub(crate) fn partition_key(wire: Option<&v1::TopicPartition>) -> Result<PartitionKey, Status> {
    let wire = wire.ok_or_else(|| invalid("a partition is missing"))?;
    Ok(PartitionKey { topic: id16("topic id", &wire.topic_id)?, partition: wire.partition })
}

pub(crate) fn partition_wire(key: &PartitionKey) -> v1::TopicPartition {
    v1::TopicPartition { topic_id: key.topic.to_vec(), partition: key.partition }
}

pub(crate) fn request_key(wire: Option<v1::RequestId>) -> Result<RequestKey, Status> {
    let wire = wire.ok_or_else(|| invalid("the request id is missing"))?;
    if wire.number == 0 || i64::try_from(wire.number).is_err() {
        return Err(invalid(format!("request number {} is not 1 to 2^63 - 1", wire.number)));
    }
    Ok(RequestKey { requester: id16("requester", &wire.requester)?, number: wire.number })
}

pub(crate) fn generation_wire(generation: GenerationKey) -> v1::Generation {
    v1::Generation { counter: generation.counter, random: generation.random }
}

pub(crate) fn generation_key(wire: Option<v1::Generation>) -> Result<GenerationKey, Status> {
    let wire = wire.ok_or_else(|| invalid("the generation is missing"))?;
    Ok(GenerationKey { counter: wire.counter, random: wire.random })
}

pub(crate) fn topic_wire(id: &TopicKey, topic: &Topic) -> v1::TopicSummary {
    v1::TopicSummary {
        topic_id: id.to_vec(),
        name: topic.name.clone(),
        partitions: topic.partitions,
        config: topic.config.iter().cloned().collect(),
    }
}

pub(crate) fn partition_state(
    key: &PartitionKey,
    partition: &Partition,
    address: String,
) -> v1::PartitionState {
    v1::PartitionState {
        partition: Some(partition_wire(key)),
        log_start: partition.log_start,
        high_watermark: partition.next_offset,
        holder: partition.holder,
        address,
        lease_epoch: partition.lease_epoch,
    }
}

pub(crate) fn lease_wire(key: &PartitionKey, partition: &Partition) -> v1::Lease {
    v1::Lease {
        partition: Some(partition_wire(key)),
        epoch: partition.lease_epoch,
        epoch_start_offset: partition.epoch_start_offset,
        next_offset: partition.next_offset,
        revoking: partition.revoke_deadline_ms != 0,
    }
}

pub(crate) fn segment_wire(base: u64, entry: &IndexEntry) -> v1::Segment {
    let Source::L0 { generation, session, sequence } = entry.source;
    let object = v1::L0Object { generation: Some(generation_wire(generation)), session, sequence };
    v1::Segment {
        base_offset: base,
        last_offset: entry.last_offset,
        record_count: entry.record_count,
        position: entry.position,
        length: entry.length,
        crc32c: entry.crc32c,
        append_time_ms: entry.append_time_ms,
        min_timestamp_ms: entry.min_timestamp_ms,
        max_timestamp_ms: entry.max_timestamp_ms,
        lease_epoch: entry.lease_epoch,
        source: Some(v1::segment::Source::L0(object)),
    }
}

pub(crate) fn slice_commit(wire: &v1::SliceCommit) -> Result<SliceCommit, Status> {
    Ok(SliceCommit {
        partition: partition_key(wire.partition.as_ref())?,
        lease_epoch: wire.lease_epoch,
        base_offset: wire.base_offset,
        last_offset: wire.last_offset,
        record_count: wire.record_count,
        position: wire.position,
        length: wire.length,
        crc32c: wire.crc32c,
        append_time_ms: wire.append_time_ms,
        min_timestamp_ms: wire.min_timestamp_ms,
        max_timestamp_ms: wire.max_timestamp_ms,
        flags: wire.flags,
        producers: wire.producers.iter().map(producer_batch).collect::<Result<_, _>>()?,
    })
}

fn producer_batch(wire: &v1::ProducerBatch) -> Result<ProducerBatch, Status> {
    let epoch = u16::try_from(wire.producer_epoch).map_err(|_| {
        invalid(format!("{} is no epoch of producer {}", wire.producer_epoch, wire.producer_id))
    })?;
    Ok(ProducerBatch {
        producer: ProducerEpoch { id: wire.producer_id, epoch },
        base_sequence: wire.base_sequence,
        records: wire.records,
        offset_delta: wire.offset_delta,
    })
}

pub(crate) fn committed_wire(committed: &Committed) -> v1::CommittedSequences {
    let runs = committed.runs.iter().map(|run| v1::SequenceRun {
        first: run.first,
        records: run.records,
        base_offset: run.base_offset,
    });
    v1::CommittedSequences {
        epoch: committed.epoch.into(),
        records: committed.records,
        runs: runs.collect(),
    }
}

fn batch_refusal(refusal: &BatchRefusal) -> v1::BatchRefusal {
    let (error, base_offset) = match refusal.fault {
        BatchFault::Committed(base_offset) => (None, base_offset),
        fault => (Some(fault_info(fault)), None),
    };
    v1::BatchRefusal { index: refusal.index, error, base_offset }
}

pub(crate) fn object_commit(wire: &v1::ObjectCommit) -> Result<ObjectCommit, Status> {
    let contents = if wire.abandoned {
        let partitions = wire.abandoned_partitions.iter().map(|p| partition_key(Some(p)));
        ObjectContents::Abandoned(partitions.collect::<Result<_, _>>()?)
    } else {
        let slices = wire.slices.iter().map(slice_commit);
        ObjectContents::Written(slices.collect::<Result<_, _>>()?)
    };
    Ok(ObjectCommit { sequence: wire.sequence, size: wire.size, contents })
}

fn slice_result(reply: &SliceReply) -> v1::SliceResult {
    v1::SliceResult {
        accepted: reply.refusal.is_none(),
        error: reply.refusal.as_ref().map(refusal_info),
        lease_epoch: reply.lease_epoch,
        next_offset: reply.next_offset,
        still_holder: reply.still_holder,
        refused_batches: match &reply.refusal {
            Some(Refusal::Batches(refused)) => refused.iter().map(batch_refusal).collect(),
            _ => Vec::new(),
        },
    }
}

pub(crate) fn object_result(sequence: u64, reply: &ObjectReply) -> v1::ObjectResult {
    let (error, slices) = match reply {
        ObjectReply::Processed(slices) => (None, slices.iter().map(slice_result).collect()),
        ObjectReply::Refused(refusal) => (Some(refusal_info(refusal)), Vec::new()),
    };
    v1::ObjectResult { sequence, error, slices }
}

/// A state hash as it is shown.
pub(crate) fn hash_text(hash: u128) -> String {
    format!("{hash:032x}")
}
