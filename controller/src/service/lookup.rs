//! Read plans: which byte ranges of which objects hold the records wanted.

use super::Shared;
use crate::clock;
use crate::convert::{partition_key, partition_wire, segment_wire};
use crate::errors::{invalid, show, store_failed};
use crate::raft::StateView;
use crate::state::command::PartitionKey;
use crate::state::kv::KvError;
use crate::state::topics::{self, TopicStage};
use crate::state::{partitions, segments};
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tonic::Status;

/// BOUND: entries of one plan, and of one answer.
const MAX_SEGMENTS: usize = 1_000;
/// BOUND: ranges of one request.
const MAX_RANGES: usize = 1_000;
/// BOUND: entries that one request passes over, looking for a time, and as many at once.
const MAX_SCANNED: usize = 5_000;
const SCAN_STEP: usize = 500;

pub(super) async fn find(
    shared: &Shared,
    wire: v1::FindSegmentsRequest,
) -> Result<v1::FindSegmentsResponse, Status> {
    let (begun, linearizable) = (clock::now(), wire.linearizable);
    let found = answer(shared, wire).await;
    shared.probes.looked_up(clock::now().saturating_duration_since(begun), linearizable);
    found
}

async fn answer(
    shared: &Shared,
    wire: v1::FindSegmentsRequest,
) -> Result<v1::FindSegmentsResponse, Status> {
    if wire.ranges.len() > MAX_RANGES {
        let count = wire.ranges.len();
        return Err(invalid(format!("{count} ranges in one look-up, allowed are {MAX_RANGES}")));
    }
    let view = shared.view_at(wire.min_applied, wire.linearizable).await?;
    let mut budget = MAX_SEGMENTS * 10;
    let mut scans = MAX_SCANNED;
    let mut plans = Vec::with_capacity(wire.ranges.len());
    for range in &wire.ranges {
        let key = partition_key(range.partition.as_ref())?;
        let mut plan = plan(&view, &key, range, budget).map_err(|e| store_failed(&e))?;
        if let (Some(time), None) = (range.from_timestamp_ms, &plan.error) {
            let found = search(&view, &key, range.offset, time, &mut scans);
            (plan.segments, plan.scanned_to) = found.map_err(|e| store_failed(&e))?;
        }
        budget = budget.saturating_sub(plan.segments.len());
        plans.push(plan);
    }
    Ok(v1::FindSegmentsResponse { plans, applied: view.applied() })
}

fn plan(
    view: &StateView,
    key: &PartitionKey,
    range: &v1::SegmentRange,
    budget: usize,
) -> Result<v1::ReadPlan, KvError> {
    let mut plan = v1::ReadPlan { partition: Some(partition_wire(key)), ..v1::ReadPlan::default() };
    let topic = topics::topic(view, &key.topic)?;
    if topic.is_none_or(|topic| topic.stage == TopicStage::Deleting) {
        let id = uuid::Uuid::from_bytes(key.topic);
        let message = format!("topic {id} does not exist");
        plan.error = Some(ErrorInfo::new(ErrorCode::UnknownTopic, message));
        return Ok(plan);
    }
    let Some(partition) = partitions::partition(view, key)? else {
        let message = format!("partition {} does not exist", show(key));
        plan.error = Some(ErrorInfo::new(ErrorCode::UnknownPartition, message));
        return Ok(plan);
    };
    plan.log_start = partition.log_start;
    plan.high_watermark = partition.next_offset;
    if range.offset < partition.log_start || range.offset > partition.next_offset {
        let message = format!(
            "offset {} of {} is outside the log, which holds {} to {}",
            range.offset,
            show(key),
            partition.log_start,
            partition.next_offset
        );
        plan.error = Some(ErrorInfo::new(ErrorCode::OffsetOutOfRange, message));
        return Ok(plan);
    }
    if range.from_timestamp_ms.is_some() {
        return Ok(plan);
    }
    let limit = match range.max_segments {
        0 => MAX_SEGMENTS,
        asked => (asked as usize).min(MAX_SEGMENTS),
    };
    let mut bytes = 0;
    for (base, entry) in segments::segments_from(view, key, range.offset, limit.min(budget))? {
        plan.segments.push(segment_wire(base, &entry));
        bytes += u64::from(entry.length);
        if range.max_bytes > 0 && bytes >= range.max_bytes {
            break;
        }
    }
    Ok(plan)
}

/// The first entry from `offset` on with a record that is not before `time`, and how far was looked, entries left in
/// `scans` permitting. Producers choose timestamps, so that they need not rise: every entry is looked at.
fn search(
    view: &StateView,
    key: &PartitionKey,
    offset: u64,
    time: i64,
    scans: &mut usize,
) -> Result<(Vec<v1::Segment>, u64), KvError> {
    let mut next = offset;
    while *scans > 0 {
        let step = SCAN_STEP.min(*scans);
        let entries = segments::segments_from(view, key, next, step)?;
        let last = entries.len() < step;
        for (base, entry) in entries {
            *scans -= 1;
            if entry.max_timestamp_ms >= time {
                return Ok((vec![segment_wire(base, &entry)], base));
            }
            next = entry.last_offset + 1;
        }
        if last {
            break;
        }
    }
    Ok((Vec::new(), next))
}
