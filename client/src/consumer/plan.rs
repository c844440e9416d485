//! What a look-up answered: which ranges of which objects to read, or why not. Pure.

use streamhouse_proto::v1;
use streamhouse_segment::ids::{ClusterId, Generation, ObjectId, SessionId};

use super::builder::OffsetReset;
use super::error::ConsumeError;
use crate::convert;
use crate::errors::{Code, Refusal};
use crate::types::TopicPartition;

/// A run of batches in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) base_offset: u64,
    pub(super) last_offset: u64,
    pub(super) object: ObjectId,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) crc32c: u32,
}

impl Slice {
    pub(super) fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// READ: the bytes fetched for it are not those that were written.
    pub(super) fn corrupt(&self, at: &TopicPartition, problem: String) -> ConsumeError {
        ConsumeError::Corrupt {
            at: at.clone(),
            object: self.object.key(),
            start: self.start,
            end: self.end,
            base_offset: self.base_offset,
            last_offset: self.last_offset,
            problem,
        }
    }

    /// Does `next` lie right behind this slice in the same object?
    pub(super) fn joins(&self, next: &Slice) -> bool {
        self.object == next.object && self.end == next.start
    }
}

/// What to do about one partition.
#[derive(Debug)]
pub(super) enum Plan {
    /// Read these; they begin at or before the offset asked for and follow one another without a gap. Empty: caught up.
    Read { slices: Vec<Slice>, high_watermark: u64 },
    /// The offset lies beyond the end that the controller knows, which may lag behind: the leader decides.
    Beyond,
    /// The offset is not in the log, go on at that one.
    Reset { offset: u64, high_watermark: u64 },
    /// Ask again a little later.
    Later(Refusal),
    /// It cannot be read.
    Fail(ConsumeError),
}

/// Judges the answer for `at`, asked from `offset`. `sure`: it is known to be as new as the question.
pub(super) fn judge(
    cluster: ClusterId,
    at: &TopicPartition,
    offset: u64,
    reset: OffsetReset,
    sure: bool,
    wire: v1::ReadPlan,
) -> Plan {
    let (log_start, high_watermark) = (wire.log_start, wire.high_watermark);
    let mut out_of_range = offset < log_start || offset > high_watermark;
    if let Some(info) = wire.error {
        let (refusal, _) = convert::refusal(info);
        match refusal.code {
            Code::OffsetOutOfRange => out_of_range = true,
            Code::UnknownTopic => {
                return Plan::Fail(ConsumeError::TopicDeleted { topic: at.topic.clone() });
            }
            code if code.retryable() => return Plan::Later(refusal),
            _ => return Plan::Fail(ConsumeError::LookUp { at: at.clone(), refusal }),
        }
    }
    if offset > high_watermark && !sure {
        return Plan::Beyond;
    }
    if out_of_range {
        return match reset {
            OffsetReset::Earliest => Plan::Reset { offset: log_start, high_watermark },
            OffsetReset::Latest => Plan::Reset { offset: high_watermark, high_watermark },
            // By time: poll asks for it.
            OffsetReset::None | OffsetReset::Since(_) => {
                Plan::Fail(ConsumeError::OffsetOutOfRange {
                    at: at.clone(),
                    offset,
                    log_start,
                    high_watermark,
                })
            }
        };
    }
    match slices(cluster, at, offset, wire.segments) {
        Ok(slices) => Plan::Read { slices, high_watermark },
        Err(error) => Plan::Fail(error),
    }
}

/// READ, DENSE: the slices hold `offset` and everything after it, or it is an error.
fn slices(
    cluster: ClusterId,
    at: &TopicPartition,
    offset: u64,
    segments: Vec<v1::Segment>,
) -> Result<Vec<Slice>, ConsumeError> {
    let mut slices = Vec::with_capacity(segments.len());
    let mut next: Option<u64> = None;
    for segment in segments {
        let slice = slice(cluster, segment)?;
        let fits = match next {
            None => slice.base_offset <= offset && offset <= slice.last_offset,
            Some(next) => slice.base_offset == next && slice.last_offset >= next,
        };
        if !fits {
            let expected = next.unwrap_or(offset);
            let found = slice.base_offset;
            return Err(ConsumeError::IndexGap { at: at.clone(), expected, found });
        }
        let behind = slice.last_offset.checked_add(1);
        next = Some(behind.ok_or_else(|| convert::malformed("segment's last offset"))?);
        slices.push(slice);
    }
    Ok(slices)
}

pub(super) fn slice(cluster: ClusterId, wire: v1::Segment) -> Result<Slice, ConsumeError> {
    let Some(v1::segment::Source::L0(object)) = wire.source else {
        return Err(convert::malformed("segment source").into());
    };
    let generation: Generation = convert::generation(object.generation)?;
    let end = wire.position.checked_add(u64::from(wire.length));
    Ok(Slice {
        base_offset: wire.base_offset,
        last_offset: wire.last_offset,
        object: ObjectId {
            cluster,
            generation,
            session: SessionId(object.session),
            sequence: object.sequence,
        },
        start: wire.position,
        end: end.ok_or_else(|| convert::malformed("segment's position"))?,
        crc32c: wire.crc32c,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(base_offset: u64, last_offset: u64) -> v1::Segment {
        let generation = Some(v1::Generation { counter: 1, random: 2 });
        v1::Segment {
            base_offset,
            last_offset,
            position: base_offset * 10,
            length: ((last_offset - base_offset + 1) * 10) as u32,
            source: Some(v1::segment::Source::L0(v1::L0Object {
                generation,
                session: 3,
                sequence: 4,
            })),
            ..v1::Segment::default()
        }
    }

    fn plan(offset: u64, reset: OffsetReset, segments: &[(u64, u64)]) -> Plan {
        plan_if(true, offset, reset, segments)
    }

    fn plan_if(sure: bool, offset: u64, reset: OffsetReset, segments: &[(u64, u64)]) -> Plan {
        let wire = v1::ReadPlan {
            log_start: 10,
            high_watermark: 40,
            segments: segments.iter().map(|(base, last)| segment(*base, *last)).collect(),
            ..v1::ReadPlan::default()
        };
        let cluster = ClusterId::from_bytes([0; 16]);
        judge(cluster, &TopicPartition::new("t", 1), offset, reset, sure, wire)
    }

    #[test]
    fn a_plan_may_begin_before_the_offset_asked_for() {
        let Plan::Read { slices, high_watermark } =
            plan(15, OffsetReset::None, &[(10, 19), (20, 39)])
        else {
            panic!("it should be read")
        };
        assert_eq!((slices.len(), high_watermark), (2, 40));
        assert!(slices[0].joins(&slices[1]));
    }

    #[test]
    fn an_index_with_a_gap_is_an_error_not_a_skip() {
        for (segments, expected, found) in
            [(vec![(10, 19), (21, 39)], 20, 21), (vec![(16, 19)], 15, 16)]
        {
            let Plan::Fail(error) = plan(15, OffsetReset::Earliest, &segments) else { panic!() };
            let wanted = format!("the index of t/1 goes on at offset {found}, expected {expected}");
            assert_eq!(error.to_string(), wanted);
        }
    }

    #[test]
    fn an_offset_outside_the_log_follows_the_reset_policy() {
        for offset in [3, 41] {
            let Plan::Reset { offset: earliest, .. } = plan(offset, OffsetReset::Earliest, &[])
            else {
                panic!()
            };
            let Plan::Reset { offset: latest, .. } = plan(offset, OffsetReset::Latest, &[]) else {
                panic!()
            };
            assert_eq!((earliest, latest), (10, 40));
            let Plan::Fail(error) = plan(offset, OffsetReset::None, &[]) else { panic!() };
            let text = error.to_string();
            assert!(text.contains(&format!("offset {offset} of t/1")), "{text}");
        }
    }

    #[test]
    fn only_a_sure_answer_says_that_an_offset_lies_beyond_the_end() {
        assert!(matches!(plan_if(false, 41, OffsetReset::Earliest, &[]), Plan::Beyond));
        assert!(matches!(plan_if(false, 9, OffsetReset::Earliest, &[]), Plan::Reset { .. }));
    }

    #[test]
    fn numbers_that_leave_no_room_are_malformed() {
        let cluster = ClusterId::from_bytes([0; 16]);
        let far = v1::Segment { position: u64::MAX, ..segment(0, 9) };
        assert!(slice(cluster, far).is_err());
        let last = v1::Segment { last_offset: u64::MAX, ..segment(0, 9) };
        let at = TopicPartition::new("t", 1);
        assert!(slices(cluster, &at, 0, vec![last]).is_err());
    }

    #[test]
    fn the_end_of_the_log_is_in_range() {
        let Plan::Read { slices, .. } = plan(40, OffsetReset::None, &[]) else { panic!() };
        assert!(slices.is_empty());
    }
}
