//! From fetched bytes to records: checksum, decompression, and one walk over every record. Runs off the polling task.
//!
//! A run is decoded in steps, each within an allowance of decompressed bytes: what a megabyte of the store becomes in
//! memory can be two hundred times as much.

use std::sync::Arc;

use bytes::Bytes;
use streamhouse_host::{Mistake, is_planted};
use streamhouse_segment::batch::{self, BatchError, BatchHeader, Limits};
use streamhouse_segment::object::verify_slice;

use super::budget::{Hold, Memory};
use super::buffers::Buffer;
use super::cache::SegmentCache;
use super::error::ConsumeError;
use super::plan::Slice;
use crate::types::TopicPartition;

/// A batch ready to be handed out.
#[derive(Debug)]
pub(super) struct ReadyBatch {
    /// What is left of it; all records were found well-formed.
    pub(super) records: batch::Records,
    /// How many records are left.
    pub(super) count: usize,
    /// The offset after the batch.
    pub(super) next_offset: u64,
    pub(super) charge: Arc<Charge>,
}

/// The memory that a decoded batch is in.
#[derive(Debug)]
pub(super) struct Charge {
    _decoded: Hold,
    /// Without compression its records lie in the fetched bytes.
    _fetched: Option<Arc<Hold>>,
}

/// What a batch takes besides its records, roughly.
const BATCH_OVERHEAD: usize = 512;

/// The bytes of a run, slice by slice.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    pub(super) slices: Arc<[Bytes]>,
    pub(super) hold: Arc<Hold>,
    /// They come from the store, so the cache does not have them.
    pub(super) fresh: bool,
}

/// How far a run is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    slice: usize,
    /// Where the next batch begins in it.
    position: usize,
    /// The slice's checksum was found right.
    verified: bool,
}

impl Progress {
    /// The same place, in bytes that nobody has looked at yet.
    pub(super) fn unverified(self) -> Self {
        Self { verified: false, ..self }
    }
}

/// One step of decoding a run.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) at: Arc<TopicPartition>,
    pub(super) slices: Arc<[Slice]>,
    pub(super) pieces: Pieces,
    pub(super) progress: Progress,
    /// Nothing before this offset is wanted.
    pub(super) from: u64,
    /// Nothing else is in memory: the first batch passes whatever its size.
    pub(super) alone: bool,
    pub(super) cache: Option<SegmentCache>,
    /// Where buffers come from.
    pub(super) memory: Arc<Memory>,
}

/// What a step brought. READ: the batches are good even where the run ends in an error.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) batches: Vec<ReadyBatch>,
    pub(super) progress: Progress,
    pub(super) end: End,
}

/// Why a step ended.
#[derive(Debug)]
pub(super) enum End {
    /// That was all of the run.
    Done,
    /// The next batch may need this many bytes, more than what was left of the allowance.
    Full { needs: usize },
    /// READ: from here on nothing of the run may be handed out.
    Failed(ConsumeError),
}

/// How much memory decoding this batch may take.
fn room_for(batch: &[u8], header: &BatchHeader, limits: &Limits) -> Result<usize, BatchError> {
    let decoded = match header.compression()? {
        // It stays where it is.
        batch::Compression::None => 0,
        batch::Compression::Lz4 => batch::decoded_bound(batch, limits)?,
    };
    Ok(decoded + BATCH_OVERHEAD)
}

impl Job {
    /// BOUND: within `room`, of which every batch takes its part.
    pub(super) fn run(self, mut room: Hold) -> Decoded {
        let mut decoded = Decoded { batches: Vec::new(), progress: self.progress, end: End::Done };
        if let Err(end) = self.advance(&mut room, &mut decoded) {
            decoded.end = end;
        }
        decoded
    }

    /// Ends with `Ok` at the end of the run.
    fn advance(&self, room: &mut Hold, decoded: &mut Decoded) -> Result<(), End> {
        let limits = Limits::default();
        while let Some(slice) = self.slices.get(decoded.progress.slice) {
            let bytes = &self.pieces.slices[decoded.progress.slice];
            if !decoded.progress.verified && !is_planted(Mistake::ChecksumNotChecked) {
                verify_slice(bytes, slice.crc32c, slice.base_offset, slice.last_offset)
                    .map_err(|error| End::Failed(self.corrupt(slice, error.to_string())))?;
                decoded.progress.verified = true;
                self.keep(slice, bytes);
            }
            for one in batch::split(bytes.slice(decoded.progress.position..)) {
                let wrong = |e: BatchError| End::Failed(self.corrupt(slice, e.to_string()));
                let one = one.map_err(wrong)?;
                let size = one.len();
                let header = BatchHeader::parse(&one).map_err(wrong)?;
                let last = header.last_offset().unsigned_abs();
                if last >= self.from {
                    // BOUND: what it becomes is known before it is decompressed.
                    let needs = room_for(&one, &header, &limits).map_err(wrong)?;
                    let first = self.alone && decoded.batches.is_empty();
                    if needs > room.bytes() && !first {
                        return Err(End::Full { needs });
                    }
                    let hold = room.split(needs);
                    let batch = self.decode(one, last + 1, hold, &limits).map_err(wrong)?;
                    decoded.batches.push(batch);
                }
                decoded.progress.position += size;
            }
            let slice = decoded.progress.slice + 1;
            decoded.progress = Progress { slice, position: 0, verified: false };
        }
        Ok(())
    }

    fn decode(
        &self,
        bytes: Bytes,
        next_offset: u64,
        mut hold: Hold,
        limits: &Limits,
    ) -> Result<ReadyBatch, BatchError> {
        let plain = BatchHeader::parse(&bytes)?.compression()? == batch::Compression::None;
        let decoded = if plain {
            batch::decode(bytes, limits)?
        } else {
            let room = hold.bytes() - BATCH_OVERHEAD;
            batch::decode_into(bytes, Buffer::take(&self.memory, room), limits)?
        };
        let mut skip = 0;
        for record in decoded.record_refs() {
            if record?.offset.unsigned_abs() < self.from {
                skip += 1;
            }
        }
        let header = &decoded.header;
        let count = if header.is_control() { 0 } else { decoded.record_count() as usize - skip };
        hold.resize(decoded.buffer_bytes() + BATCH_OVERHEAD);
        let mut records = decoded.into_iter();
        if skip > 0 {
            records.nth(skip - 1);
        }
        let fetched = plain.then(|| self.pieces.hold.clone());
        let charge = Arc::new(Charge { _decoded: hold, _fetched: fetched });
        Ok(ReadyBatch { records, count, next_offset, charge })
    }

    /// READ: only bytes whose checksum holds go into the cache.
    fn keep(&self, slice: &Slice, bytes: &Bytes) {
        if let (Some(cache), true) = (&self.cache, self.pieces.fresh) {
            cache.insert(slice, bytes);
        }
    }

    fn corrupt(&self, slice: &Slice, problem: String) -> ConsumeError {
        slice.corrupt(&self.at, problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::budget::Budget;
    use streamhouse_segment::batch::{BatchBuilder, Compression, NO_HEADERS, ProducerInfo, assign};
    use streamhouse_segment::ids::{ClusterId, Generation, ObjectId, SessionId};

    /// A slice of three batches with ten records each.
    fn slice(compression: Compression) -> (Slice, Bytes) {
        let mut bytes = Vec::new();
        for base in [0, 10, 20] {
            let mut builder = BatchBuilder::new(compression, Limits::default());
            for number in 0..10 {
                let value = format!("record {}", base + number);
                builder.push(1, Some(b"key"), Some(value.as_bytes()), NO_HEADERS).unwrap();
            }
            let mut batch = builder.finish(ProducerInfo::NONE).unwrap().to_vec();
            assign(&mut batch, base, 1);
            bytes.extend(batch);
        }
        let object = ObjectId {
            cluster: ClusterId::from_bytes([1; 16]),
            generation: Generation { counter: 1, random: 1 },
            session: SessionId(1),
            sequence: 1,
        };
        let slice = Slice {
            base_offset: 0,
            last_offset: 29,
            object,
            start: 0,
            end: bytes.len() as u64,
            crc32c: crc32c::crc32c(&bytes),
        };
        (slice, bytes.into())
    }

    fn job(slice: Slice, bytes: Bytes) -> Job {
        let hold = Arc::new(Budget::default().take(bytes.len()));
        Job {
            at: Arc::new(TopicPartition::new("t", 0)),
            slices: [slice].into(),
            pieces: Pieces { slices: [bytes].into(), hold, fresh: true },
            progress: Progress::default(),
            from: 0,
            alone: false,
            cache: None,
            memory: Arc::new(Memory::new(1 << 20)),
        }
    }

    fn room(bytes: usize) -> Hold {
        Budget::default().take(bytes)
    }

    const ENOUGH: usize = 1 << 20;

    fn counts(decoded: &Decoded) -> Vec<usize> {
        decoded.batches.iter().map(|batch| batch.count).collect()
    }

    #[test]
    fn a_run_is_decoded_in_steps_within_the_allowance() {
        for compression in [Compression::None, Compression::Lz4] {
            let (slice, bytes) = slice(compression);
            // Enough for the largest, and not for two.
            let bound = |one: Bytes| {
                room_for(&one, &BatchHeader::parse(&one).unwrap(), &Limits::default()).unwrap()
            };
            let most = batch::split(bytes.clone()).map(|one| bound(one.unwrap())).max().unwrap();
            let mut progress = Progress::default();
            let mut seen = 0;
            for step in 0..3 {
                let mut job = job(slice.clone(), bytes.clone());
                job.progress = progress;
                let decoded = job.run(room(most));
                assert_eq!(counts(&decoded), [10], "{compression:?} {step}");
                seen += decoded.batches[0].count;
                progress = decoded.progress;
                assert_eq!(matches!(decoded.end, End::Done), step == 2);
            }
            assert_eq!(seen, 30);
        }
    }

    #[test]
    fn a_batch_over_the_allowance_passes_only_alone() {
        let (slice, bytes) = slice(Compression::Lz4);
        let decoded = job(slice.clone(), bytes.clone()).run(room(1));
        assert!(matches!(decoded.end, End::Full { needs } if needs > 1));
        assert!(decoded.batches.is_empty());
        let mut alone = job(slice, bytes);
        alone.alone = true;
        assert_eq!(counts(&alone.run(room(1))), [10]);
    }

    #[test]
    fn a_batch_counts_for_as_long_as_it_is_held() {
        for (compression, stays) in [(Compression::None, true), (Compression::Lz4, false)] {
            let (slice, bytes) = slice(compression);
            let (fetched, room) = (Budget::default(), Budget::default());
            let mut job = job(slice, bytes.clone());
            job.pieces.hold = Arc::new(fetched.take(bytes.len()));
            let decoded = job.run(room.take(ENOUGH));
            // What was not needed of the room is back; fetched bytes stay if records lie in them.
            assert!((3 * BATCH_OVERHEAD..ENOUGH).contains(&room.held()), "{}", room.held());
            assert_eq!(fetched.held() > 0, stays);
            drop(decoded);
            assert_eq!((fetched.held(), room.held()), (0, 0));
        }
    }

    #[test]
    fn nothing_before_the_offset_asked_for_is_handed_out() {
        let (slice, bytes) = slice(Compression::Lz4);
        let mut job = job(slice, bytes);
        job.from = 13;
        let decoded = job.run(room(ENOUGH));
        assert_eq!(counts(&decoded), [7, 10]);
        let first = decoded.batches.into_iter().next().unwrap().records.next().unwrap().unwrap();
        assert_eq!(first.offset, 13);
    }

    #[test]
    fn no_byte_of_a_slice_can_be_flipped_unnoticed() {
        // READ: each bit of the slice in turn.
        for compression in [Compression::None, Compression::Lz4] {
            let (slice, bytes) = slice(compression);
            for position in 0..bytes.len() {
                for bit in 0..8 {
                    let mut damaged = bytes.to_vec();
                    damaged[position] ^= 1 << bit;
                    let decoded = job(slice.clone(), damaged.into()).run(room(ENOUGH));
                    assert!(decoded.batches.is_empty(), "byte {position} bit {bit}");
                    let End::Failed(ConsumeError::Corrupt { object, .. }) = decoded.end else {
                        panic!("byte {position} bit {bit} went unnoticed")
                    };
                    assert_eq!(object, slice.object.key());
                }
            }
        }
    }
}
