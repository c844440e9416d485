//! What the fetcher does with what comes back: plans, bytes, decoded batches, and news from the watch.

use streamhouse_host::{Mistake, is_planted};
use streamhouse_proto::v1;

use super::{Asked, Event, Fetcher, LATER, MAX_PASSED};
use crate::consumer::error::ConsumeError;
use crate::consumer::metrics::count;
use crate::consumer::plan::{Plan, judge};
use crate::consumer::ready::{Body, Chunk};
use crate::consumer::slot::End;
use crate::consumer::source::Got;
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
            Event::Got(all) => {
                self.gets -= 1;
                for got in all {
                    self.got(got);
                }
            }
            Event::Confirmed { asked, result } => self.confirmed(&asked, result),
            Event::Decoded { slot, version, decoded } => {
                self.decoders -= 1;
                if self.slots[slot].target.version == version {
                    self.decoded(slot, decoded);
                }
            }
        }
    }

    fn got(&mut self, got: Got) {
        let slot = &mut self.slots[got.slot];
        if slot.target.version != got.version {
            return;
        }
        let Some(run) = slot.run(got.run) else { return };
        let object = run.slices[0].object;
        match got.result {
            Ok(pieces) => slot.got(got.run, pieces),
            Err(_) if is_planted(Mistake::ReaderSkipsMissing) => {
                slot.runs.retain(|run| run.id != got.run);
            }
            // READ: the index that named it may be of the past. It is asked again; if it names the object still, the
            // object is missing.
            Err(ConsumeError::MissingObject { .. }) if slot.suspect != Some(object) => {
                slot.suspect = Some(object);
                slot.forget_from(got.run);
                count(&self.parts.counters.replans, 1);
            }
            Err(error) => self.stop(got.slot, Some(got.run), error),
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
            let slot = &mut self.slots[asked.slot];
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
                    slot.go_to(offset);
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
            if self.slots[asked.slot].target.version != asked.version {
                continue;
            }
            let at = &self.slots[asked.slot].at;
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
            let slot = &mut self.slots[asked.slot];
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

    /// READ: the partition stops where the error is, and the application is told once it has everything before it.
    pub(super) fn stop(&mut self, slot: usize, run: Option<u64>, error: ConsumeError) {
        let state = &mut self.slots[slot];
        if let Some(run) = run
            && state.runs.front().is_some_and(|front| front.id != run)
        {
            // Earlier runs are still good: let them through, then fetch this one again and see.
            state.forget_from(run);
            state.not_before = Some(clock::now() + LATER);
            return;
        }
        if state.stopped {
            return;
        }
        state.stop();
        self.push(slot, Body::Failed(error));
    }

    pub(super) fn push(&mut self, slot: usize, body: Body) {
        let version = self.slots[slot].target.version;
        self.parts.ready.push(Chunk { slot, version, body });
    }

    /// Takes in what a controller said unasked.
    pub(super) fn watched(&mut self, update: v1::WatchResponse) {
        let mut unknown = false;
        for state in update.partitions {
            let Some(partition) = state.partition else { continue };
            let Ok(topic) = convert::topic_id(&partition.topic_id) else { continue };
            match self.by_partition.get(&(topic, partition.partition)) {
                Some(index) => {
                    let slot = &mut self.slots[*index];
                    slot.high_watermark = slot.high_watermark.max(state.high_watermark);
                }
                None => {
                    unknown = true;
                    if self.passed.len() < MAX_PASSED {
                        self.passed.insert((topic, partition.partition), state.high_watermark);
                    }
                }
            }
        }
        if unknown {
            self.parts.news.notify_one();
        }
        for id in update.deleted_topic_ids {
            let Ok(topic) = convert::topic_id(&id) else { continue };
            for index in 0..self.slots.len() {
                if self.slots[index].topic == topic {
                    let topic = self.slots[index].at.topic.clone();
                    self.stop(index, None, ConsumeError::TopicDeleted { topic });
                }
            }
        }
    }
}
