//! One partition on its way through the fetcher: planned, being fetched, fetched, being decoded. Pure.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use streamhouse_segment::ids::{ObjectId, TopicId};
use tokio::time::Instant;

use super::decode::{Pieces, Progress};
use super::plan::Slice;
use super::targets::{Place, Target};
use crate::clock;
use crate::types::TopicPartition;

/// Neighbouring slices are joined into one run up to this many bytes; a larger slice goes alone.
const RUN_BYTES: u64 = 1 << 20;

/// A new look-up is made when fewer slices than this are planned.
const PLAN_AHEAD: usize = 32;

/// Slices of one object that follow one another, fetched and decoded together.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: u64,
    pub(super) slices: Arc<[Slice]>,
    /// What was fetched.
    pub(super) pieces: Option<Pieces>,
    /// How far it is decoded.
    pub(super) progress: Progress,
    /// How much room its next batch wants, if that was too much the last time.
    pub(super) needs: usize,
    /// How often its bytes were found damaged.
    pub(super) damaged: u32,
}

impl Run {
    /// How many bytes its slices have.
    pub(super) fn size(&self) -> usize {
        self.slices.iter().map(Slice::bytes).sum::<u64>() as usize
    }
}

/// Whether a look-up may decide that the target lies beyond the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// No: the controller that answers may lag behind.
    Unsure,
    /// The leader is being asked; until then nothing is looked up.
    Asking,
    /// Yes: whoever answers next knows at least what the leader knew.
    Sure,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) at: Arc<TopicPartition>,
    pub(super) topic: TopicId,
    pub(super) target: Target,
    /// The first offset not yet handed to the decoder.
    pub(super) from: u64,
    /// The first offset not yet planned.
    pub(super) planned_to: u64,
    pub(super) high_watermark: u64,
    planned: VecDeque<Slice>,
    pub(super) runs: VecDeque<Run>,
    last_run: u64,
    /// Its front run is at the decoder.
    pub(super) decoding: bool,
    /// It has an error that the application has not seen yet.
    pub(super) stopped: bool,
    /// The store did not have this object; whether the index still names it is being asked.
    pub(super) suspect: Option<ObjectId>,
    /// No look-up before.
    pub(super) not_before: Option<Instant>,
    pub(super) end: End,
}

impl Slot {
    pub(super) fn new(place: &Place) -> Self {
        Self {
            at: place.at.clone(),
            topic: place.topic,
            target: Target { version: 0, offset: None },
            from: 0,
            planned_to: 0,
            high_watermark: place.high_watermark,
            planned: VecDeque::new(),
            runs: VecDeque::new(),
            last_run: 0,
            decoding: false,
            stopped: true,
            suspect: None,
            not_before: None,
            end: End::Unsure,
        }
    }

    /// Drops everything and reads for that target.
    pub(super) fn restart(&mut self, target: Target) {
        self.target = target;
        self.stopped = target.offset.is_none();
        self.decoding = false;
        self.suspect = None;
        self.go_to(target.offset.unwrap_or(0));
    }

    /// Drops everything and goes on at `offset` for the same target.
    pub(super) fn go_to(&mut self, offset: u64) {
        (self.from, self.planned_to) = (offset, offset);
        self.end = End::Unsure;
        self.planned.clear();
        self.not_before = None;
        self.runs.clear();
    }

    /// Whether a look-up is wanted. A target beyond the known end is looked up, too: only the index knows.
    pub(super) fn wants_plan(&self, now: Instant) -> bool {
        let caught_up = self.planned_to == self.high_watermark;
        !self.stopped
            && !caught_up
            && self.end != End::Asking
            && self.planned.len() < PLAN_AHEAD
            && self.not_before.is_none_or(|at| at <= now)
    }

    /// When a look-up that waits is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let caught_up = self.planned_to == self.high_watermark;
        let asking = self.end == End::Asking;
        if self.stopped || caught_up || asking || self.planned.len() >= PLAN_AHEAD {
            return None;
        }
        Some(self.not_before.unwrap_or_else(clock::now))
    }

    /// Drops that run and everything behind it, to be planned anew from its first offset.
    pub(super) fn forget_from(&mut self, run: u64) {
        let Some(first) = self.runs.iter().position(|known| known.id == run) else { return };
        self.planned_to = self.runs[first].slices[0].base_offset.max(self.from);
        self.planned.clear();
        self.not_before = None;
        self.runs.truncate(first);
    }

    /// Takes over the slices of a plan that was asked for at `planned_to`.
    pub(super) fn plan(&mut self, slices: Vec<Slice>, high_watermark: u64) {
        self.high_watermark = self.high_watermark.max(high_watermark);
        self.end = End::Unsure;
        if slices.first().is_none_or(|first| Some(first.object) != self.suspect) {
            self.suspect = None;
        }
        if let Some(last) = slices.last() {
            self.planned_to = last.last_offset + 1;
        }
        self.planned.extend(slices);
    }

    /// Where the next slice to fetch lies.
    pub(super) fn next_range(&self) -> Option<(ObjectId, Range<u64>)> {
        let slice = self.planned.front().filter(|_| !self.stopped)?;
        Some((slice.object, slice.start..slice.end))
    }

    /// How many slices make the next run, and how many bytes they have.
    fn next_run_size(&self) -> (usize, u64) {
        let (mut count, mut bytes) = (0, 0);
        let mut before: Option<&Slice> = None;
        for slice in &self.planned {
            let follows = before
                .is_none_or(|before| bytes + slice.bytes() <= RUN_BYTES && before.joins(slice));
            if !follows {
                break;
            }
            count += 1;
            bytes += slice.bytes();
            before = Some(slice);
        }
        (count, bytes)
    }

    pub(super) fn next_run_bytes(&self) -> usize {
        self.next_run_size().1 as usize
    }

    /// The next slices to fetch, which become a run.
    pub(super) fn next_run(&mut self) -> Option<&Run> {
        let (count, _) = self.next_run_size();
        if count == 0 {
            return None;
        }
        let slices: Vec<Slice> = self.planned.drain(..count).collect();
        self.last_run += 1;
        self.runs.push_back(Run {
            id: self.last_run,
            slices: slices.into(),
            pieces: None,
            progress: Progress::default(),
            needs: 0,
            damaged: 0,
        });
        self.runs.back()
    }

    pub(super) fn has_planned(&self) -> bool {
        !self.stopped && !self.planned.is_empty()
    }

    /// Something is planned, fetched or being decoded.
    pub(super) fn is_busy(&self) -> bool {
        !self.planned.is_empty() || !self.runs.is_empty()
    }

    /// Drops everything until there is another target.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.go_to(self.from);
    }

    /// How many of its runs are being fetched.
    pub(super) fn getting(&self) -> usize {
        self.runs.iter().filter(|run| run.pieces.is_none()).count()
    }

    pub(super) fn run(&mut self, id: u64) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id)
    }

    /// A run was fetched.
    pub(super) fn got(&mut self, id: u64, pieces: Pieces) {
        if let Some(run) = self.run(id) {
            run.pieces = Some(pieces);
        }
    }

    /// READ: only the front run may be decoded, so that records come out in offset order.
    pub(super) fn can_decode(&self) -> bool {
        !self.stopped && !self.decoding && self.runs.front().is_some_and(|run| run.pieces.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::budget::Budget;
    use streamhouse_segment::ids::{ClusterId, Generation, SessionId};

    fn slice(base: u64, start: u64, bytes: u64, sequence: u64) -> Slice {
        let object = ObjectId {
            cluster: ClusterId::from_bytes([0; 16]),
            generation: Generation { counter: 1, random: 1 },
            session: SessionId(1),
            sequence,
        };
        let end = start + bytes;
        Slice { base_offset: base, last_offset: base + 9, object, start, end, crc32c: 0 }
    }

    fn slot() -> Slot {
        let at = Arc::new(TopicPartition::new("t", 0));
        let place = Place { at, topic: TopicId::from_bytes([0; 16]), high_watermark: 100 };
        let mut slot = Slot::new(&place);
        slot.restart(Target { version: 1, offset: Some(0) });
        slot
    }

    fn pieces() -> Pieces {
        let hold = Arc::new(Budget::default().take(0));
        Pieces { slices: [].into(), hold, fresh: true }
    }

    #[test]
    fn only_neighbours_in_one_object_become_one_run() {
        let mut slot = slot();
        let slices = vec![
            slice(0, 0, 50, 1),
            slice(10, 50, 50, 1),
            slice(20, 0, 50, 2),
            slice(30, 60, 9, 2),
        ];
        slot.plan(slices, 100);
        let runs: Vec<usize> =
            std::iter::from_fn(|| slot.next_run().map(|run| run.slices.len())).collect();
        assert_eq!(runs, [2, 1, 1]);
        assert_eq!(slot.planned_to, 40);
    }

    #[test]
    fn a_run_is_not_joined_beyond_its_limit() {
        let mut slot = slot();
        slot.plan(vec![slice(0, 0, 2 << 20, 1), slice(10, 2 << 20, 1, 1)], 100);
        assert_eq!(slot.next_run().unwrap().slices.len(), 1);
    }

    #[test]
    fn runs_are_decoded_in_order_whichever_get_is_done_first() {
        let mut slot = slot();
        slot.plan(vec![slice(0, 0, 5, 1), slice(10, 0, 5, 2)], 100);
        let first = slot.next_run().unwrap().id;
        let second = slot.next_run().unwrap().id;
        slot.got(second, pieces());
        assert!(!slot.can_decode());
        slot.got(first, pieces());
        assert!(slot.can_decode());
    }

    #[test]
    fn a_run_that_is_forgotten_is_planned_again_from_its_first_offset() {
        let mut slot = slot();
        slot.plan(vec![slice(0, 0, 5, 1), slice(10, 0, 5, 2), slice(20, 0, 5, 3)], 100);
        slot.next_run();
        let second = slot.next_run().unwrap().id;
        slot.next_run();
        slot.forget_from(second);
        assert_eq!((slot.planned_to, slot.runs.len(), slot.has_planned()), (10, 1, false));
        // Of the front run, only what was not decoded yet is read again.
        slot.from = 7;
        slot.forget_from(slot.runs[0].id);
        assert_eq!((slot.planned_to, slot.is_busy()), (7, false));
    }

    #[test]
    fn a_caught_up_partition_wants_nothing() {
        let now = crate::clock::now();
        let mut slot = slot();
        assert!(slot.wants_plan(now));
        slot.restart(Target { version: 2, offset: Some(100) });
        assert!(!slot.wants_plan(now));
        slot.high_watermark = 101;
        assert!(slot.wants_plan(now));
        slot.restart(Target { version: 3, offset: None });
        assert!(!slot.wants_plan(now));
    }
}
