//! Idempotence: which batch is which, and how the producer finds its way back when it has lost track.
//!
//! Batches are numbered in the order in which they go out, and keep their numbers through every retry. When one is
//! given up, its number would be missing for ever, and the cluster would refuse all that follow. So before anything else
//! is sent, the partition *settles*:
//!
//! 1. The producer's epoch is raised. From that entry of the log on nothing of the epoch before is written, wherever it
//!    may still be on its way.
//! 2. The controllers are asked, as of that entry, what the partition has. Each batch is now known to be written, and
//!    where, or never to be.
//! 3. What is not written and not given up goes out again, numbered from 0 in the new epoch.
//!
//! The epoch is the whole producer's, so that every partition settles when one has raised it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Batch, PartitionTask};
use crate::clock;
use crate::errors::{CallError, Code, Refusal};
use crate::producer::error::ProduceError;
use crate::producer::identity::Standing;
use crate::producer::outcome::Failure;
use crate::routing::{ProducerId, Progress};

/// The cluster remembers for a day what a partition has of a producer.
const REMEMBERED: Duration = Duration::from_secs(23 * 3600);

/// What became of a batch of a past epoch.
enum Fate {
    Written(Option<u64>),
    Never,
    /// The cluster has forgotten it.
    Unknown,
}

fn fate(batch: &Batch, who: ProducerId, progress: Option<&Progress>) -> Fate {
    let Some(progress) = progress.filter(|_| batch.sent) else { return Fate::Never };
    let end = batch.position + u64::from(batch.records);
    if progress.epoch == who.epoch && end <= progress.sequences.records {
        return Fate::Written(progress.sequences.offset_of(batch.position));
    }
    // Another took over and has written here since: what was of this epoch is no longer kept.
    if progress.epoch > who.epoch && batch.ambiguous {
        return Fate::Unknown;
    }
    match progress.current {
        Some(_) if batch.opened.elapsed() < REMEMBERED => Fate::Never,
        _ if batch.ambiguous => Fate::Unknown,
        _ => Fate::Never,
    }
}

impl PartitionTask {
    /// Whether batches that have waited since before `deadline` cannot just be given up: they, or some behind them,
    /// were sent, and their numbers are used.
    pub(super) fn must_settle(&mut self, deadline: Instant) -> bool {
        if self.idempotence.is_none() {
            return false;
        }
        let first = self.window.iter_idle().find(|batch| batch.opened <= deadline);
        let sent = first.is_some_and(|batch| batch.sent);
        if sent {
            self.lose_track();
        }
        sent || !self.is_prepared()
    }

    /// A batch was refused for good.
    pub(super) fn refused(&mut self, id: u64, refusal: Refusal) {
        let reason = refusal.to_string();
        let ambiguous = refusal.code.may_have_taken_effect();
        let failure = Failure { reason: reason.as_str().into(), ambiguous, redirect: None };
        let of_producer = matches!(refusal.code, Code::ProducerFenced | Code::UnknownProducer);
        if let Some(batch) = self.window.failed(id) {
            batch.note(&failure);
            batch.refusal = (!of_producer).then_some(refusal);
        }
        if of_producer {
            self.hold();
        }
        // Whoever asks for the next epoch learns whether another producer has taken this one's place.
        self.lose_track();
    }

    /// Sees to it that batches may be numbered and sent. The error says that they never may.
    pub(super) async fn prepare(&mut self) -> Result<(), ProduceError> {
        let held = self.hold_until.is_some_and(|until| clock::now() < until);
        if held || self.is_prepared() {
            return Ok(());
        }
        let Some(identity) = &self.shared.identity else { return Ok(()) };
        let Some(idempotence) = &mut self.idempotence else { return Ok(()) };
        let standing = match (idempotence.who, idempotence.lost_track) {
            (None, _) => {
                let Some(oldest) = self.buffer.oldest() else { return Ok(()) };
                let limit = clock::later(oldest, self.shared.config.delivery_timeout);
                match tokio::time::timeout_at(limit, identity.get()).await {
                    Ok(standing) => standing,
                    // The batches that waited for it fail.
                    Err(_) => return Ok(()),
                }
            }
            (Some(who), true) => identity.raise(who).await,
            (Some(_), false) => Ok(identity.standing()),
        };
        idempotence.news.mark_unchanged();
        match standing {
            Ok(Standing::Has { who, since }) => self.settle_as(who, since).await,
            Ok(Standing::Fenced(reason)) => {
                let written = self.progress(0).await.ok();
                return Err(self.end_fenced(&reason, written.as_ref()));
            }
            Ok(Standing::Unknown) => {}
            Err(error) => self.unsettled(&error),
        }
        Ok(())
    }

    /// What the partition has of the batches that were sent, asked only if there are any.
    async fn progress(&mut self, since: u64) -> Result<Option<Progress>, CallError> {
        let who = self.idempotence.as_ref().and_then(|idempotence| idempotence.who);
        let (Some(who), Some(identity)) = (who, &self.shared.identity) else { return Ok(None) };
        if !self.window.iter().any(|batch| batch.sent) {
            return Ok(None);
        }
        let at = (self.topic.route.id, self.partition);
        identity.progress(at, who.id, since).await.map(Some)
    }

    /// Steps 2 and 3.
    async fn settle_as(&mut self, who: ProducerId, since: u64) {
        if let Some(idempotence) = self.idempotence.as_mut().filter(|known| known.who.is_none()) {
            // The first batch is yet to come.
            idempotence.who = Some(who);
            self.backoff.reset();
            return;
        }
        // Whatever their answers say, it is of the past; and nothing more is to follow on that stream.
        self.attempts.clear();
        self.probe = None;
        self.forget_link();
        self.agent = None;
        let silent =
            Failure { reason: "its epoch was raised".into(), ambiguous: true, redirect: None };
        self.window.fail_all_sent(|batch| batch.note(&silent));
        let progress = match self.progress(since).await {
            Ok(progress) => progress,
            Err(error) => return self.unsettled(&error),
        };
        let left = self.sort_out(progress.as_ref());
        if let Some(idempotence) = &mut self.idempotence {
            idempotence.who = Some(who);
            idempotence.position = 0;
            idempotence.lost_track = false;
        }
        for batch in left.iter().filter(|batch| batch.attempts > 0) {
            self.shared.counters.retried(batch.records, false);
        }
        for mut batch in left {
            let (_, at) = self.next_stamp(batch.records);
            batch.number(who, at);
            self.window.push(batch);
        }
    }

    /// Ends the batches whose end is known: written, refused, or too late. The others, in order.
    fn sort_out(&mut self, progress: Option<&Progress>) -> Vec<Batch> {
        let Some(who) = self.idempotence.as_ref().and_then(|idempotence| idempotence.who) else {
            return Vec::new();
        };
        let deadline = clock::now().checked_sub(self.shared.config.delivery_timeout);
        let mut left = Vec::new();
        for (batch, _) in self.window.drain() {
            match fate(&batch, who, progress) {
                Fate::Written(Some(base_offset)) => self.placed(batch, base_offset),
                Fate::Written(None) => {
                    let message = "it was written, and where is no longer known".to_owned();
                    let refusal = Refusal { code: Code::Internal, message };
                    let error = self.refusal(refusal, true);
                    self.give_up(batch, error);
                }
                Fate::Unknown => {
                    let error = self.timed_out(&batch, true);
                    self.give_up(batch, error);
                }
                Fate::Never => match batch.refusal.clone() {
                    Some(refusal) => {
                        let error = self.refusal(refusal, false);
                        self.give_up(batch, error);
                    }
                    None if deadline.is_some_and(|deadline| batch.opened <= deadline) => {
                        let error = self.timed_out(&batch, false);
                        self.give_up(batch, error);
                    }
                    None => left.push(batch),
                },
            }
        }
        left
    }

    fn refusal(&self, refusal: Refusal, may_have_taken_effect: bool) -> ProduceError {
        ProduceError::Refused {
            topic: self.topic.route.name.clone(),
            partition: self.partition,
            refusal,
            may_have_taken_effect,
        }
    }

    /// The controllers did not answer: what is too late fails without being known, everything else waits.
    fn unsettled(&mut self, error: &CallError) {
        self.attempts.clear();
        self.forget_link();
        let reason = error.to_string();
        let failure = Failure { reason: reason.as_str().into(), ambiguous: true, redirect: None };
        self.window.fail_all_sent(|batch| batch.note(&failure));
        self.window.for_each_idle(|batch| batch.last = failure.reason.clone());
        if self.idempotence.as_ref().is_some_and(|idempotence| idempotence.who.is_some()) {
            self.lose_track();
        }
        if let Some(deadline) = clock::now().checked_sub(self.shared.config.delivery_timeout) {
            for batch in self.window.take_idle(|batch| batch.opened <= deadline) {
                let error = self.timed_out(&batch, batch.ambiguous);
                self.give_up(batch, error);
            }
        }
        self.hold();
    }

    /// Another producer has taken this one's place.
    fn end_fenced(&mut self, reason: &str, written: Option<&Option<Progress>>) -> ProduceError {
        let fenced = |may_have_taken_effect| ProduceError::Fenced {
            reason: reason.into(),
            may_have_taken_effect,
        };
        self.attempts.clear();
        let silent =
            Failure { reason: "its producer was fenced".into(), ambiguous: true, redirect: None };
        self.window.fail_all_sent(|batch| batch.note(&silent));
        let left = match written {
            Some(progress) => self.sort_out(progress.as_ref()),
            None => self.window.drain().into_iter().map(|(batch, _)| batch).collect(),
        };
        for batch in left {
            let maybe = written.is_none() && batch.ambiguous;
            self.give_up(batch, fenced(maybe));
        }
        fenced(false)
    }
}
