//! Watch streams: a controller's own applied changes, as they happen.

use super::{Shared, address_of};
use crate::convert::{id16, partition_state};
use crate::errors::invalid;
use crate::hub::{Pending, Watch};
use crate::places::Place;
use crate::state::command::PartitionKey;
use crate::state::kv::KvError;
use crate::state::{partitions, topics};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

pub(super) type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

/// BOUND: answers waiting for a slow watcher; what changes meanwhile is
/// gathered into the next.
const QUEUE: usize = 4;
/// BOUND: topics of one watch.
const MAX_TOPICS: usize = 100;
/// BOUND: partitions of one message.
const PART: usize = 10_000;
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A controller without a leader for so long sends its watchers elsewhere.
const LEADERLESS: Duration = Duration::from_secs(2);

pub(super) async fn watch(
    shared: Arc<Shared>,
    wire: v1::WatchRequest,
) -> Result<WatchStream, Status> {
    if wire.topic_ids.is_empty() || wire.topic_ids.len() > MAX_TOPICS {
        let count = wire.topic_ids.len();
        return Err(invalid(format!("{count} topics in one watch, allowed are 1 to {MAX_TOPICS}")));
    }
    let topics = wire.topic_ids.iter().map(|id| id16("topic id", id));
    let topics = topics.collect::<Result<BTreeSet<_>, _>>()?;
    let place = shared.watchers.take().ok_or_else(|| shared.watchers.refusal())?;
    // Subscribed before the state is read, so that nothing falls between.
    let changes = shared.hub.watch(topics);
    // As new as what the client has seen: a topic that is missing here is
    // gone, and the first answer says so. Its neighbours are watched.
    shared.view_at(wire.min_applied, false).await?;
    let (out, stream) = mpsc::channel(QUEUE);
    let tasks = shared.tasks.clone();
    tasks.spawn(Watcher { shared, changes, out, _place: place }.run());
    Ok(ReceiverStream::new(stream))
}

/// Ends when its client goes away, with the controller, or when the
/// controller has lost its leader.
struct Watcher {
    shared: Arc<Shared>,
    changes: Watch,
    out: mpsc::Sender<Result<v1::WatchResponse, Status>>,
    _place: Place,
}

impl Watcher {
    async fn run(self) {
        let cancel = self.shared.cancel.clone();
        let end = tokio::select! {
            () = cancel.cancelled() => Some((ErrorCode::ShuttingDown, "the controller stops".into())),
            () = self.out.closed() => None,
            () = self.leaderless() => Some((ErrorCode::NoLeader, "this controller has no leader".into())),
            sent = self.follow() => match sent {
                Ok(()) => None,
                Err(error) => Some((ErrorCode::Internal, error.to_string())),
            },
        };
        if let Some((code, message)) = end {
            // The client may have gone meanwhile.
            let _ = self.out.send(Err(to_status(ErrorInfo::new(code, message)))).await;
        }
    }

    /// Returns once there has been no leader for a while.
    async fn leaderless(&self) {
        let mut leadership = self.shared.raft.leadership();
        loop {
            if leadership.wait_for(|now| now.leader.is_none()).await.is_err() {
                return;
            }
            let back = leadership.wait_for(|now| now.leader.is_some());
            if tokio::time::timeout(LEADERLESS, back).await.is_err() {
                return;
            }
        }
    }

    async fn follow(&self) -> Result<(), KvError> {
        let mut first = true;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.reset();
        loop {
            // A place in the queue first: what changes while the client is
            // slow is then still part of this answer.
            let Ok(place) = self.out.reserve().await else { return Ok(()) };
            let mut pending = self.changes.take();
            while !first && pending.is_empty() {
                tokio::select! {
                    () = self.changes.changed() => pending = self.changes.take(),
                    _ = heartbeat.tick() => break,
                }
            }
            let resync = pending.everything && !first;
            pending.everything |= first;
            let mut parts = self.answer(pending, resync)?.into_iter();
            if let Some(part) = parts.next() {
                place.send(Ok(part));
            }
            for part in parts {
                if self.out.send(Ok(part)).await.is_err() {
                    return Ok(());
                }
            }
            first = false;
        }
    }

    fn answer(&self, pending: Pending, resync: bool) -> Result<Vec<v1::WatchResponse>, KvError> {
        let view = self.shared.raft.view();
        let mut deleted = pending.deleted;
        let mut states = Vec::new();
        let mut push = |key: &PartitionKey, partition: &partitions::Partition| {
            let address = address_of(&view, partition.holder)?;
            states.push(partition_state(key, partition, address));
            Ok::<(), KvError>(())
        };
        if pending.everything {
            for topic in self.changes.topics() {
                if topics::topic(&view, topic)?
                    .is_none_or(|topic| topic.stage == topics::TopicStage::Deleting)
                {
                    deleted.insert(*topic);
                }
                for (key, partition) in partitions::partitions(&view, topic, 0, usize::MAX)? {
                    push(&key, &partition)?;
                }
            }
        } else {
            for key in &pending.partitions {
                if let Some(partition) = partitions::partition(&view, key)? {
                    push(key, &partition)?;
                }
            }
        }
        let applied = view.applied();
        let deleted_topic_ids = deleted.iter().map(|id| id.to_vec()).collect();
        let mut parts =
            vec![v1::WatchResponse { applied, resync, deleted_topic_ids, partitions: Vec::new() }];
        for state in states {
            if parts.last().is_some_and(|part| part.partitions.len() == PART) {
                parts.push(v1::WatchResponse { applied, ..v1::WatchResponse::default() });
            }
            if let Some(part) = parts.last_mut() {
                part.partitions.push(state);
            }
        }
        Ok(parts)
    }
}
