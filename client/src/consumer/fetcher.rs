//! The task that reads ahead: look-ups, range GETs and decoding, for all partitions of a consumer.
//!
//! One task owns all state ([`Slot`]s). What takes time runs as a future in `work` and comes back as an [`Event`]; an
//! event for a target that the application has left meanwhile is dropped.

mod answers;
mod decoding;
mod getting;
mod look_ups;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use streamhouse_proto::v1;
use streamhouse_segment::ids::{ClusterId, TopicId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Memory;
use super::builder::OffsetReset;
use super::decode::Decoded;
use super::metrics::Counters;
use super::ready::{EndGuard, Ready};
use super::slot::Slot;
use super::source::{Got, Source};
use super::targets::{Place, Targets};
use crate::clock;
use crate::errors::CallError;
use crate::retry::Backoff;
use crate::routing::Metadata;

/// BOUND: partitions without a slot of which the watch told; as many as a cluster has by default.
const MAX_PASSED: usize = 100_000;
/// The wait after a plan that brought nothing although there should be something.
const LATER: Duration = Duration::from_millis(100);

/// What came back.
enum Event {
    Planned { asked: Vec<Asked>, answer: Result<v1::FindSegmentsResponse, CallError> },
    Got(Vec<Got>),
    Decoded { slot: usize, version: u64, decoded: Option<Decoded> },
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
    pub(super) metadata: Metadata,
    pub(super) source: Arc<Source>,
    pub(super) targets: Arc<Targets>,
    pub(super) ready: Arc<Ready>,
    pub(super) counters: Arc<Counters>,
    pub(super) memory: Arc<Memory>,
    pub(super) updates: mpsc::Receiver<v1::WatchResponse>,
    /// Rung when the watch tells of a partition that nobody reads.
    pub(super) news: Arc<Notify>,
    pub(super) tasks: TaskTracker,
}

pub(super) struct Fetcher {
    parts: Parts,
    slots: Vec<Slot>,
    by_partition: HashMap<(TopicId, u32), usize>,
    /// Ends that the watch told of partitions without a slot: one may be about to come, with an end from before that.
    passed: HashMap<(TopicId, u32), u64>,
    work: FuturesUnordered<BoxFuture<'static, Event>>,
    looking_up: bool,
    look_up_backoff: Backoff,
    look_up_after: Option<Instant>,
    /// Partitions that wait for the leader's word on where their log ends.
    beyond: Vec<Asked>,
    confirming: bool,
    gets: usize,
    /// Runs whose bytes were damaged, to be fetched once more: slot, version, run.
    again: VecDeque<(usize, u64, u64)>,
    decoders: usize,
    /// Where the next round of GETs, or of decoding, begins, so that every partition gets its turn.
    get_turn: usize,
    /// And where the next look-up does.
    look_up_turn: usize,
    decode_turn: usize,
    _end: EndGuard,
}

impl Fetcher {
    pub(super) fn new(parts: Parts) -> Self {
        let end = parts.ready.end_guard();
        Self {
            parts,
            slots: Vec::new(),
            by_partition: HashMap::new(),
            passed: HashMap::new(),
            work: FuturesUnordered::new(),
            looking_up: false,
            look_up_backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            look_up_after: None,
            beyond: Vec::new(),
            confirming: false,
            gets: 0,
            again: VecDeque::new(),
            decoders: 0,
            get_turn: 0,
            look_up_turn: 0,
            decode_turn: 0,
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

    /// Starts over where the application went elsewhere, and follows the assignment.
    fn follow_targets(&mut self) {
        for (index, target, place) in self.parts.targets.changes() {
            match place {
                Some(place) => self.assign(index, &place),
                None => self.release(index),
            }
            if let Some(slot) = self.slots.get_mut(index) {
                slot.restart(target);
            }
        }
    }

    fn assign(&mut self, index: usize, place: &Place) {
        // Slots are given out in order, so a new one is the next.
        while self.slots.len() <= index {
            self.slots.push(Slot::new(place));
        }
        if !Arc::ptr_eq(&place.at, &self.slots[index].at) {
            self.release(index);
            self.slots[index] = Slot::new(place);
        }
        let key = (place.topic, place.at.partition);
        if let Some(end) = self.passed.remove(&key) {
            let slot = &mut self.slots[index];
            slot.high_watermark = slot.high_watermark.max(end);
        }
        self.by_partition.insert(key, index);
    }

    fn release(&mut self, index: usize) {
        let Some(slot) = self.slots.get(index) else { return };
        let key = (slot.topic, slot.at.partition);
        // Another slot may have it by now.
        if self.by_partition.get(&key) == Some(&index) {
            self.by_partition.remove(&key);
        }
    }

    /// When something is due although nothing happens.
    fn timer(&self) -> Option<Instant> {
        if self.looking_up {
            return None;
        }
        let waits = self.slots.iter().filter_map(Slot::due);
        let next = waits.min()?;
        Some(self.look_up_after.map_or(next, |after| next.max(after)))
    }
}
