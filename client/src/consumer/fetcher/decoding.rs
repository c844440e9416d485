//! Decoding: which runs are next, and how much they may become.

use super::{Event, Fetcher};
use crate::consumer::budget::Hold;
use crate::consumer::decode::{Decoded, End, Job};
use crate::consumer::error::ConsumeError;
use crate::consumer::metrics::count;
use crate::consumer::ready::Body;
use streamhouse_host::{Mistake, is_planted};

/// Runs at the decoder at once.
const DECODERS: usize = 2;
/// Steps within these limits, fetched and decoded, are done on the spot: handing them to another thread would take longer.
const INLINE_FETCHED: usize = 16 << 10;
const INLINE_DECODED: usize = 128 << 10;
/// The most that one step may decompress, so that several partitions get their turn.
const STEP_BYTES: usize = 8 << 20;
/// So often is a run fetched again whose bytes are not what the index says.
const DAMAGED_TRIES: u32 = 2;

/// One step of decoding a run.
struct Step {
    job: Job,
    room: Hold,
    /// It is so small that it is done at once.
    inline: bool,
}

impl Fetcher {
    /// Hands fetched runs to the decoder, while poll keeps up.
    pub(super) fn decode(&mut self) {
        let count = self.slots.len();
        for offset in 0..count {
            if self.decoders >= DECODERS {
                return;
            }
            let index = (self.decode_turn + offset) % count;
            if !self.slots[index].can_decode() {
                continue;
            }
            // One that waits for room is not overtaken: a large batch would wait for ever.
            self.decode_turn = index;
            let Some(step) = self.next_step(index) else { return };
            self.decode_turn = (index + 1) % count;
            let version = self.slots[index].target.version;
            self.slots[index].decoding = true;
            self.decoders += 1;
            let tasks = self.parts.tasks.clone();
            self.work.push(Box::pin(async move {
                let decoded = if step.inline {
                    Some(step.job.run(step.room))
                } else {
                    let work = move || step.job.run(step.room);
                    streamhouse_host::spawn_blocking_on(&tasks, work).await.ok()
                };
                Event::Decoded { slot: index, version, decoded }
            }));
        }
    }

    /// The next step for a slot that can be decoded, if there is room for it.
    fn next_step(&self, index: usize) -> Option<Step> {
        let slot = &self.slots[index];
        let memory = &self.parts.memory;
        let room = memory.room_to_decode();
        let run = slot.runs.front()?;
        // BOUND: a batch over the limit passes when nothing else is there.
        let alone = memory.decoded.held() == 0;
        let fits = room > 0 && run.needs <= room;
        if !alone && !fits {
            return None;
        }
        let inline = run.size() <= INLINE_FETCHED && run.needs <= INLINE_DECODED && fits;
        let most = if inline { INLINE_DECODED } else { STEP_BYTES.max(run.needs) };
        let job = Job {
            at: slot.at.clone(),
            slices: run.slices.clone(),
            pieces: run.pieces.clone()?,
            progress: run.progress,
            from: slot.from,
            alone: alone && !inline,
            cache: self.parts.source.cache.clone(),
            memory: memory.clone(),
        };
        Some(Step { job, room: memory.decoded.take(room.min(most)), inline })
    }

    /// `decoded`: `None` if the decoder did not come back, a bug.
    pub(super) fn decoded(&mut self, slot: usize, decoded: Option<Decoded>) {
        let Some(decoded) = decoded else { return self.stop(slot, None, ConsumeError::Ended) };
        let state = &mut self.slots[slot];
        state.decoding = false;
        if let Some(last) = decoded.batches.last() {
            state.from = last.next_offset;
        }
        if let Some(run) = state.runs.front_mut() {
            run.progress = decoded.progress;
            run.needs = 0;
        }
        for batch in decoded.batches {
            self.push(slot, Body::Batch(batch));
        }
        match decoded.end {
            End::Done => drop(self.slots[slot].runs.pop_front()),
            End::Full { needs } => {
                if let Some(run) = self.slots[slot].runs.front_mut() {
                    run.needs = needs;
                }
            }
            End::Failed(error) => self.damaged(slot, error),
        }
    }

    /// READ: what was damaged on its way, or in the cache, may be whole when it is fetched again; what is damaged in the
    /// store is not.
    fn damaged(&mut self, slot: usize, error: ConsumeError) {
        if is_planted(Mistake::ReaderSkipsMissing) {
            return drop(self.slots[slot].runs.pop_front());
        }
        let state = &mut self.slots[slot];
        let version = state.target.version;
        let Some(run) = state.runs.front_mut() else { return };
        if run.damaged == DAMAGED_TRIES {
            return self.stop(slot, None, error);
        }
        tracing::warn!(%error, "a segment is damaged, fetching it again");
        run.damaged += 1;
        run.pieces = None;
        run.progress = run.progress.unverified();
        let run = run.id;
        count(&self.parts.counters.damaged_fetches, 1);
        self.again.push_back((slot, version, run));
    }
}
