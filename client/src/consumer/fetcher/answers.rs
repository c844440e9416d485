//! What the fetcher does with what comes back: plans, bytes, decoded batches, and news from the watch.

use streamhouse_proto::v1;

use super::{Asked, Event, Fetcher, LATER};
use crate::consumer::decode::ReadyBatch;
use crate::consumer::error::ConsumeError;
use crate::consumer::plan::{Plan, judge};
use crate::consumer::ready::{Body, Chunk};
use crate::consumer::slot::End;
use crate::errors::{CallError, Code};
use crate::{clock, convert};

impl Fetcher {
    pub(super) fn on(&mut self, event: Event) {
        match event {
            Event::Planned { asked, answer } => {
                self.looking_up = false;
                match answer {
                    Ok(answer) => self.planned(asked, answer),
                    Err(error) => self.no_plan(&asked, error),
                }
            }
            Event::Got { slot, version, run, result } => {
                self.gets -= 1;
                if self.parts.slots[slot].target.version != version {
                    return;
                }
                match result {
                    Ok(bytes) => self.parts.slots[slot].got(run, bytes),
                    Err(error) => self.stop(slot, Some(run), error),
                }
            }
            Event::Confirmed { asked, result } => self.confirmed(&asked, result),
            Event::Decoded { slot, version, result } => {
                self.decoders -= 1;
                if self.parts.slots[slot].target.version == version {
                    self.decoded(slot, result);
                }
            }
        }
    }

    fn planned(&mut self, asked: Vec<Asked>, answer: v1::FindSegmentsResponse) {
        if !self.look_up_backoff.is_fresh() {
            self.look_up_backoff.reset();
            self.parts.ready.calm();
        }
        self.look_up_after = None;
        self.parts.metadata.pool.observe(answer.applied);
        let mut plans = answer.plans.into_iter();
        for asked in asked {
            let Some(plan) = plans.next() else { return };
            let slot = &mut self.parts.slots[asked.slot];
            if slot.target.version != asked.version || slot.planned_to != asked.offset {
                continue;
            }
            let (cluster, sure) = (self.parts.cluster, slot.end == End::Sure);
            match judge(cluster, &slot.at, asked.offset, self.parts.reset, sure, plan) {
                Plan::Read { slices, high_watermark } => {
                    if slices.is_empty() && high_watermark > asked.offset {
                        slot.not_before = Some(clock::now() + LATER);
                    }
                    slot.plan(slices, high_watermark);
                }
                // What lies before must be handed out first; then it is asked again.
                Plan::Beyond | Plan::Reset { .. } | Plan::Fail(_) if slot.is_busy() => {
                    slot.not_before = Some(clock::now() + LATER);
                }
                Plan::Beyond => {
                    slot.end = End::Asking;
                    self.beyond.push(asked);
                }
                Plan::Reset { offset, high_watermark } => {
                    slot.high_watermark = high_watermark;
                    self.fetched -= slot.go_to(offset);
                    self.push(asked.slot, Body::Reset(offset));
                }
                Plan::Later(refusal) => {
                    tracing::debug!(partition = %slot.at, %refusal, "look-up again later");
                    slot.not_before = Some(clock::now() + LATER);
                }
                Plan::Fail(error) => self.stop(asked.slot, None, error),
            }
        }
    }

    /// A look-up that failed as a whole is made again, for as long as it may help: what is planned is read meanwhile.
    fn no_plan(&mut self, asked: &[Asked], error: CallError) {
        if error.retryable() {
            tracing::warn!(%error, "look-up failed, trying again");
            // It was tried for the operation timeout. Told once: the next time after one that succeeded.
            if self.look_up_backoff.is_fresh() {
                self.parts.ready.tell(error.into());
            }
            self.look_up_after = Some(clock::now() + self.look_up_backoff.next());
            return;
        }
        for asked in asked {
            if self.parts.slots[asked.slot].target.version != asked.version {
                continue;
            }
            let at = &self.parts.slots[asked.slot].at;
            let error = match error.code() {
                Some(Code::UnknownTopic) => ConsumeError::TopicDeleted { topic: at.topic.clone() },
                _ => ConsumeError::Call(error.clone()),
            };
            self.stop(asked.slot, None, error);
        }
    }

    /// The leader has answered: the partitions are looked up again, and then the answer counts.
    fn confirmed(&mut self, asked: &[Asked], result: Result<(), CallError>) {
        self.confirming = false;
        for asked in asked {
            let slot = &mut self.parts.slots[asked.slot];
            if slot.target.version != asked.version || slot.end != End::Asking {
                continue;
            }
            if result.is_ok() {
                slot.end = End::Sure;
            } else {
                slot.end = End::Unsure;
                slot.not_before = Some(clock::now() + LATER);
            }
        }
        // Of a topic that is gone the next look-up tells.
        if let Err(error) = result
            && error.code() != Some(Code::UnknownTopic)
        {
            self.parts.ready.tell(error.into());
        }
    }

    fn decoded(&mut self, slot: usize, result: Result<Vec<ReadyBatch>, ConsumeError>) {
        match result {
            Ok(batches) => {
                let state = &mut self.parts.slots[slot];
                state.decoding = false;
                if let Some(run) = state.runs.pop_front() {
                    self.fetched -= run.size();
                }
                if let Some(last) = batches.last() {
                    state.from = last.next_offset;
                }
                for batch in batches {
                    self.push(slot, Body::Batch(batch));
                }
            }
            Err(error) => self.stop(slot, None, error),
        }
    }

    /// READ: the partition stops where the error is, and the application is told once it has everything before it.
    fn stop(&mut self, slot: usize, run: Option<u64>, error: ConsumeError) {
        let state = &mut self.parts.slots[slot];
        if let Some(run) = run
            && state.runs.front().is_some_and(|front| front.id != run)
        {
            // Earlier runs are still good: let them through, then fetch this one again and see.
            let offset = state.runs.iter().find(|r| r.id == run).map(|r| r.slices[0].base_offset);
            if let Some(offset) = offset {
                self.fetched -= state.forget_from(run, offset);
            }
            return;
        }
        if state.stopped {
            return;
        }
        self.fetched -= state.stop();
        self.push(slot, Body::Failed(error));
    }

    fn push(&mut self, slot: usize, body: Body) {
        let version = self.parts.slots[slot].target.version;
        self.parts.ready.push(Chunk { slot, version, body });
    }

    /// Takes in what a controller said unasked.
    pub(super) fn watched(&mut self, update: v1::WatchResponse) {
        for state in update.partitions {
            let Some(partition) = state.partition else { continue };
            let Ok(topic) = convert::topic_id(&partition.topic_id) else { continue };
            if let Some(index) = self.by_partition.get(&(topic, partition.partition)) {
                let slot = &mut self.parts.slots[*index];
                slot.high_watermark = slot.high_watermark.max(state.high_watermark);
            }
        }
        for id in update.deleted_topic_ids {
            let Ok(topic) = convert::topic_id(&id) else { continue };
            for index in 0..self.parts.slots.len() {
                if self.parts.slots[index].topic == topic {
                    let topic = self.parts.slots[index].at.topic.clone();
                    self.stop(index, None, ConsumeError::TopicDeleted { topic });
                }
            }
        }
    }
}
