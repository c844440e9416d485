//! One session's decisions: batches, lease news and answers in; uploads, commits, releases and replies out.
//!
//! No I/O, no clock, no task: [`crate::core`] feeds it and does what it decides. What must hold here:
//!
//! * ACK: a batch is acknowledged only from the answer to its object's commit.
//! * ONCE: within one epoch offsets are given out once; a batch goes to another offset only after its slice's epoch
//!   is known to be over.
//! * Batches of one partition are committed in the order in which they came, and none is once another one ahead of it
//!   in its run was refused, or belongs to a session that has ended and awaits its answer (see [`crate::run`]).
//! * A failure is reported as certain (`NOT_LEASE_HOLDER`) only if no commit of the batch can have been applied.

mod answers;
mod buffer;
mod deadlines;
mod flights;
mod leases;
mod producers;
mod track;

#[cfg(test)]
mod leases_tests;
#[cfg(test)]
mod producers_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use answers::CommitAnswer;
pub(crate) use buffer::FlushRule;
pub(crate) use flights::Built;
pub(crate) use producers::{Found, Question};

use crate::partition::PartitionId;
use crate::ticket::{Arrival, Pending};
use buffer::{Buffer, Picked};
use bytes::Bytes;
use deadlines::Deadlines;
use flights::{Flight, Flights, Slice};
use leases::{Change, Leases};
use producers::Producers;
use std::time::{Duration, Instant};
use streamhouse_proto::v1::{AttachResponse, ErrorCode, ErrorInfo, ObjectCommit};
use streamhouse_segment::object::SliceStart;
use streamhouse_segment::{
    ClusterId, Generation, MAX_OUTCOMES, ObjectId, Outcome, SessionId, SliceOutcome,
};

/// What stands in the keys of the session's objects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionIds {
    pub(crate) cluster: ClusterId,
    pub(crate) generation: Generation,
    pub(crate) session: SessionId,
}

/// The engine's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) flush: FlushRule,
    pub(crate) max_uploads: usize,
    /// A batch older than this is not put back, or flushed, but failed.
    pub(crate) delivery_timeout: Duration,
}

/// An object to build and PUT.
#[derive(Debug)]
pub(crate) struct UploadOrder {
    pub(crate) id: ObjectId,
    pub(crate) slices: Vec<(SliceStart, Vec<Bytes>)>,
    pub(crate) outcomes: Vec<SliceOutcome>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action {
    Upload(UploadOrder),
    Commit(Vec<ObjectCommit>),
    Release(Vec<(PartitionId, u32)>),
    LookUp(Vec<Question>),
    /// The session has ended: register anew.
    SessionOver,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Engine {
    ids: SessionIds,
    rules: Rules,
    leases: Leases,
    buffer: Buffer,
    producers: Producers,
    flights: Flights,
    deadlines: Deadlines,
    /// What became of slices, and no object in the store says so yet.
    outcomes: Vec<SliceOutcome>,
    releases: Vec<(PartitionId, u32)>,
    releasing: usize,
    draining: bool,
    ended: bool,
    end_told: bool,
}

impl Engine {
    /// A session that the controllers end when they do not hear of it for `ttl`.
    pub(crate) fn new(ids: SessionIds, rules: Rules, ttl: Duration, now: Instant) -> Self {
        Self {
            ids,
            rules,
            leases: Leases::default(),
            buffer: Buffer::new(rules.flush),
            producers: Producers::default(),
            flights: Flights::default(),
            deadlines: Deadlines::new(ttl, now),
            outcomes: Vec::new(),
            releases: Vec::new(),
            releasing: 0,
            draining: false,
            ended: false,
            end_told: false,
        }
    }

    pub(crate) fn session(&self) -> u64 {
        self.ids.session.0
    }

    /// Takes a batch, or refuses it.
    pub(crate) fn admit(&mut self, arrival: Arrival) {
        let Arrival { partition, pending } = arrival;
        if pending.ticket.is_behind_a_refusal() {
            pending.ticket.refuse(self.leases.not_in_turn(partition));
        } else if !self.ended && self.leases.admits(partition) {
            if let Some(pending) = self.producers.admit(partition, pending) {
                self.buffer.push(partition, pending);
            }
        } else {
            pending.ticket.refuse(self.leases.not_holder(partition));
        }
    }

    /// Takes the news of a controller's stream.
    pub(crate) fn on_news(&mut self, news: &AttachResponse, now: Instant) {
        if self.ended {
            return;
        }
        if news.leader && !news.ended {
            self.deadlines.heard(now);
        }
        // A controller that has not applied our registration yet (a session's id is the index of that) knows no such
        // session, and may say that it has ended.
        if news.ended && news.applied >= self.session() {
            self.end("the controllers ended it");
            return;
        }
        for change in self.leases.merge(news) {
            match change {
                Change::Updated(id) => {
                    tracing::info!(session = self.session(), partition = %id, "lease updated");
                    self.producers.doubt(id);
                    self.sync(id);
                }
                Change::Lost(id) => {
                    tracing::info!(session = self.session(), partition = %id, "lease lost");
                    self.fail_buffered(id, &self.leases.not_holder(id));
                }
            }
        }
    }

    pub(crate) fn on_built(&mut self, sequence: u64, built: Built) {
        self.flights.built(sequence, built);
    }

    pub(crate) fn on_stored(&mut self, sequence: u64) {
        self.flights.stored(sequence);
    }

    pub(crate) fn on_given_up(&mut self, sequence: u64) {
        if let Some(outcomes) = self.flights.given_up(sequence) {
            tracing::warn!(session = self.session(), sequence, "gave up the put of an object");
            self.tell_again(outcomes);
        }
    }

    /// Takes what was found of producers: their batches need not wait any longer.
    pub(crate) fn on_found(&mut self, found: Found) {
        let partitions: Vec<_> = found.questions.iter().map(|asked| asked.partition).collect();
        for (id, pending) in self.producers.found(found) {
            if pending.ticket.is_behind_a_refusal() {
                pending.ticket.refuse(self.leases.not_in_turn(id));
            } else {
                self.buffer.push(id, pending);
            }
        }
        // One that is to be given back waited for them.
        partitions.into_iter().for_each(|id| self.sync(id));
    }

    /// The object cannot be built: what is in it fails, for certain and for good, and its number is given up.
    /// Everything else goes on, other batches of its partitions under a raised epoch.
    pub(crate) fn on_unbuildable(&mut self, sequence: u64, why: &str) {
        tracing::error!(session = self.session(), sequence, why, "an object cannot be built");
        for (id, batches) in self.flights.empty(sequence) {
            let message =
                format!("a batch of {id} went into an object that cannot be built: {why}");
            refuse_all(batches, &ErrorInfo::new(ErrorCode::InvalidArgument, message));
        }
        if let Some(outcomes) = self.flights.given_up(sequence) {
            self.tell_again(outcomes);
        }
    }

    /// Outcomes whose object never came into the store go into the next one, before the newer ones.
    fn tell_again(&mut self, outcomes: Vec<SliceOutcome>) {
        self.outcomes.extend(outcomes);
        self.outcomes.sort_by_key(|outcome| (outcome.sequence, outcome.slice));
    }

    /// Another writer's bytes lie under our key: this session cannot go on.
    pub(crate) fn on_failed(&mut self, why: &str) {
        self.end(why);
    }

    pub(crate) fn on_released(&mut self, count: usize) {
        self.releasing = self.releasing.saturating_sub(count);
    }

    /// From now on: take nothing new, flush what there is, and give every lease back as it is revoked.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        for id in self.leases.drain() {
            self.sync(id);
        }
    }

    /// Nothing is left of the session: no batch, no answer awaited, and, when it drains, no lease.
    pub(crate) fn is_done(&self) -> bool {
        let over = self.ended || (self.draining && self.leases.unreleased() == 0);
        over && self.flights.is_empty() && self.releases.is_empty() && self.releasing == 0
    }

    pub(crate) fn leases(&self) -> usize {
        self.leases.held()
    }

    /// When [`Engine::decide`] should be asked again although nothing happened.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let may_flush = !self.ended && self.flights.has_room(self.rules.max_uploads);
        let flush = may_flush.then(|| self.buffer.wake_at()).flatten();
        flush.into_iter().chain(self.next_deadline()).min()
    }

    /// What is to be done now.
    pub(crate) fn decide(&mut self, now: Instant, append_time_ms: u64) -> Vec<Action> {
        self.meet_deadlines(now);
        let mut actions = Vec::new();
        while !self.ended
            && self.flights.has_room(self.rules.max_uploads)
            && self.buffer.due(now, self.flights.uploads())
        {
            let picked = self.buffer.take();
            actions.extend(self.flush(picked, now, append_time_ms).map(Action::Upload));
        }
        if let Some(objects) = self.flights.next_commit() {
            actions.push(Action::Commit(objects));
        }
        if !self.releases.is_empty() {
            let releases = std::mem::take(&mut self.releases);
            self.releasing += releases.len();
            actions.push(Action::Release(releases));
        }
        if let Some(questions) = self.producers.next_questions() {
            actions.push(Action::LookUp(questions));
        }
        if self.ended && !self.end_told {
            self.end_told = true;
            actions.push(Action::SessionOver);
        }
        actions
    }

    fn flush(&mut self, picked: Picked, now: Instant, append_time_ms: u64) -> Option<UploadOrder> {
        let mut slices = Vec::with_capacity(picked.len());
        let mut orders = Vec::with_capacity(picked.len());
        for (id, batches) in picked {
            let batches = self.writable(id, batches, now);
            if batches.is_empty() {
                self.sync(id);
                continue;
            }
            let records = batches.iter().map(|pending| u64::from(pending.records)).sum();
            let place = self.leases.assign(id, records);
            let start = SliceStart {
                topic: id.topic,
                partition: id.partition,
                lease_epoch: place.epoch,
                epoch_start_offset: place.epoch_start_offset,
                base_offset: place.base_offset,
                append_time_ms,
            };
            orders.push((start, batches.iter().map(|pending| pending.batch.clone()).collect()));
            slices.push(Slice { partition: id, place, batches, live: true });
        }
        if slices.is_empty() {
            return None;
        }
        // While PUT after PUT is given up there can be more of them than a footer has room for.
        let told = self.outcomes.len().min(MAX_OUTCOMES);
        let outcomes: Vec<_> = self.outcomes.drain(..told).collect();
        let sequence = self.flights.start(slices, outcomes.clone());
        let SessionIds { cluster, generation, session } = self.ids;
        let id = ObjectId { cluster, generation, session, sequence };
        Some(UploadOrder { id, slices: orders, outcomes })
    }

    /// The batches that may still be written: those that are too old fail, and with them those behind them.
    fn writable(&self, id: PartitionId, batches: Vec<Pending>, now: Instant) -> Vec<Pending> {
        let timeout = self.rules.delivery_timeout;
        let expired = |pending: &Pending| now.saturating_duration_since(pending.arrived) > timeout;
        let sound = |pending: &Pending| !expired(pending) && !pending.ticket.is_behind_a_refusal();
        if batches.iter().all(sound) {
            return batches;
        }
        let mut rest = Vec::with_capacity(batches.len());
        for pending in batches {
            if expired(&pending) {
                pending.ticket.refuse(self.too_late(id));
            } else if pending.ticket.is_behind_a_refusal() {
                pending.ticket.refuse(self.leases.not_in_turn(id));
            } else {
                rest.push(pending);
            }
        }
        rest
    }

    /// Brings buffer and releases in line with what is known of a partition's lease.
    fn sync(&mut self, id: PartitionId) {
        let readiness = self.leases.readiness(id);
        let nothing_left = self.buffer.is_empty(id) && !self.producers.waits(id);
        if readiness.revoked && readiness.quiet && nothing_left {
            let epoch = self.leases.release(id);
            self.releases.push((id, epoch));
            self.buffer.set(id, false, false);
        } else {
            self.buffer.set(id, readiness.open, readiness.leaving);
        }
    }

    fn fail_buffered(&mut self, id: PartitionId, error: &ErrorInfo) {
        refuse_all(self.buffer.remove(id), error);
        refuse_all(self.producers.forget(id), error);
        self.sync(id);
    }

    fn record(&mut self, sequence: u64, slice: usize, outcome: Outcome) {
        let slice = u32::try_from(slice).unwrap_or(u32::MAX);
        self.outcomes.push(SliceOutcome { sequence, slice, outcome });
    }

    /// The session is over. What was never sent to be committed fails for certain; what was awaits its answer.
    fn end(&mut self, why: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        match self.draining && self.leases.unreleased() == 0 && self.flights.is_empty() {
            true => tracing::info!(session = self.session(), why, "session ended"),
            false => tracing::warn!(session = self.session(), why, "session ended"),
        }
        self.releases.clear();
        self.releasing = 0;
        for id in self.leases.held_partitions() {
            self.leases.refused(id, u32::MAX);
            refuse_all(self.buffer.remove(id), &self.leases.not_holder(id));
        }
        for (id, waiting) in self.producers.end() {
            refuse_all(waiting, &self.leases.not_holder(id));
        }
        for flight in self.flights.never_committed() {
            self.fail_flight(flight);
        }
        // The next session may hold their partitions before they are answered, and write what is behind them.
        self.flights.batches().for_each(|pending| pending.ticket.break_run());
    }

    /// Fails the batches of an object that certainly is not in the index.
    fn fail_flight(&mut self, flight: Flight) {
        for slice in flight.slices {
            refuse_all(slice.batches, &self.leases.not_holder(slice.partition));
        }
    }
}

fn refuse_all(batches: impl IntoIterator<Item = Pending>, error: &ErrorInfo) {
    for pending in batches {
        pending.ticket.refuse(error.clone());
    }
}
