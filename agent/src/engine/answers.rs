//! What the answer to a commit means for the batches in it.

use super::flights::{Flight, Slice};
use super::{Engine, refuse_all};
use crate::partition::PartitionId;
use crate::ticket::Pending;
use std::time::Instant;
use streamhouse_proto::v1::{
    CommitObjectsResponse, ErrorCode, ErrorInfo, ObjectResult, SliceResult,
};
use streamhouse_segment::Outcome;

/// How a commit request ended.
#[derive(Debug)]
pub(crate) enum CommitAnswer {
    Answered(CommitObjectsResponse),
    /// Nothing of it was applied, or ever will be.
    Refused,
    /// It may have been applied; no answer will come.
    Unknown,
}

impl Engine {
    /// Takes the answer to the outstanding commit request.
    pub(crate) fn on_committed(&mut self, answer: CommitAnswer, now: Instant) {
        match answer {
            CommitAnswer::Answered(response) => self.settle_flights(response, now),
            CommitAnswer::Refused => {
                while let Some(flight) = self.flights.next_answered() {
                    self.fail_flight(flight);
                }
                self.end("a commit was refused");
            }
            CommitAnswer::Unknown => {
                while let Some(flight) = self.flights.next_answered() {
                    doubt(flight);
                }
                self.end("a commit's outcome is unknown");
            }
        }
    }

    fn settle_flights(&mut self, response: CommitObjectsResponse, now: Instant) {
        let mut results = response.results.into_iter();
        let mut broken = None;
        while let Some(flight) = self.flights.next_answered() {
            let result = results.next().filter(|result| result.sequence == flight.sequence);
            match result {
                Some(result) if result.error.is_none() => {
                    self.settle_flight(flight, result, response.applied, now);
                }
                Some(ObjectResult { error: Some(error), .. })
                    if error.code() == ErrorCode::SessionEnded =>
                {
                    broken = Some("a commit was fenced");
                    self.fail_flight(flight);
                }
                _ => {
                    broken = Some("a commit's outcome is unknown");
                    doubt(flight);
                }
            }
        }
        if let Some(why) = broken {
            self.end(why);
        }
    }

    fn settle_flight(&mut self, flight: Flight, result: ObjectResult, applied: u64, now: Instant) {
        let sequence = flight.sequence;
        if let Some(partitions) = &flight.abandoned {
            self.settle_abandoned(sequence, partitions, flight.slices, &result.slices, now);
            return;
        }
        if result.slices.len() < flight.slices.len() {
            tracing::error!(session = self.session(), sequence, "a commit's answer lacks slices");
        }
        let mut results = result.slices.into_iter();
        for (number, slice) in flight.slices.into_iter().enumerate() {
            match results.next() {
                Some(result) if result.accepted => {
                    self.record(sequence, number, Outcome::Accepted);
                    self.accept(slice, applied);
                }
                Some(result) => {
                    self.record(sequence, number, Outcome::Refused);
                    self.refuse(slice, &result, applied, now);
                }
                None => doubt_slice(slice),
            }
        }
    }

    fn accept(&mut self, slice: Slice, applied: u64) {
        let id = slice.partition;
        if !slice.live {
            // ONCE would be broken: these batches were resubmitted because their epoch was over.
            tracing::error!(
                session = self.session(),
                partition = %id,
                epoch = slice.place.epoch,
                base_offset = slice.place.base_offset,
                "a slice of a past epoch was accepted"
            );
            return;
        }
        self.leases.settle(id);
        let mut base_offset = slice.place.base_offset;
        for pending in slice.batches {
            let records = u64::from(pending.records);
            pending.ticket.acknowledge(base_offset, applied);
            base_offset += records;
        }
        self.sync(id);
    }

    fn refuse(&mut self, slice: Slice, result: &SliceResult, applied: u64, now: Instant) {
        let id = slice.partition;
        if slice.live {
            self.leases.settle(id);
        }
        tracing::warn!(
            session = self.session(),
            partition = %id,
            epoch = slice.place.epoch,
            current_epoch = result.lease_epoch,
            base_offset = slice.place.base_offset,
            next_offset = result.next_offset,
            still_holder = result.still_holder,
            "a slice was refused"
        );
        let error = result.error.clone().unwrap_or_default();
        match error.code() {
            ErrorCode::UnknownTopic | ErrorCode::UnknownPartition => {
                refuse_all(slice.batches, &error);
                self.leases.refused(id, u32::MAX);
                self.fail_buffered(id, &error);
            }
            _ if result.still_holder && result.lease_epoch > slice.place.epoch => {
                let innocent = answer_refused(slice.batches, result, applied);
                self.resubmit(id, innocent, result, now);
            }
            _ => self.lose(id, slice.batches, result, &error),
        }
    }

    /// The partition goes on under a raised epoch: what was in flight behind the refused slice falls with it, and all
    /// of it goes back, in order, to be written again.
    fn resubmit(
        &mut self,
        id: PartitionId,
        mut batches: Vec<Pending>,
        result: &SliceResult,
        now: Instant,
    ) {
        let (slices, later) = self.flights.recall(id, result.lease_epoch);
        (0..slices).for_each(|_| self.leases.settle(id));
        batches.extend(later);
        self.leases.raise(id, result.lease_epoch, result.next_offset);
        if self.ended || !self.leases.holds(id) {
            refuse_all(batches, &self.leases.not_holder(id));
        } else {
            let batches = self.writable(id, batches, now);
            self.buffer.put_back(id, batches);
        }
        self.sync(id);
    }

    /// The lease is gone; this slice certainly did not happen. Later ones await their own answers.
    fn lose(
        &mut self,
        id: PartitionId,
        batches: Vec<Pending>,
        result: &SliceResult,
        error: &ErrorInfo,
    ) {
        let lost = !result.still_holder && self.leases.refused(id, result.lease_epoch);
        let mut told = self.leases.not_holder(id);
        if !error.address.is_empty() {
            told.address.clone_from(&error.address);
        }
        refuse_all(batches, &told);
        if lost {
            self.fail_buffered(id, &told);
        }
        self.sync(id);
    }

    fn settle_abandoned(
        &mut self,
        sequence: u64,
        partitions: &[PartitionId],
        slices: Vec<Slice>,
        results: &[SliceResult],
        now: Instant,
    ) {
        for (number, slice) in slices.into_iter().enumerate() {
            self.record(sequence, number, Outcome::Abandoned);
            let id = slice.partition;
            let place = partitions.iter().position(|abandoned| *abandoned == id);
            // Without a place its batches had gone elsewhere before the object was given up. Without a result the
            // object is still not in the index, but the new epoch is not known: the default says "not ours".
            if let Some(place) = place {
                let result = results.get(place).cloned().unwrap_or_default();
                self.refuse(slice, &result, 0, now);
            }
        }
    }
}

/// Nobody can say what became of this object.
fn doubt(flight: Flight) {
    flight.slices.into_iter().for_each(doubt_slice);
}

fn doubt_slice(slice: Slice) {
    let message = format!("no answer to the commit of a batch of {}", slice.partition);
    refuse_all(slice.batches, &ErrorInfo::new(ErrorCode::OutcomeUnknown, message));
}

/// DEDUP: answers the batches for which their slice was refused; the others, in order.
fn answer_refused(batches: Vec<Pending>, result: &SliceResult, applied: u64) -> Vec<Pending> {
    let mut refused = result.refused_batches.iter().peekable();
    let mut innocent = Vec::with_capacity(batches.len());
    // Their places are counted among the batches of idempotent producers.
    let mut place = 0;
    for pending in batches {
        let named = pending.sequence.is_some()
            && refused.peek().is_some_and(|refusal| refusal.index == place);
        place += u32::from(pending.sequence.is_some());
        let Some(refusal) = refused.next_if(|_| named) else {
            innocent.push(pending);
            continue;
        };
        match &refusal.error {
            Some(error) => pending.ticket.refuse(error.clone()),
            None => pending.ticket.had(refusal.base_offset, applied),
        }
    }
    innocent
}
