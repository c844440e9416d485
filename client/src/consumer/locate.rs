//! Where a record lies: which object, which bytes, who wrote them.

use std::sync::Arc;

use bytes::Bytes;
use streamhouse_proto::v1;
use streamhouse_segment::batch::{self, BatchHeader, Compression, Limits};
use streamhouse_segment::ids::ObjectId;
use streamhouse_segment::object::verify_slice;

use super::assignment::Assigned;
use super::error::ConsumeError;
use super::handle::Consumer;
use super::offsets::describe;
use super::plan::{self, Slice};
use crate::routing::{Client, Metadata};
use crate::types::TopicPartition;
use crate::{convert, errors::Code};

/// A record's place in the store, found by [`Consumer::locate`]. Everything was read and its checksums hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordLocation {
    /// The object store's URL.
    pub store: String,
    /// The object's key in it.
    pub key: String,
    /// The object: generation, session and sequence number say who wrote it.
    pub object: ObjectId,
    /// First byte of the partition's slice in the object, and one past its last.
    pub slice: (u64, u64),
    /// First and last offset of the slice.
    pub slice_offsets: (u64, u64),
    /// CRC-32C of the slice.
    pub crc32c: u32,
    /// The lease epoch under which it was written.
    pub lease_epoch: u32,
    /// Cluster time at which the agent wrote it, in milliseconds since 1970.
    pub append_time_ms: u64,
    /// First byte of the record batch in the object, and one past its last.
    pub batch: (u64, u64),
    /// First and last offset of the batch.
    pub batch_offsets: (u64, u64),
    /// How many records the batch holds.
    pub batch_records: u32,
    /// How it is compressed.
    pub compression: Compression,
    /// The id of the producer that sent it; `None` if it had none.
    pub producer_id: Option<i64>,
    /// The record's timestamp; `None` if the batch holds no record of that offset.
    pub timestamp: Option<i64>,
}

impl Consumer {
    /// Finds out which object, slice and batch hold the record at `offset`. The partition need not be assigned to this
    /// consumer.
    pub async fn locate(
        &self,
        topic: &str,
        partition: u32,
        offset: u64,
    ) -> Result<RecordLocation, ConsumeError> {
        let name: Arc<str> = topic.into();
        let found = describe(&self.metadata, &name).await?;
        let Some(state) = found.partitions.iter().find(|state| state.partition == partition) else {
            let at = TopicPartition::new(name, partition);
            return Err(ConsumeError::UnknownPartition { at, partitions: found.topic.partitions });
        };
        let place = Assigned::new(&name, found.topic.id, state);
        let segment = self.segment_of(&place, offset).await?;
        let (lease_epoch, append_time_ms) = (segment.lease_epoch, segment.append_time_ms);
        let slice = plan::slice(self.cluster, segment)?;
        let key = slice.object.key();
        let bytes = self.source.get(&key, slice.start..slice.end, None).await;
        let bytes = bytes.map_err(|error| error.name(&place.at, &slice, slice.end))?;
        let (start, header, timestamp) =
            find(&slice, bytes, offset).map_err(|problem| slice.corrupt(&place.at, problem))?;
        Ok(RecordLocation {
            store: self.source.url().await?,
            key,
            object: slice.object,
            slice: (slice.start, slice.end),
            slice_offsets: (slice.base_offset, slice.last_offset),
            crc32c: slice.crc32c,
            lease_epoch,
            append_time_ms,
            batch: (slice.start + start, slice.start + start + header.total_bytes() as u64),
            batch_offsets: (header.base_offset.unsigned_abs(), header.last_offset().unsigned_abs()),
            batch_records: header.records_count.unsigned_abs(),
            compression: header.compression().unwrap_or_default(),
            producer_id: (header.producer_id >= 0).then_some(header.producer_id),
            timestamp,
        })
    }

    /// The index entry that holds the offset.
    async fn segment_of(&self, place: &Assigned, offset: u64) -> Result<v1::Segment, ConsumeError> {
        let plan = ask(&self.metadata, place, offset).await?;
        let beyond = |log_start, high_watermark| ConsumeError::OffsetOutOfRange {
            at: (*place.at).clone(),
            offset,
            log_start,
            high_watermark,
        };
        if let Some(info) = plan.error {
            let (refusal, _) = convert::refusal(info);
            if refusal.code == Code::OffsetOutOfRange {
                return Err(beyond(plan.log_start, plan.high_watermark));
            }
            return Err(ConsumeError::LookUp { at: (*place.at).clone(), refusal });
        }
        let Some(segment) = plan.segments.into_iter().next() else {
            return Err(beyond(plan.log_start, plan.high_watermark));
        };
        if !(segment.base_offset..=segment.last_offset).contains(&offset) {
            let (at, found) = ((*place.at).clone(), segment.base_offset);
            return Err(ConsumeError::IndexGap { at, expected: offset, found });
        }
        Ok(segment)
    }
}

async fn ask(
    metadata: &Metadata,
    place: &Assigned,
    offset: u64,
) -> Result<v1::ReadPlan, ConsumeError> {
    let range = v1::SegmentRange {
        partition: Some(convert::topic_partition(place.topic, place.at.partition)),
        offset,
        max_segments: 1,
        max_bytes: 0,
        from_timestamp_ms: None,
    };
    let request = v1::FindSegmentsRequest {
        ranges: vec![range],
        min_applied: metadata.pool.applied(),
        linearizable: true,
    };
    let answer = metadata.pool.call("find segments", |mut client: Client| {
        let request = request.clone();
        async move { client.find_segments(request).await }
    });
    let plan = answer.await?.plans.into_iter().next();
    Ok(plan.ok_or_else(|| convert::malformed("number of plans"))?)
}

/// Where in the slice the batch with that offset begins, its header, and the record's timestamp if there is one.
fn find(
    slice: &Slice,
    bytes: Bytes,
    offset: u64,
) -> Result<(u64, BatchHeader, Option<i64>), String> {
    verify_slice(&bytes, slice.crc32c, slice.base_offset, slice.last_offset)
        .map_err(|error| error.to_string())?;
    let mut start = 0;
    for one in batch::split(bytes) {
        let one = one.map_err(|error| error.to_string())?;
        let header = BatchHeader::parse(&one).map_err(|error| error.to_string())?;
        // The first batch that reaches the offset: the offset itself may be absent.
        if header.last_offset().unsigned_abs() >= offset {
            let batch =
                batch::decode(one, &Limits::default()).map_err(|error| error.to_string())?;
            let mut records = batch.record_refs().filter_map(Result::ok);
            let record = records.find(|record| record.offset.unsigned_abs() == offset);
            return Ok((start, header, record.map(|record| record.timestamp)));
        }
        start += one.len() as u64;
    }
    Err(format!("it holds no batch with offset {offset}"))
}
