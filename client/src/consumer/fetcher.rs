//! The task that reads ahead: look-ups, range GETs and decoding, for all partitions of a consumer.
//!
//! One task owns all state ([`Slot`]s). What takes time runs as a future in `work` and comes back as an [`Event`]; an
//! event for a target that the application has left meanwhile is dropped.

mod answers;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use streamhouse_proto::v1;
use streamhouse_segment::batch::Limits;
use streamhouse_segment::ids::{ClusterId, TopicId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::builder::OffsetReset;
use super::decode::{ReadyBatch, decode};
use super::error::ConsumeError;
use super::metrics::Counters;
use super::plan::Slice;
use super::ready::{EndGuard, Ready};
use super::slot::Slot;
use super::source::Source;
use super::targets::Targets;
use crate::errors::CallError;
use crate::retry::Backoff;
use crate::routing::{Client, Metadata};
use crate::{clock, convert};

/// GETs under way at once, in all and per partition.
const GETS: usize = 16;
const GETS_PER_SLOT: usize = 6;
/// Runs at the decoder at once.
const DECODERS: usize = 2;
/// Smaller runs are decoded on the spot: handing them to another thread would take longer.
const DECODE_INLINE_BYTES: usize = 16 << 10;
/// BOUND: partitions and entries per look-up.
const PLANS_PER_LOOK_UP: usize = 512;
const SEGMENTS_PER_PLAN: u32 = 256;
/// The wait after a plan that brought nothing although there should be something.
const LATER: Duration = Duration::from_millis(100);

/// What came back.
enum Event {
    Planned { asked: Vec<Asked>, answer: Result<v1::FindSegmentsResponse, CallError> },
    Got { slot: usize, version: u64, run: u64, result: Result<Bytes, ConsumeError> },
    Decoded { slot: usize, version: u64, result: Result<Vec<ReadyBatch>, ConsumeError> },
    Confirmed { asked: Vec<Asked>, result: Result<(), CallError> },
}

/// A partition in a look-up.
#[derive(Clone, Copy)]
struct Asked {
    slot: usize,
    version: u64,
    offset: u64,
}

/// What the fetcher is made of.
pub(super) struct Parts {
    pub(super) cluster: ClusterId,
    pub(super) reset: OffsetReset,
    pub(super) fetch_memory: usize,
    pub(super) slots: Vec<Slot>,
    pub(super) metadata: Metadata,
    pub(super) source: Arc<Source>,
    pub(super) targets: Arc<Targets>,
    pub(super) ready: Arc<Ready>,
    pub(super) counters: Arc<Counters>,
    pub(super) updates: mpsc::Receiver<v1::WatchResponse>,
    pub(super) tasks: TaskTracker,
}

pub(super) struct Fetcher {
    parts: Parts,
    by_partition: HashMap<(TopicId, u32), usize>,
    work: FuturesUnordered<BoxFuture<'static, Event>>,
    looking_up: bool,
    look_up_backoff: Backoff,
    look_up_after: Option<Instant>,
    /// Partitions that wait for the leader's word on where their log ends.
    beyond: Vec<Asked>,
    confirming: bool,
    gets: usize,
    decoders: usize,
    /// Bytes of runs that are under way, fetched or at the decoder.
    fetched: usize,
    /// Where the next round of GETs begins, so that every partition gets its turn.
    turn: usize,
    _end: EndGuard,
}

impl Fetcher {
    pub(super) fn new(parts: Parts) -> Self {
        let slots = parts.slots.iter().enumerate();
        let by_partition =
            slots.map(|(index, slot)| ((slot.topic, slot.at.partition), index)).collect();
        let end = parts.ready.end_guard();
        Self {
            parts,
            by_partition,
            work: FuturesUnordered::new(),
            looking_up: false,
            look_up_backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            look_up_after: None,
            beyond: Vec::new(),
            confirming: false,
            gets: 0,
            decoders: 0,
            fetched: 0,
            turn: 0,
            _end: end,
        }
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        loop {
            self.follow_targets();
            self.look_up();
            self.confirm();
            self.get();
            self.decode();
            let timer = self.timer();
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(event) = self.work.next() => self.on(event),
                Some(update) = self.parts.updates.recv() => self.watched(update),
                () = self.parts.targets.rung() => {}
                () = clock::until(timer) => {}
            }
        }
    }

    /// Starts over where the application went elsewhere.
    fn follow_targets(&mut self) {
        for (index, slot) in self.parts.slots.iter_mut().enumerate() {
            let target = self.parts.targets.get(index);
            if target.version != slot.target.version {
                self.fetched -= slot.restart(target);
            }
        }
    }

    /// Asks the index for every partition that needs it, in one call, one call at a time.
    fn look_up(&mut self) {
        let now = clock::now();
        if self.looking_up || self.look_up_after.is_some_and(|at| now < at) {
            return;
        }
        let wanting = self.parts.slots.iter().enumerate();
        let asked: Vec<Asked> = wanting
            .filter(|(_, slot)| slot.wants_plan(now))
            .take(PLANS_PER_LOOK_UP)
            .map(|(index, slot)| Asked {
                slot: index,
                version: slot.target.version,
                offset: slot.planned_to,
            })
            .collect();
        if asked.is_empty() {
            return;
        }
        let max_bytes = (self.parts.fetch_memory / self.parts.slots.len()).max(1 << 20) as u64;
        let ranges = asked.iter().map(|asked| {
            let slot = &self.parts.slots[asked.slot];
            v1::SegmentRange {
                partition: Some(convert::topic_partition(slot.topic, slot.at.partition)),
                offset: asked.offset,
                max_segments: SEGMENTS_PER_PLAN,
                max_bytes,
            }
        });
        let pool = self.parts.metadata.pool.clone();
        let request = v1::FindSegmentsRequest {
            ranges: ranges.collect(),
            min_applied: pool.applied(),
            linearizable: false,
        };
        self.looking_up = true;
        self.parts.counters.look_ups.fetch_add(1, Relaxed);
        self.work.push(Box::pin(async move {
            let answer = pool.call("find segments", |mut client: Client| {
                let request = request.clone();
                async move { client.find_segments(request).await }
            });
            let answer = answer.await;
            Event::Planned { asked, answer }
        }));
    }

    /// Asks the leader on behalf of the partitions whose offset some controller found beyond the end. The index of its
    /// answer goes with every later look-up, so that none is answered from before it.
    fn confirm(&mut self) {
        if self.confirming || self.beyond.is_empty() {
            return;
        }
        let asked = std::mem::take(&mut self.beyond);
        let topic = self.parts.slots[asked[0].slot].topic;
        let metadata = self.parts.metadata.clone();
        self.confirming = true;
        self.work.push(Box::pin(async move {
            let result = metadata.describe_id(topic, true).await.map(drop);
            Event::Confirmed { asked, result }
        }));
    }

    /// Starts GETs while memory and the number of requests allow, partition after partition.
    fn get(&mut self) {
        let count = self.parts.slots.len();
        let mut idle = 0;
        while idle < count && self.gets < GETS && self.has_fetch_room() {
            let index = self.turn % count;
            self.turn = (self.turn + 1) % count;
            let slot = &mut self.parts.slots[index];
            if !slot.has_planned() || slot.getting() >= GETS_PER_SLOT {
                idle += 1;
                continue;
            }
            idle = 0;
            let version = slot.target.version;
            let at = slot.at.clone();
            let Some(run) = slot.next_run() else { continue };
            let (id, slices) = (run.id, run.slices.clone());
            self.fetched += run.size();
            self.gets += 1;
            let source = self.parts.source.clone();
            self.work.push(Box::pin(async move {
                let result = source.fetch(&at, &slices).await;
                Event::Got { slot: index, version, run: id, result }
            }));
        }
    }

    /// BOUND: half of the memory is for what is fetched, half for what is decoded. A run over the limit passes alone.
    fn has_fetch_room(&self) -> bool {
        self.fetched == 0 || self.fetched < self.parts.fetch_memory / 2
    }

    /// Hands fetched runs to the decoder, while poll keeps up.
    fn decode(&mut self) {
        for index in 0..self.parts.slots.len() {
            if self.decoders >= DECODERS || self.parts.ready.bytes() >= self.parts.fetch_memory / 2
            {
                return;
            }
            let slot = &mut self.parts.slots[index];
            if !slot.can_decode() {
                continue;
            }
            let Some(run) = slot.runs.front() else { continue };
            let Some(bytes) = run.bytes.clone() else { continue };
            let (slices, size) = (run.slices.clone(), run.size());
            let (version, from, at) = (slot.target.version, slot.from, slot.at.clone());
            slot.decoding = true;
            self.decoders += 1;
            let job = move || decode(&at, &cut(&slices, &bytes), from, &Limits::default());
            let tasks = self.parts.tasks.clone();
            self.work.push(Box::pin(async move {
                let result = if size <= DECODE_INLINE_BYTES {
                    job()
                } else {
                    tasks.spawn_blocking(job).await.unwrap_or(Err(ConsumeError::Ended))
                };
                Event::Decoded { slot: index, version, result }
            }));
        }
    }

    /// When something is due although nothing happens.
    fn timer(&self) -> Option<Instant> {
        if self.looking_up {
            return None;
        }
        let waits = self.parts.slots.iter().filter_map(|slot| slot.due());
        let next = waits.min()?;
        Some(self.look_up_after.map_or(next, |after| next.max(after)))
    }
}

/// Each slice with its bytes out of the run's.
fn cut(slices: &[Slice], bytes: &Bytes) -> Vec<(Slice, Bytes)> {
    let start = slices[0].start;
    let place = |slice: &Slice| (slice.start - start) as usize..(slice.end - start) as usize;
    slices.iter().map(|slice| (slice.clone(), bytes.slice(place(slice)))).collect()
}
