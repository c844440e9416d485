//! The fake index.

use streamhouse_proto::{to_status, v1};
use tonic::Status;

use super::{Log, State};

pub(super) fn find(
    state: &mut State,
    request: v1::FindSegmentsRequest,
) -> Result<v1::FindSegmentsResponse, Status> {
    state.look_ups += 1;
    if state.unavailable {
        return Err(to_status(v1::ErrorInfo::new(v1::ErrorCode::NoLeader, "no leader")));
    }
    let (applied, lagging) = (state.applied, state.lagging);
    let outdated = if request.linearizable { None } else { state.outdated.take() };
    let plans = request.ranges.into_iter().map(|range| {
        let at = range.partition.clone().unwrap();
        match state.log(&at.topic_id, at.partition) {
            Ok(_) if lagging => v1::ReadPlan { partition: range.partition, ..Default::default() },
            Ok(log) => plan(log, range, outdated),
            Err(error) => v1::ReadPlan { error: Some(error), ..Default::default() },
        }
    });
    Ok(v1::FindSegmentsResponse { plans: plans.collect(), applied })
}

fn plan(log: &Log, range: v1::SegmentRange, outdated: Option<(u64, u64)>) -> v1::ReadPlan {
    let since = range.from_timestamp_ms.unwrap_or(i64::MIN);
    let after = log.segments.iter().filter(|segment| segment.last_offset >= range.offset);
    let after = after.filter(|segment| segment.max_timestamp_ms >= since);
    let most = if range.max_bytes == 0 { u64::MAX } else { range.max_bytes };
    let mut planned = 0;
    // No further entry once so many bytes are planned.
    let within = after.take(range.max_segments as usize).take_while(|segment| {
        let full = planned >= most;
        planned += u64::from(segment.length);
        !full
    });
    let end = log.segments.last().map_or(0, |last| last.last_offset + 1);
    v1::ReadPlan {
        partition: range.partition,
        error: None,
        log_start: log.log_start,
        high_watermark: end,
        segments: within.cloned().map(|segment| before(segment, outdated)).collect(),
        scanned_to: end,
    }
}

/// The segment as it was before it moved.
fn before(mut segment: v1::Segment, outdated: Option<(u64, u64)>) -> v1::Segment {
    if let (Some((new, old)), Some(v1::segment::Source::L0(l0))) = (outdated, &mut segment.source)
        && l0.sequence == new
    {
        l0.sequence = old;
    }
    segment
}
