//! Committing a group's offsets: one task sends them, in the order in which they were asked for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_segment::ids::TopicId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::error::ConsumeError;
use super::group::{Lease, MemberId};
use super::metrics::{Counters, count};
use crate::errors::{CallError, Code};
use crate::routing::{Client, MAX_OFFSETS, Metadata, Requester};
use crate::types::TopicPartition;
use crate::{clock, convert};

/// BOUND: commits that were handed in and have no answer yet.
pub(super) const WAITING: u64 = 64;

/// What errors call it.
const COMMIT: &str = "commit offsets";

/// An offset to commit, or one that was: the next one to read, and what the application noted beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommittedOffset {
    /// The offset of the next record to read.
    pub offset: u64,
    /// The application's own words, at most 4,096 bytes; empty for none.
    pub metadata: String,
}

impl From<u64> for CommittedOffset {
    fn from(offset: u64) -> Self {
        Self { offset, metadata: String::new() }
    }
}

/// One partition's offset to commit.
#[derive(Clone, Debug)]
pub(super) struct Offset {
    pub(super) at: Arc<TopicPartition>,
    pub(super) topic: TopicId,
    pub(super) committed: CommittedOffset,
}

/// What became of a commit.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What the controllers took of it, also where the rest failed.
    pub(super) taken: Vec<Offset>,
    pub(super) result: Result<(), ConsumeError>,
}

/// A commit that is under way: a future of its outcome. Dropping it does not call it back.
#[derive(Debug)]
pub struct PendingCommit(oneshot::Receiver<Outcome>);

impl Future for PendingCommit {
    type Output = Result<(), ConsumeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = Pin::new(&mut self.0).poll(context);
        outcome.map(|answer| answer.map_or(Err(ConsumeError::Ended), |outcome| outcome.result))
    }
}

impl PendingCommit {
    /// The outcome, once there is one.
    pub(super) fn outcome(&mut self) -> Option<Outcome> {
        match self.0.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Outcome::ended()),
        }
    }

    /// Waits for it.
    pub(super) async fn answer(&mut self) -> Outcome {
        (&mut self.0).await.unwrap_or_else(|_| Outcome::ended())
    }
}

impl Outcome {
    fn ended() -> Self {
        Self { taken: Vec::new(), result: Err(ConsumeError::Ended) }
    }
}

struct Request {
    /// GROUP: who asked, so that nothing is committed in the name of a later membership.
    identity: (Option<MemberId>, u32),
    /// It has failed if it has no answer by then, its turn included.
    until: Instant,
    offsets: Vec<Offset>,
    outcome: oneshot::Sender<Outcome>,
}

/// Where commits are handed in.
#[derive(Debug)]
pub(super) struct CommitQueue {
    pub(super) group: Arc<str>,
    /// BOUND: see [`WAITING`].
    requests: mpsc::UnboundedSender<Request>,
    /// As which member.
    lease: Arc<Lease>,
    /// How long a commit may take, its turn included.
    patience: Duration,
    /// No commit takes longer than that.
    close_by: Option<Instant>,
    /// How many were handed in, and as which member the last one was.
    handed_in: u64,
    newest: Option<Option<MemberId>>,
    /// How many were answered, one after the other.
    answered: watch::Receiver<u64>,
}

impl CommitQueue {
    /// The queue, and the task that empties it: it ends once the queue is dropped and everything in it was sent.
    pub(super) fn new(
        group: Arc<str>,
        metadata: Metadata,
        counters: Arc<Counters>,
        lease: Arc<Lease>,
        patience: Duration,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, mut waiting) = mpsc::unbounded_channel::<Request>();
        let (count_answer, answered) = watch::channel(0);
        let requester = Requester::new();
        let committer = Committer { group: group.clone(), metadata, requester, patience };
        // GROUP: one at a time, so that the controllers get them in the order of their numbers.
        let task = async move {
            while let Some(request) = waiting.recv().await {
                let outcome = committer.commit(&request).await;
                let counter = match outcome.result {
                    Ok(()) => &counters.commits,
                    Err(_) => &counters.failed_commits,
                };
                // One of nothing is none.
                count(counter, u64::from(!request.offsets.is_empty()));
                // The caller need not wait for it.
                let _ = request.outcome.send(outcome);
                count_answer.send_modify(|answered| *answered += 1);
            }
        };
        let (close_by, handed_in, newest) = (None, 0, None);
        let queue =
            Self { group, requests, lease, patience, close_by, handed_in, newest, answered };
        (queue, task)
    }

    /// Commits that have no answer by then have failed, those that are still to be handed in included.
    pub(super) fn close_by(&mut self, until: Instant) {
        self.close_by = Some(until);
    }

    /// How many commits are to be [answered](Self::answered) so that those of this membership are. Those of an earlier one
    /// are refused, if they come at all: for them alone nobody needs to wait. One whose outcome is unknown was answered.
    pub(super) fn of_this_membership(&self) -> u64 {
        if self.newest == Some(self.lease.identity().0) { self.handed_in } else { 0 }
    }

    pub(super) fn has_answered(&self, commits: u64) -> bool {
        *self.answered.borrow() >= commits || self.requests.is_closed()
    }

    /// Waits until so many commits were answered.
    pub(super) async fn answered(&mut self, commits: u64) {
        // Without the task there are no answers to wait for.
        let _ = self.answered.wait_for(|answered| *answered >= commits).await;
    }

    /// Hands a commit in, once there is room.
    pub(super) async fn commit(&mut self, offsets: Vec<Offset>) -> PendingCommit {
        self.answered((self.handed_in + 1).saturating_sub(WAITING)).await;
        self.hand_in(offsets)
    }

    /// Hands a commit in, if there is room.
    pub(super) fn try_commit(
        &mut self,
        offsets: Vec<Offset>,
    ) -> Result<PendingCommit, ConsumeError> {
        if self.requests.is_closed() {
            return Err(ConsumeError::Ended);
        }
        if self.handed_in - *self.answered.borrow() >= WAITING {
            let (group, limit) = (self.group.clone(), WAITING as usize);
            return Err(ConsumeError::CommitsWaiting { group, limit });
        }
        Ok(self.hand_in(offsets))
    }

    /// Hands a commit in, room or not: for one that is alone of its kind. Returns how many that makes.
    pub(super) fn commit_urgently(&mut self, offsets: Vec<Offset>) -> (PendingCommit, u64) {
        (self.hand_in(offsets), self.handed_in)
    }

    fn hand_in(&mut self, offsets: Vec<Offset>) -> PendingCommit {
        let (outcome, pending) = oneshot::channel();
        let identity = self.lease.identity();
        let until = clock::later(clock::now(), self.patience);
        let until = self.close_by.map_or(until, |close_by| until.min(close_by));
        self.handed_in += 1;
        self.newest = Some(identity.0);
        // Without the task the sender is dropped, and the outcome says so.
        let _ = self.requests.send(Request { identity, until, offsets, outcome });
        PendingCommit(pending)
    }
}

/// Commits for one group.
struct Committer {
    group: Arc<str>,
    metadata: Metadata,
    requester: Requester,
    patience: Duration,
}

impl Committer {
    /// Commits all that it can: of what is refused, the first is told.
    async fn commit(&self, request: &Request) -> Outcome {
        let (mut taken, mut failed) = (Vec::new(), None);
        for some in request.offsets.chunks(MAX_OFFSETS) {
            match self.commit_some(request, some).await {
                Ok(results) => self.judge(some, results, &mut taken, &mut failed),
                Err(error) => {
                    // Whether the others would fare no better.
                    let hopeless = match &error {
                        CallError::Refused(refusal) => refusal.code == Code::FencedMember,
                        CallError::Unreachable { .. } | CallError::TimedOut { .. } => true,
                    };
                    failed.get_or_insert(self.failed(error));
                    if hopeless {
                        break;
                    }
                }
            }
        }
        let result = match failed {
            None => Ok(()),
            Some(error) if taken.is_empty() => Err(error),
            Some(error) => {
                let (taken, error) = (taken.len(), Box::new(error));
                Err(ConsumeError::CommittedInPart { taken, error })
            }
        };
        Outcome { taken, result }
    }

    /// Which of the offsets were taken, and the first that was not.
    fn judge(
        &self,
        offsets: &[Offset],
        results: Vec<v1::ErrorInfo>,
        taken: &mut Vec<Offset>,
        failed: &mut Option<ConsumeError>,
    ) {
        for (offset, info) in offsets.iter().zip(results) {
            // An entry without a code says that this offset was taken.
            if info.code() == v1::ErrorCode::Unspecified {
                taken.push(offset.clone());
                continue;
            }
            let (refusal, _) = convert::refusal(info);
            let (group, at) = (self.group.clone(), (*offset.at).clone());
            failed.get_or_insert(match refusal.code {
                Code::UnknownTopic => ConsumeError::TopicDeleted { topic: at.topic },
                _ => ConsumeError::CommitRefused { group, at, refusal },
            });
        }
    }

    async fn commit_some(
        &self,
        &Request { identity: (member, member_epoch), until, .. }: &Request,
        offsets: &[Offset],
    ) -> Result<Vec<v1::ErrorInfo>, CallError> {
        if clock::now() >= until {
            return Err(self.too_late());
        }
        let request = v1::CommitOffsetsRequest {
            request: Some(self.requester.next()),
            group: self.group.to_string(),
            offsets: offsets.iter().map(wire).collect(),
            member_id: member.map(|id| id.to_vec()).unwrap_or_default(),
            member_epoch,
        };
        let answer = self
            .metadata
            .pool
            .call_by(until, COMMIT, |mut client: Client| {
                let request = request.clone();
                async move { client.commit_offsets(request).await }
            })
            .await?;
        self.metadata.pool.observe(answer.applied);
        Ok(answer.results)
    }

    /// Its time was over before its turn came.
    fn too_late(&self) -> CallError {
        CallError::TimedOut {
            operation: COMMIT,
            after: self.patience,
            last: "commits before it had no answer".to_owned(),
            may_have_taken_effect: false,
        }
    }

    fn failed(&self, error: CallError) -> ConsumeError {
        let group = self.group.clone();
        match error {
            CallError::Refused(refusal) if refusal.code == Code::FencedMember => {
                ConsumeError::FencedMember { group, refusal }
            }
            error => ConsumeError::Commit { group, error },
        }
    }
}

fn wire(offset: &Offset) -> v1::OffsetCommit {
    v1::OffsetCommit {
        partition: Some(convert::topic_partition(offset.topic, offset.at.partition)),
        offset: offset.committed.offset,
        metadata: offset.committed.metadata.clone(),
    }
}
