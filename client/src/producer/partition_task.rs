//! The task that gets one partition's batches to whoever holds its lease, in order.

mod answers;
mod ending;
mod numbering;
mod settling;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::agent_link::Submission;
use super::buffer::{Buffer, Pending, Taken};
use super::delivery::Completion;
use super::error::ProduceError;
use super::handle::Shared;
use super::outcome::{Failure, Outcome};
use super::pace::Pace;
use super::room::BATCH_OVERHEAD;
use super::topics::OpenTopic;
use super::window::Window;
use crate::errors::{CallError, Code, Refusal};
use crate::{clock, convert};
use numbering::Idempotence;

/// An agent that says nothing for so long may have lost its lease without knowing (it was stopped, say): the
/// controllers are asked.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// A finished batch on its way.
#[derive(Debug)]
struct Batch {
    bytes: Bytes,
    records: u32,
    uncompressed: usize,
    weight: usize,
    opened: Instant,
    completion: Arc<Completion>,
    attempts: u32,
    /// Any try may have been written.
    ambiguous: bool,
    /// The last failed try may have been written.
    last_ambiguous: bool,
    last: Arc<str>,
    /// How many records of the partition come before it in the producer's epoch; 0 if it is not idempotent.
    position: u64,
    /// It was sent, as the one that it is stamped to be.
    sent: bool,
    /// It is given up, once it is known for certain that it was not written.
    refusal: Option<Refusal>,
}

impl Batch {
    fn note(&mut self, failure: &Failure) {
        self.ambiguous |= failure.ambiguous;
        self.last_ambiguous = failure.ambiguous;
        self.last = failure.reason.clone();
    }
}

/// A try that has ended.
struct Attempt {
    batch: u64,
    /// The link that it went over.
    link_number: u64,
    outcome: Outcome,
}

/// See the module.
pub(super) struct PartitionTask {
    shared: Arc<Shared>,
    topic: Arc<OpenTopic>,
    partition: u32,
    buffer: Arc<Buffer>,
    window: Window<Batch>,
    attempts: FuturesUnordered<BoxFuture<'static, Attempt>>,
    /// Where the partition's batches go; `None`: ask first.
    agent: Option<Arc<str>>,
    /// The stream that everything in flight went to.
    ///
    /// SUBTLE: nothing may go to another one before the fate of what is in flight is known, not even to a new stream to
    /// the same agent.
    /// 1. A and B are in flight, the stream breaks, and its link ends. Their failures are on their way to this task.
    /// 2. C sent on a fresh link now would be written before A and B are sent again.
    /// 3. So C goes to the link of A and B, which has ended and refuses it: C joins the resend, in its place.
    link: Option<mpsc::Sender<Submission>>,
    /// Counts the links that were given up. An answer that comes over an earlier one says nothing of this one.
    link_number: u64,
    /// A batch was written through `link`. Until then there is one in flight at a time.
    proven: bool,
    /// The routes' version of which no more use can be made.
    seen: u64,
    backoff: Pace,
    /// Nothing is sent before.
    hold_until: Option<Instant>,
    /// The open batch is taken then.
    linger_until: Option<Instant>,
    probe: Option<BoxFuture<'static, Result<(), CallError>>>,
    probe_at: Instant,
    /// Which batches of an idempotent producer these are.
    idempotence: Option<Idempotence>,
}

impl PartitionTask {
    pub(super) fn new(shared: Arc<Shared>, topic: Arc<OpenTopic>, partition: u32) -> Self {
        let (agent, seen) = topic.route.agent(partition);
        let config = &shared.config;
        Self {
            window: Window::new(config.max_in_flight),
            backoff: Pace::new(config.retry_backoff, config.retry_backoff_max),
            buffer: topic.buffers[partition as usize].clone(),
            shared,
            topic,
            partition,
            attempts: FuturesUnordered::new(),
            agent,
            link: None,
            link_number: 0,
            proven: false,
            seen,
            hold_until: None,
            linger_until: None,
            probe: None,
            probe_at: clock::now(),
            idempotence: None,
        }
        .with_idempotence()
    }

    /// Runs until the producer is closed or the topic is gone.
    pub(super) async fn run(mut self) {
        let (cancel, deleted) = (self.shared.cancel.clone(), self.topic.gone.clone());
        let end = loop {
            self.expire();
            let prepared = tokio::select! {
                () = cancel.cancelled() => break None,
                () = deleted.cancelled() => break Some(self.gone()),
                prepared = self.prepare() => prepared,
            };
            if let Err(fenced) = prepared {
                break Some(fenced);
            }
            self.fill();
            let sent = tokio::select! {
                () = cancel.cancelled() => break None,
                () = deleted.cancelled() => break Some(self.gone()),
                sent = self.dispatch() => sent,
            };
            if let Err(gone) = sent {
                break Some(gone);
            }
            let timer = self.timer();
            tokio::select! {
                () = cancel.cancelled() => break None,
                () = deleted.cancelled() => break Some(self.gone()),
                Some(attempt) = self.attempts.next() => {
                    if let Some(gone) = self.settle(attempt).await {
                        break Some(gone);
                    }
                }
                () = self.buffer.changed() => {}
                () = Idempotence::changed(&mut self.idempotence) => {}
                result = some(&mut self.probe) => self.probed(result),
                () = clock::until(timer) => self.tick(),
            }
        };
        self.end(end);
    }

    /// Takes batches out of the buffer and compresses them, as long as the window has room.
    fn fill(&mut self) {
        self.linger_until = None;
        while self.is_prepared() && self.window.has_room() {
            match self.buffer.take(clock::now()) {
                Taken::Batch(pending) => {
                    self.topic.pass_on(self.partition);
                    self.admit(pending);
                }
                Taken::Lingers(until) => {
                    self.linger_until = Some(until);
                    return;
                }
                Taken::Empty => return,
            }
        }
    }

    fn admit(&mut self, pending: Pending) {
        let records = pending.builder.record_count();
        let uncompressed = pending.builder.uncompressed_bytes();
        let (stamp, position) = self.next_stamp(records);
        let bytes = pending
            .builder
            .finish(stamp)
            .expect("a batch is opened by its first record, so it is never empty");
        // What compression saved is room for further records.
        let weight = pending.weight.min(bytes.len() + BATCH_OVERHEAD);
        self.shared.room.give_back(pending.weight - weight);
        self.window.push(Batch {
            bytes,
            records,
            uncompressed,
            weight,
            opened: pending.opened,
            completion: pending.completion,
            attempts: 0,
            ambiguous: false,
            last_ambiguous: false,
            last: "it was never sent".into(),
            position,
            sent: false,
            refusal: None,
        });
    }

    /// Sends what may be sent now. The error says that the topic is gone.
    async fn dispatch(&mut self) -> Result<(), ProduceError> {
        let held = self.hold_until.is_some_and(|until| clock::now() < until);
        if held || !self.is_prepared() || !self.window.may_send() {
            return Ok(());
        }
        self.hold_until = None;
        if self.agent.is_none() && !self.find_agent().await? {
            return Ok(());
        }
        if self.window.can_resume() {
            for batch in self.window.iter().filter(|batch| batch.attempts > 0) {
                let twice = batch.last_ambiguous && self.idempotence.is_none();
                self.shared.counters.retried(batch.records, twice);
            }
            self.window.resume();
        }
        while self.send_next().await {}
        Ok(())
    }

    /// Asks the controllers who holds the lease. `false`: nobody knows just now, and a wait has been set.
    async fn find_agent(&mut self) -> Result<bool, ProduceError> {
        let oldest = self.window.iter().map(|batch| batch.opened).min();
        let oldest = oldest.unwrap_or_else(clock::now);
        let limit = clock::later(oldest, self.shared.config.delivery_timeout);
        let refresh = self.shared.routes.refresh(&self.topic.route, self.seen);
        let problem = match tokio::time::timeout_at(limit, refresh).await {
            Ok(Ok(())) => "no agent holds the partition's lease".to_owned(),
            Ok(Err(error)) if error.code() == Some(Code::UnknownTopic) => return Err(self.gone()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the controllers did not answer".to_owned(),
        };
        let (agent, version) = self.topic.route.agent(self.partition);
        if version > self.seen && agent.is_some() {
            (self.agent, self.seen) = (agent, version);
            return Ok(true);
        }
        self.seen = self.seen.max(version);
        let failure = Failure { reason: problem.into(), ambiguous: false, redirect: None };
        self.window.for_each_idle(|batch| batch.last = failure.reason.clone());
        self.hold();
        Ok(false)
    }

    fn hold(&mut self) {
        self.hold_until = Some(clock::now() + self.backoff.next());
    }

    async fn send_next(&mut self) -> bool {
        let Some(agent) = self.agent.clone() else { return false };
        let fresh = self.attempts.is_empty();
        if fresh && self.link.as_ref().is_some_and(mpsc::Sender::is_closed) {
            self.forget_link();
        }
        if !fresh && !self.proven {
            return false;
        }
        let Some((id, batch)) = self.window.next_to_send() else { return false };
        batch.attempts += 1;
        batch.sent = true;
        let now = clock::now();
        let config = &self.shared.config;
        let limit = clock::later(now, config.request_timeout)
            .min(clock::later(batch.opened, config.delivery_timeout));
        let (reply, answer) = oneshot::channel();
        // Whatever goes out again does so after its link was given up, and so does what goes to another agent.
        let restart = self.link.is_none();
        let submission = Submission {
            partition: convert::topic_partition(self.topic.route.id, self.partition),
            batch: batch.bytes.clone(),
            restart,
            reply,
        };
        if fresh {
            self.probe_at = now + PROBE_AFTER;
        }
        let link = self.link.get_or_insert_with(|| self.shared.links.get(&agent));
        let link_number = self.link_number;
        let submitted = tokio::time::timeout_at(limit, link.send(submission)).await;
        self.attempts.push(Box::pin(async move {
            let outcome = match submitted {
                Ok(Ok(())) => match tokio::time::timeout_at(limit, answer).await {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_)) => Outcome::Lost("the stream ended".into()),
                    Err(_) => Outcome::Silent(limit - now),
                },
                Ok(Err(_)) => Outcome::NotSent(format!("{agent}: the stream ended").into()),
                Err(_) => Outcome::NotSent(format!("{agent} takes no more batches").into()),
            };
            Attempt { batch: id, link_number, outcome }
        }));
        true
    }

    /// What is sent next goes over another stream; nothing is in flight, or its fate is being settled.
    fn forget_link(&mut self) {
        self.link = None;
        self.link_number += 1;
        self.proven = false;
    }

    /// A timer ran out: everything but the probe is looked at anyway.
    fn tick(&mut self) {
        if self.probe.is_none() && !self.attempts.is_empty() && clock::now() >= self.probe_at {
            let (shared, topic) = (self.shared.clone(), self.topic.clone());
            let (_, version) = topic.route.agent(self.partition);
            self.probe =
                Some(Box::pin(async move { shared.routes.refresh(&topic.route, version).await }));
        }
    }

    /// When something is due although nothing happens.
    fn timer(&self) -> Option<Instant> {
        let probing = self.probe.is_none() && !self.attempts.is_empty();
        // What is not settled is not given up either.
        let idle = self.window.iter_idle().filter(|_| self.is_prepared());
        let oldest = idle.map(|batch| batch.opened).chain(self.buffer.oldest()).min();
        // A wait that is over says nothing while a batch in flight must be answered first.
        let holding = self.hold_until.filter(|_| self.window.may_send() || !self.is_prepared());
        [
            holding,
            self.linger_until,
            probing.then_some(self.probe_at),
            oldest.map(|opened| clock::later(opened, self.shared.config.delivery_timeout)),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// Waits for a future that there may not be.
async fn some<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
