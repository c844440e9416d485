//! Asking the index, and the leader where the index may lag behind.

use streamhouse_proto::v1;
use tokio::time::Instant;

use super::{Asked, Event, Fetcher};
use crate::consumer::metrics::count;
use crate::routing::Client;
use crate::{clock, convert};

/// BOUND: partitions per look-up, and entries of its answer, which the controllers bound at 10,000.
pub(super) const PLANS_PER_LOOK_UP: usize = 512;
const SEGMENTS: usize = 8_192;
const SEGMENTS_PER_PLAN: usize = 256;

impl Fetcher {
    /// Asks the index for every partition that needs it, in one call, one call at a time.
    pub(super) fn look_up(&mut self) {
        let now = clock::now();
        if self.looking_up || self.look_up_after.is_some_and(|at| now < at) {
            return;
        }
        let asked = self.next_asked(now);
        if asked.is_empty() {
            return;
        }
        let request = self.question(&asked);
        let pool = self.parts.metadata.pool.clone();
        self.looking_up = true;
        count(&self.parts.counters.look_ups, 1);
        self.work.push(Box::pin(async move {
            let answer = pool.call("find segments", |mut client: Client| {
                let request = request.clone();
                async move { client.find_segments(request).await }
            });
            let answer = answer.await;
            Event::Planned { asked, answer }
        }));
    }

    /// The partitions of the next look-up. Those behind the last ones asked come first, so that none waits for ever
    /// behind busier ones.
    pub(super) fn next_asked(&mut self, now: Instant) -> Vec<Asked> {
        let (before, behind) = self.slots.split_at(self.look_up_turn.min(self.slots.len()));
        let wanting = (before.len()..).zip(behind).chain((0..).zip(before));
        let asked: Vec<Asked> = wanting
            .filter(|(_, slot)| slot.wants_plan(now))
            .take(PLANS_PER_LOOK_UP)
            .map(|(index, slot)| Asked {
                slot: index,
                version: slot.target.version,
                offset: slot.planned_to,
            })
            .collect();
        if let Some(last) = asked.last() {
            self.look_up_turn = last.slot + 1;
        }
        asked
    }

    fn question(&self, asked: &[Asked]) -> v1::FindSegmentsRequest {
        let max_bytes = self.parts.memory.share(self.slots.len()).max(1 << 20) as u64;
        let max_segments = (SEGMENTS / asked.len()).min(SEGMENTS_PER_PLAN) as u32;
        let ranges = asked.iter().map(|asked| {
            let slot = &self.slots[asked.slot];
            v1::SegmentRange {
                partition: Some(convert::topic_partition(slot.topic, slot.at.partition)),
                offset: asked.offset,
                max_segments,
                max_bytes,
                from_timestamp_ms: None,
            }
        });
        v1::FindSegmentsRequest {
            ranges: ranges.collect(),
            min_applied: self.parts.metadata.pool.applied(),
            // An object was gone: only an index that is up to date can say whether it should be there.
            linearizable: asked.iter().any(|asked| self.slots[asked.slot].suspect.is_some()),
        }
    }

    /// Asks the leader on behalf of the partitions whose offset some controller found beyond the end. The index of its
    /// answer goes with every later look-up, so that none is answered from before it.
    pub(super) fn confirm(&mut self) {
        if self.confirming || self.beyond.is_empty() {
            return;
        }
        let asked = std::mem::take(&mut self.beyond);
        let topic = self.slots[asked[0].slot].topic;
        let metadata = self.parts.metadata.clone();
        self.confirming = true;
        self.work.push(Box::pin(async move {
            let result = metadata.describe_id(topic, true).await.map(drop);
            Event::Confirmed { asked, result }
        }));
    }
}
