//! The one stream to an agent, shared by all partitions whose batches go there.
//!
//! A link is a task with a bounded inbox. It lives as long as its stream: when that ends, every batch without an answer
//! is [`Outcome::Lost`], and the next batch for the agent makes a new link. Waiting between tries is the partitions'
//! business, so a link never waits; to an agent whose circuit is open it does not even connect.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryFutureExt};
use parking_lot::Mutex;
use streamhouse_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outcome::Outcome;
use crate::errors::{Code, Refusal};
use crate::routing::{BreakerRule, Breakers, agent_channel};
use crate::{clock, convert};

/// BOUND: batches that wait for a link; their bytes are bounded by the producer's room.
const INBOX: usize = 256;
/// Messages between a link and its HTTP/2 stream.
const OUTBOUND: usize = 4;
/// A message takes further batches up to this size, and one batch in any case.
const MESSAGE_BYTES: usize = 4 << 20;

/// A batch for an agent.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) partition: v1::TopicPartition,
    pub(super) batch: Bytes,
    /// The partition has nothing else on its way.
    pub(super) restart: bool,
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// The links of a producer.
#[derive(Debug)]
pub(super) struct Links {
    open: Mutex<HashMap<Arc<str>, mpsc::Sender<Submission>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    breakers: Arc<Breakers>,
}

impl Links {
    pub(super) fn new(tasks: TaskTracker, cancel: CancellationToken, rule: BreakerRule) -> Self {
        let breakers = Arc::new(Breakers::new(rule));
        Self { open: Mutex::default(), tasks, cancel, breakers }
    }

    /// How many agents are left alone just now.
    pub(super) fn failing(&self) -> usize {
        self.breakers.open()
    }

    /// The inbox of the link to that agent; a new one if there is none or its stream has ended.
    pub(super) fn get(&self, address: &Arc<str>) -> mpsc::Sender<Submission> {
        let mut open = self.open.lock();
        if let Some(link) = open.get(address)
            && !link.is_closed()
        {
            return link.clone();
        }
        open.retain(|_, link| !link.is_closed());
        let (link, inbox) = mpsc::channel(INBOX);
        open.insert(address.clone(), link.clone());
        let task = LinkTask {
            address: address.clone(),
            inbox,
            pending: HashMap::new(),
            breakers: Arc::clone(&self.breakers),
            answered: false,
        };
        self.tasks.spawn(task.run(self.cancel.clone()));
        link
    }
}

struct LinkTask {
    address: Arc<str>,
    inbox: mpsc::Receiver<Submission>,
    /// Sent and not answered, by correlation.
    pending: HashMap<u64, oneshot::Sender<Outcome>>,
    breakers: Arc<Breakers>,
    /// The agent was heard of on this stream.
    answered: bool,
}

impl LinkTask {
    async fn run(mut self, cancel: CancellationToken) {
        let ended: Arc<str> = tokio::select! {
            () = cancel.cancelled() => "the producer is closed".into(),
            reason = self.connect_and_serve() => format!("{}: {reason}", self.address).into(),
        };
        tracing::debug!(agent = %self.address, reason = %ended, "produce stream ended");
        self.inbox.close();
        for (_, reply) in self.pending.drain() {
            let _gone = reply.send(Outcome::Lost(ended.clone()));
        }
        while let Some(submission) = self.inbox.recv().await {
            let _gone = submission.reply.send(Outcome::NotSent(ended.clone()));
        }
    }

    async fn connect_and_serve(&mut self) -> String {
        if let Some(refusal) = self.breakers.refusal(&self.address, clock::now()) {
            return refusal;
        }
        let reason = self.serve().await;
        if !self.answered {
            self.breakers.failed(&self.address, clock::now());
        }
        reason
    }

    /// Carries batches up and answers down until the stream ends, and says why it did.
    async fn serve(&mut self) -> String {
        let mut client = match agent_channel(&self.address).await {
            Ok(client) => client,
            Err(error) => return error,
        };
        let (outbound, requests) = mpsc::channel(OUTBOUND);
        let responses = client
            .stream(ReceiverStream::new(requests))
            .map_ok(tonic::Response::into_inner)
            .try_flatten_stream();
        let mut responses = std::pin::pin!(responses);
        let mut waiting = VecDeque::new();
        let mut correlation = 0;
        loop {
            tokio::select! {
                response = responses.next() => match response {
                    Some(Ok(response)) => self.answer(response),
                    Some(Err(status)) => return status.message().to_owned(),
                    None => return "the agent ended the stream".to_owned(),
                },
                permit = outbound.reserve(), if !waiting.is_empty() => match permit {
                    Ok(permit) => {
                        // Whatever else waits may share the message.
                        while let Ok(more) = self.inbox.try_recv() {
                            waiting.push_back(more);
                        }
                        permit.send(self.message(&mut waiting, &mut correlation));
                    }
                    Err(_) => return "the stream broke".to_owned(),
                },
                submission = self.inbox.recv(), if waiting.is_empty() => match submission {
                    Some(submission) => waiting.push_back(submission),
                    None => return "the producer is gone".to_owned(),
                },
            }
        }
    }

    fn message(
        &mut self,
        waiting: &mut VecDeque<Submission>,
        correlation: &mut u64,
    ) -> v1::ProduceRequest {
        let mut request = v1::ProduceRequest { batches: Vec::new() };
        let mut bytes = 0;
        while let Some(next) = waiting.front() {
            bytes += next.batch.len();
            if bytes > MESSAGE_BYTES && !request.batches.is_empty() {
                break;
            }
            let Some(submission) = waiting.pop_front() else { break };
            *correlation += 1;
            self.pending.insert(*correlation, submission.reply);
            request.batches.push(v1::ProduceBatch {
                correlation: *correlation,
                partition: Some(submission.partition),
                batch: submission.batch,
                restart: submission.restart,
            });
        }
        request
    }

    fn answer(&mut self, response: v1::ProduceResponse) {
        if !std::mem::replace(&mut self.answered, true) {
            self.breakers.succeeded(&self.address);
        }
        for result in response.results {
            let Some(reply) = self.pending.remove(&result.correlation) else {
                tracing::warn!(agent = %self.address, "answer to a batch that was not sent");
                continue;
            };
            let outcome = match result.error {
                Some(info) => {
                    let (refusal, address) = convert::refusal(info);
                    Outcome::Refused { refusal, address }
                }
                // Never of a batch of ours, of which there are fewer on their way than offsets are kept.
                None if result.offset_unknown => Outcome::Refused {
                    refusal: Refusal {
                        code: Code::Internal,
                        message: "it was written, and where is no longer known".to_owned(),
                    },
                    address: None,
                },
                None => {
                    Outcome::Placed { base_offset: result.base_offset, applied: result.applied }
                }
            };
            // The partition's task may have given up on this try.
            let _gone = reply.send(outcome);
        }
    }
}
