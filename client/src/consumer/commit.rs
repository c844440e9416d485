//! Committing a group's offsets: one task sends them, in the order in which they were asked for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use streamhouse_proto::v1;
use streamhouse_segment::ids::TopicId;
use tokio::sync::{mpsc, oneshot};

use super::error::ConsumeError;
use super::group::{Lease, MemberId};
use super::metrics::{Counters, count};
use crate::convert;
use crate::errors::{CallError, Code};
use crate::routing::{Client, MAX_OFFSETS, Metadata, Requester};
use crate::types::TopicPartition;

/// BOUND: commits that wait for their turn.
pub(super) const WAITING: usize = 64;

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

/// A commit that is under way: a future of its outcome. Dropping it does not call it back.
#[derive(Debug)]
pub struct PendingCommit(oneshot::Receiver<Result<(), ConsumeError>>);

impl Future for PendingCommit {
    type Output = Result<(), ConsumeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = Pin::new(&mut self.0).poll(context);
        outcome.map(|answer| answer.unwrap_or(Err(ConsumeError::Ended)))
    }
}

impl PendingCommit {
    /// The outcome, once there is one.
    pub(super) fn outcome(&mut self) -> Option<Result<(), ConsumeError>> {
        match self.0.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(ConsumeError::Ended)),
        }
    }
}

struct Request {
    /// GROUP: who asked, so that nothing is committed in the name of a later membership.
    identity: (Option<MemberId>, u32),
    offsets: Vec<Offset>,
    outcome: oneshot::Sender<Result<(), ConsumeError>>,
}

/// Where commits are handed in.
#[derive(Debug)]
pub(super) struct CommitQueue {
    pub(super) group: Arc<str>,
    requests: mpsc::Sender<Request>,
    /// As which member.
    lease: Arc<Lease>,
    /// As which member the last commit was handed in, if there was one.
    newest: Mutex<Option<Option<MemberId>>>,
}

impl CommitQueue {
    /// The queue, and the task that empties it: it ends once the queue is dropped and everything in it was sent.
    pub(super) fn new(
        group: Arc<str>,
        metadata: Metadata,
        counters: Arc<Counters>,
        lease: Arc<Lease>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, mut waiting) = mpsc::channel::<Request>(WAITING);
        let requester = Requester::new();
        let committer = Committer { group: group.clone(), metadata, requester };
        // GROUP: one at a time, so that the controllers get them in the order of their numbers.
        let task = async move {
            while let Some(request) = waiting.recv().await {
                let outcome = committer.commit(request.identity, &request.offsets).await;
                let counter = match outcome {
                    Ok(()) => &counters.commits,
                    Err(_) => &counters.failed_commits,
                };
                // One of nothing only waits for those ahead of it.
                count(counter, u64::from(!request.offsets.is_empty()));
                // The caller need not wait for it.
                let _ = request.outcome.send(outcome);
            }
        };
        (Self { group, requests, lease, newest: Mutex::default() }, task)
    }

    /// In whose name a commit is handed in.
    fn identity(&self) -> (Option<MemberId>, u32) {
        let identity = self.lease.identity();
        *self.newest.lock() = Some(identity.0);
        identity
    }

    /// Waits until the commits of this membership were answered, if it has handed any in. Those of an earlier one are
    /// refused, if they come at all: for them alone nobody needs to wait.
    pub(super) async fn settle(&self) {
        let newest = *self.newest.lock();
        if newest == Some(self.lease.identity().0) {
            let _ = self.commit(Vec::new()).await.await;
        }
    }

    /// Hands a commit in, once there is room.
    pub(super) async fn commit(&self, offsets: Vec<Offset>) -> PendingCommit {
        let (outcome, pending) = oneshot::channel();
        // Without the task the sender is dropped, and the outcome says so.
        let identity = self.identity();
        let _ = self.requests.send(Request { identity, offsets, outcome }).await;
        PendingCommit(pending)
    }

    /// Hands a commit in, if there is room.
    pub(super) fn try_commit(&self, offsets: Vec<Offset>) -> Result<PendingCommit, ConsumeError> {
        let (outcome, pending) = oneshot::channel();
        let identity = self.identity();
        match self.requests.try_send(Request { identity, offsets, outcome }) {
            Ok(()) => Ok(PendingCommit(pending)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ConsumeError::Ended),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(ConsumeError::CommitsWaiting { group: self.group.clone(), limit: WAITING })
            }
        }
    }
}

/// Commits for one group.
struct Committer {
    group: Arc<str>,
    metadata: Metadata,
    requester: Requester,
}

impl Committer {
    async fn commit(
        &self,
        identity: (Option<MemberId>, u32),
        offsets: &[Offset],
    ) -> Result<(), ConsumeError> {
        for some in offsets.chunks(MAX_OFFSETS) {
            self.commit_some(identity, some).await?;
        }
        Ok(())
    }

    async fn commit_some(
        &self,
        (member, member_epoch): (Option<MemberId>, u32),
        offsets: &[Offset],
    ) -> Result<(), ConsumeError> {
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
            .call("commit offsets", |mut client: Client| {
                let request = request.clone();
                async move { client.commit_offsets(request).await }
            })
            .await
            .map_err(|error| self.failed(error))?;
        self.metadata.pool.observe(answer.applied);
        for (offset, info) in offsets.iter().zip(answer.results) {
            // An entry without a code says that this offset was taken.
            if info.code() != v1::ErrorCode::Unspecified {
                let (refusal, _) = convert::refusal(info);
                let (group, at) = (self.group.clone(), (*offset.at).clone());
                return Err(match refusal.code {
                    Code::UnknownTopic => {
                        ConsumeError::TopicDeleted { topic: offset.at.topic.clone() }
                    }
                    _ => ConsumeError::CommitRefused { group, at, refusal },
                });
            }
        }
        Ok(())
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
