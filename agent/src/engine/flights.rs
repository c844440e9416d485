//! Objects between their flush and the answer to their commit, in the order of their sequence numbers.
//!
//! PUTs finish in any order; commits go out in sequence order, one request at a time, each with as many finished
//! objects as it may carry. At most [`WINDOW`] objects are in here (RETRY: a session's results are kept for that many).

use super::leases::Place;
use crate::partition::PartitionId;
use crate::ticket::Pending;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use streamhouse_host::{Mistake, is_planted};
use streamhouse_proto::v1::{ObjectCommit, SliceCommit};
use streamhouse_segment::SliceOutcome;

/// Sequence n + 64 is started only after n's answer.
pub(crate) const WINDOW: usize = 64;
/// The most slices in one commit request.
const MAX_COMMIT_SLICES: usize = 4_096;
/// The most bytes of one commit request, about.
const MAX_COMMIT_BYTES: usize = 2 << 20;
/// A slice's share of a commit request: 87 bytes of fields and their tags at the most.
const SLICE_COMMIT_BYTES: usize = 128;
/// A batch's of an idempotent producer: 37 at the most.
const PRODUCER_BATCH_BYTES: usize = 40;

/// A run of batches of one partition inside an object.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) partition: PartitionId,
    pub(crate) place: Place,
    /// Empty once the slice is not `live`.
    pub(crate) batches: Vec<Pending>,
    /// It may still be accepted. Otherwise its batches are elsewhere, and a refusal is expected.
    pub(crate) live: bool,
}

/// An object built from what was flushed: its bytes, in chunks, and what its commit will say of the slices, in their order.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) chunks: Vec<Bytes>,
    pub(crate) slices: Vec<SliceCommit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Uploading,
    Stored,
    GivenUp,
}

/// One object on its way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) sequence: u64,
    pub(crate) slices: Vec<Slice>,
    /// Partitions whose epochs its abandonment raises, once that was sent.
    pub(crate) abandoned: Option<Vec<PartitionId>>,
    /// What its footer says of earlier slices; kept until it is in the store, to be said elsewhere if it never is.
    outcomes: Vec<SliceOutcome>,
    commits: Vec<SliceCommit>,
    size: u64,
    stage: Stage,
}

/// An object's chunks, walked through once.
struct Chunks<'a> {
    rest: &'a [Bytes],
    /// Where the first of them begins in the object.
    start: usize,
}

impl Chunks<'_> {
    /// That range of the object, if it lies within one chunk. Ranges are asked for in their order.
    fn slice(&mut self, range: Range<usize>) -> Option<Bytes> {
        let (mut chunk, mut rest) = self.rest.split_first()?;
        while range.start >= self.start + chunk.len() {
            self.start += chunk.len();
            self.rest = rest;
            (chunk, rest) = rest.split_first()?;
        }
        let (start, end) = (range.start.checked_sub(self.start)?, range.end - self.start);
        (end <= chunk.len()).then(|| chunk.slice(start..end))
    }
}

/// All objects of one session that are on their way.
#[derive(Debug)]
pub(crate) struct Flights {
    window: VecDeque<Flight>,
    next_sequence: u64,
    uploads: usize,
    /// How many at the front are in the outstanding commit request.
    committing: usize,
}

impl Default for Flights {
    fn default() -> Self {
        Self { window: VecDeque::new(), next_sequence: 1, uploads: 0, committing: 0 }
    }
}

impl Flights {
    /// Whether another object may be started.
    pub(crate) fn has_room(&self, max_uploads: usize) -> bool {
        self.uploads < max_uploads && self.window.len() < WINDOW
    }

    pub(crate) fn uploads(&self) -> usize {
        self.uploads
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// Starts an object and returns its sequence number.
    pub(crate) fn start(&mut self, slices: Vec<Slice>, outcomes: Vec<SliceOutcome>) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.uploads += 1;
        self.window.push_back(Flight {
            sequence,
            slices,
            abandoned: None,
            outcomes,
            commits: Vec::new(),
            size: 0,
            stage: Stage::Uploading,
        });
        sequence
    }

    /// The object is built. From now on those of its batches that were copied are slices of it, so that what they were
    /// copied from may go; the others it holds as they are.
    pub(crate) fn built(&mut self, sequence: u64, built: Built) {
        let Some(flight) = self.uploading(sequence) else { return };
        let mut chunks = Chunks { rest: &built.chunks, start: 0 };
        for (slice, commit) in flight.slices.iter_mut().zip(&built.slices) {
            let mut at = usize::try_from(commit.position).unwrap_or(usize::MAX);
            for pending in &mut slice.batches {
                let end = at.saturating_add(pending.batch.len());
                if let Some(copy) = chunks.slice(at..end) {
                    pending.batch = copy;
                }
                at = end;
            }
        }
        flight.size = built.chunks.iter().map(|chunk| chunk.len() as u64).sum();
        flight.commits = built.slices;
    }

    /// The object is in the store. False if that is no news.
    pub(crate) fn stored(&mut self, sequence: u64) -> bool {
        self.finish(sequence, Stage::Stored).is_some()
    }

    /// The object's PUT was given up, or it could not even be built; the outcomes that it would have told. `None` if
    /// that is no news.
    pub(crate) fn given_up(&mut self, sequence: u64) -> Option<Vec<SliceOutcome>> {
        self.finish(sequence, Stage::GivenUp)
    }

    fn finish(&mut self, sequence: u64, stage: Stage) -> Option<Vec<SliceOutcome>> {
        let flight = self.uploading(sequence)?;
        flight.stage = stage;
        if stage == Stage::Stored && is_planted(Mistake::AckBeforeCommit) {
            for slice in &mut flight.slices {
                let mut base_offset = slice.place.base_offset;
                for pending in slice.batches.drain(..) {
                    let records = u64::from(pending.records);
                    pending.ticket.acknowledge(base_offset, 0);
                    base_offset += records;
                }
            }
        }
        let outcomes = std::mem::take(&mut flight.outcomes);
        self.uploads -= 1;
        Some(outcomes)
    }

    /// Takes the batches out of an object that is still being uploaded. Its slices stay, for their epochs to be raised.
    pub(crate) fn empty(&mut self, sequence: u64) -> Vec<(PartitionId, Vec<Pending>)> {
        let slices = self.uploading(sequence).map(|flight| flight.slices.iter_mut());
        let taken = slices.into_iter().flatten();
        taken.map(|slice| (slice.partition, std::mem::take(&mut slice.batches))).collect()
    }

    fn uploading(&mut self, sequence: u64) -> Option<&mut Flight> {
        let first = self.window.front()?.sequence;
        let place = usize::try_from(sequence.checked_sub(first)?).ok()?;
        self.window.get_mut(place).filter(|flight| flight.stage == Stage::Uploading)
    }

    /// The next commit request: finished objects from the front, while no other request is outstanding.
    pub(crate) fn next_commit(&mut self) -> Option<Vec<ObjectCommit>> {
        if self.committing > 0 {
            return None;
        }
        let mut objects = Vec::new();
        let (mut slices, mut batches) = (0, 0);
        for flight in &mut self.window {
            if flight.stage == Stage::Uploading {
                break;
            }
            slices += flight.slices.len();
            batches += flight.commits.iter().map(|slice| slice.producers.len()).sum::<usize>();
            let bytes = slices * SLICE_COMMIT_BYTES + batches * PRODUCER_BATCH_BYTES;
            let full = slices > MAX_COMMIT_SLICES || bytes > MAX_COMMIT_BYTES;
            if full && !objects.is_empty() {
                break;
            }
            objects.push(flight.commit());
        }
        self.committing = objects.len();
        (!objects.is_empty()).then_some(objects)
    }

    /// Takes out the next object of the outstanding commit request, which was answered. One by one: what an answer
    /// means for the objects behind it must reach those of the same request, too.
    pub(crate) fn next_answered(&mut self) -> Option<Flight> {
        self.committing = self.committing.checked_sub(1)?;
        self.window.pop_front()
    }

    /// Takes out the objects for which no commit was ever sent.
    pub(crate) fn never_committed(&mut self) -> Vec<Flight> {
        self.uploads = 0;
        let awaited = match is_planted(Mistake::LostAnswerTakenForFailure) {
            true => 0,
            false => self.committing,
        };
        self.window.split_off(awaited.min(self.window.len())).into()
    }

    /// The batches whose objects are on their way.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &Pending> {
        self.window.iter().flat_map(|flight| &flight.slices).flat_map(|slice| &slice.batches)
    }

    /// Takes back the batches of the partition's live slices of epochs below `epoch`, in order, and the number of
    /// those slices.
    pub(crate) fn recall(&mut self, id: PartitionId, epoch: u32) -> (usize, Vec<Pending>) {
        let mut slices = 0;
        let mut batches = Vec::new();
        for slice in self.window.iter_mut().flat_map(|flight| &mut flight.slices) {
            if slice.live && slice.partition == id && slice.place.epoch < epoch {
                slice.live = false;
                slices += 1;
                batches.append(&mut slice.batches);
            }
        }
        (slices, batches)
    }
}

impl Flight {
    fn commit(&mut self) -> ObjectCommit {
        let sequence = self.sequence;
        if self.stage == Stage::Stored {
            // Kept here no longer: RETRY is by the request, which is sent again as it is.
            let slices = std::mem::take(&mut self.commits);
            return ObjectCommit { sequence, size: self.size, slices, ..Default::default() };
        }
        // A slice whose batches went elsewhere has lost its epoch already; raising it again would hit its successor.
        let live = self.slices.iter().filter(|slice| slice.live);
        let partitions: Vec<_> = live.map(|slice| slice.partition).collect();
        let abandoned_partitions = partitions.iter().map(|id| id.to_wire()).collect();
        self.abandoned = Some(partitions);
        ObjectCommit { sequence, abandoned: true, abandoned_partitions, ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::engine::testing::{partition, pending};

    fn slice(number: u32, epoch: u32, size: usize) -> Slice {
        let place = Place { epoch, epoch_start_offset: 0, base_offset: 0 };
        let batches = vec![pending(size, clock::now())];
        Slice { partition: partition(number), place, batches, live: true }
    }

    fn sequences(commit: Option<Vec<ObjectCommit>>) -> Vec<u64> {
        commit.unwrap_or_default().iter().map(|object| object.sequence).collect()
    }

    #[test]
    fn commits_go_out_in_sequence_order_one_request_at_a_time() {
        let mut flights = Flights::default();
        for _ in 0..4 {
            flights.start(vec![slice(0, 1, 1)], Vec::new());
        }
        flights.stored(2);
        flights.stored(3);
        assert_eq!(sequences(flights.next_commit()), [0; 0]);
        flights.stored(1);
        assert_eq!(sequences(flights.next_commit()), [1, 2, 3]);
        flights.stored(4);
        assert_eq!(sequences(flights.next_commit()), [0; 0], "one is outstanding");
        let answered = std::iter::from_fn(|| flights.next_answered());
        assert_eq!(answered.map(|flight| flight.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(sequences(flights.next_commit()), [4]);
    }

    #[test]
    fn the_sixty_fifth_object_waits_for_the_first_answer() {
        let mut flights = Flights::default();
        for sequence in 1..=WINDOW as u64 {
            assert!(flights.has_room(4));
            assert_eq!(flights.start(vec![slice(0, 1, 1)], Vec::new()), sequence);
            flights.stored(sequence);
        }
        assert!(!flights.has_room(4));
        assert_eq!(sequences(flights.next_commit()).len(), WINDOW);
        flights.next_answered();
        assert!(flights.has_room(4));
    }

    #[test]
    fn only_so_many_uploads_run_at_once() {
        let mut flights = Flights::default();
        flights.start(vec![], Vec::new());
        flights.start(vec![], Vec::new());
        assert!(!flights.has_room(2));
        assert!(flights.given_up(1).is_some());
        assert!(!flights.stored(1), "the first word counts");
        assert!(flights.has_room(2));
    }

    #[test]
    fn a_request_stays_within_its_limits() {
        let mut flights = Flights::default();
        for sequence in 1..=3 {
            flights.start((0..2_000).map(|number| slice(number, 1, 1)).collect(), Vec::new());
            flights.stored(sequence);
        }
        assert_eq!(sequences(flights.next_commit()), [1, 2]);
    }

    #[test]
    fn an_abandoned_object_raises_only_epochs_that_are_still_in_use() {
        let mut flights = Flights::default();
        flights.start(vec![slice(0, 1, 1), slice(1, 1, 1)], Vec::new());
        let (slices, batches) = flights.recall(partition(0), 2);
        assert_eq!((slices, batches.len()), (1, 1));
        flights.given_up(1);
        let commit = flights.next_commit().unwrap().remove(0);
        assert!(commit.abandoned && commit.slices.is_empty());
        assert_eq!(commit.abandoned_partitions, [partition(1).to_wire()]);
    }

    #[test]
    fn a_built_object_lends_its_bytes_to_the_batches_that_it_copied() {
        let mut flights = Flights::default();
        let slices = vec![slice(0, 1, 2), slice(1, 1, 3), slice(2, 1, 2)];
        let shared = slices[1].batches[0].batch.as_ptr();
        flights.start(slices, Vec::new());
        let commits = [(1, 2), (3, 3), (6, 2)].map(|(position, length)| SliceCommit {
            position,
            length,
            ..Default::default()
        });
        // The second batch is shared, but for its first byte.
        let chunks: Vec<Bytes> = [&b"-aab"[..], b"bb", b"cc-"].map(Bytes::from_static).into();
        flights.built(1, Built { chunks: chunks.clone(), slices: commits.to_vec() });
        let mut batch = |number| flights.recall(partition(number), 2).1.remove(0).batch;
        assert_eq!(&batch(0)[..], b"aa");
        assert_eq!(batch(1).as_ptr(), shared);
        assert_eq!(batch(2).as_ptr(), chunks[2].as_ptr());
    }
}
