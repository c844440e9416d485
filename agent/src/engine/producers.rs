//! What is known of the idempotent producers that send here (DEDUP).
//!
//! The decision about a batch is the state machine's, when the batch's commit is applied. What is known here answers
//! most questions sooner, and keeps a bad batch from having its whole slice refused: a copy of a committed batch is
//! acknowledged at once, a copy of one on its way shares its fate, a gap and an epoch that is over are refused.
//!
//! A producer is looked up when its first batch for a partition comes, and again when anything happened that this
//! agent did not expect: a batch of it failed, or the partition's lease was news. Only its own batches for that
//! partition wait for the answer.

use super::track::{Decision, Track};
use crate::partition::PartitionId;
use crate::ticket::Pending;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};
use streamhouse_proto::v1::{ErrorCode, ErrorInfo, ProducerProgress};

/// BOUND: questions in one look-up; the controllers' limit.
const MAX_QUESTIONS: usize = 1_000;
/// Tracks kept before those without a batch on its way are forgotten; a busy one is bounded by its batches.
const FIRST_SWEEP: usize = 16_384;

/// What is committed of a producer in a partition?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question {
    pub(crate) partition: PartitionId,
    pub(crate) producer: u64,
}

/// The answer to a look-up.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) questions: Vec<Question>,
    /// One per question, and the index as of which it is; `None` if the controllers did not answer.
    pub(crate) answer: Option<(Vec<ProducerProgress>, u64)>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Producers {
    tracks: BTreeMap<Question, Track>,
    /// To be asked.
    questions: BTreeSet<Question>,
    asking: bool,
    sweep_at: usize,
}

impl Default for Producers {
    fn default() -> Self {
        Self {
            tracks: BTreeMap::new(),
            questions: BTreeSet::new(),
            asking: false,
            sweep_at: FIRST_SWEEP,
        }
    }
}

impl Producers {
    /// Takes a batch. It comes back if it may be written; otherwise it waits, or was answered.
    pub(crate) fn admit(&mut self, partition: PartitionId, pending: Pending) -> Option<Pending> {
        self.decide(partition, pending, false)
    }

    fn decide(&mut self, partition: PartitionId, pending: Pending, fresh: bool) -> Option<Pending> {
        let Some(sequence) = pending.sequence else { return Some(pending) };
        let key = Question { partition, producer: sequence.producer };
        if !self.tracks.contains_key(&key) {
            self.make_room();
        }
        let track = self.tracks.entry(key).or_default();
        match track.admit(partition, pending, sequence, fresh) {
            Decision::Write(pending) => Some(pending),
            Decision::Answered => {
                if track.is_useless() {
                    self.tracks.remove(&key);
                }
                None
            }
            Decision::Waits => {
                self.questions.insert(key);
                None
            }
        }
    }

    fn make_room(&mut self) {
        if self.tracks.len() >= self.sweep_at {
            self.tracks.retain(|_, track| track.is_busy());
            self.sweep_at = (self.tracks.len() * 2).max(FIRST_SWEEP);
        }
    }

    /// The next look-up, while none is outstanding.
    pub(crate) fn next_questions(&mut self) -> Option<Vec<Question>> {
        if self.asking || self.questions.is_empty() {
            return None;
        }
        let some: Vec<_> = self.questions.iter().take(MAX_QUESTIONS).copied().collect();
        for asked in &some {
            self.questions.remove(asked);
            if let Some(track) = self.tracks.get_mut(asked) {
                track.is_asked();
            }
        }
        self.asking = true;
        Some(some)
    }

    /// Takes an answer; what may be written now, in order.
    pub(crate) fn found(&mut self, found: Found) -> Vec<(PartitionId, Pending)> {
        self.asking = false;
        let mut free = Vec::new();
        let (mut answers, applied) = match found.answer {
            Some((answers, applied)) => (answers.into_iter(), applied),
            None => (Vec::new().into_iter(), 0),
        };
        for key in found.questions {
            let answer = answers.next();
            let Some(track) = self.tracks.get_mut(&key) else { continue };
            let asked = track.asked();
            let waiting = track.take_waiting();
            match answer {
                Some(answer) => track.found(answer, applied),
                None => {
                    refuse_unknown(key.partition, waiting);
                    continue;
                }
            }
            // What came after the look-up was asked may be of a producer, or an epoch, that was made after it.
            for (number, pending) in waiting.into_iter().enumerate() {
                if let Some(pending) = self.decide(key.partition, pending, number < asked) {
                    free.push((key.partition, pending));
                }
            }
        }
        free
    }

    fn of(partition: PartitionId) -> RangeInclusive<Question> {
        Question { partition, producer: 0 }..=Question { partition, producer: u64::MAX }
    }

    /// Others may have written to the partition: what is committed is to be looked up again.
    pub(crate) fn doubt(&mut self, partition: PartitionId) {
        for (_, track) in self.tracks.range_mut(Self::of(partition)) {
            track.doubt();
        }
    }

    /// The partition is no longer ours: what waited to be written to it.
    pub(crate) fn forget(&mut self, partition: PartitionId) -> Vec<Pending> {
        let keys: Vec<_> = self.tracks.range(Self::of(partition)).map(|(key, _)| *key).collect();
        let mut waiting = Vec::new();
        for key in keys {
            self.questions.remove(&key);
            waiting.extend(self.tracks.remove(&key).map(|mut track| track.take_waiting()));
        }
        waiting.into_iter().flatten().collect()
    }

    /// What has waited for longer than `timeout`.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        timeout: Duration,
    ) -> Vec<(PartitionId, Vec<Pending>)> {
        let expired = self
            .tracks
            .iter_mut()
            .map(|(key, track)| (key.partition, track.take_expired(now, timeout)));
        expired.filter(|(_, late)| !late.is_empty()).collect()
    }

    /// Whether a batch of the partition waits for a look-up.
    pub(crate) fn waits(&self, partition: PartitionId) -> bool {
        self.tracks.range(Self::of(partition)).any(|(_, track)| track.waits())
    }

    /// Whether any does.
    pub(crate) fn has_waiting(&self) -> bool {
        self.asking || !self.questions.is_empty()
    }

    /// Nothing more will be written: everything that waited.
    pub(crate) fn end(&mut self) -> Vec<(PartitionId, Vec<Pending>)> {
        self.questions.clear();
        let all = std::mem::take(&mut self.tracks).into_iter();
        all.map(|(key, mut track)| (key.partition, track.take_waiting().into())).collect()
    }
}

fn refuse_unknown(partition: PartitionId, waiting: impl IntoIterator<Item = Pending>) {
    for pending in waiting {
        let message = format!("it could not be learnt what {partition} has of the producer");
        pending.ticket.refuse(ErrorInfo::new(ErrorCode::Overloaded, message));
    }
}
