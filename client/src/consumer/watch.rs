//! The tasks that learn of new records: each follows one watch stream from some controller, taken up at another when it
//! breaks.

use std::sync::Arc;
use std::time::Duration;

use streamhouse_proto::{from_status, v1};
use streamhouse_segment::ids::TopicId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ready::Ready;
use crate::convert;
use crate::errors::CallError;
use crate::retry::Backoff;
use crate::routing::Metadata;

/// A healthy controller says something every second.
const SILENCE: Duration = Duration::from_secs(5);

/// BOUND: topics of one watch, which is the controllers' limit.
const MAX_TOPICS: usize = 100;

/// Why a stream ended.
enum Ended {
    /// Another one may do better.
    Broken(String),
    /// Every controller would say the same.
    Refused(CallError),
}

pub(super) struct WatchTask {
    pub(super) metadata: Metadata,
    pub(super) topics: Vec<TopicId>,
    /// BOUND: when the fetcher does not keep up, the stream waits, and the controller resyncs it.
    pub(super) updates: mpsc::Sender<v1::WatchResponse>,
    /// Where poll learns that the controllers refuse.
    pub(super) ready: Arc<Ready>,
}

impl WatchTask {
    /// Shares the topics out among as many watches as they need.
    pub(super) fn all(
        metadata: &Metadata,
        topics: &[TopicId],
        updates: &mpsc::Sender<v1::WatchResponse>,
        ready: &Arc<Ready>,
    ) -> Vec<Self> {
        let task = |topics: &[TopicId]| Self {
            metadata: metadata.clone(),
            topics: topics.to_vec(),
            updates: updates.clone(),
            ready: ready.clone(),
        };
        topics.chunks(MAX_TOPICS).map(task).collect()
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        while !self.topics.is_empty() {
            let ended = tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.follow(&mut backoff) => ended,
            };
            match ended {
                Ended::Broken(reason) => tracing::debug!(%reason, "watch stream ended"),
                Ended::Refused(error) => {
                    tracing::warn!(%error, "watch refused, trying again");
                    self.ready.tell(error.into());
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    /// Follows one controller until the stream ends, and says why it did.
    async fn follow(&mut self, backoff: &mut Backoff) -> Ended {
        let pool = self.metadata.pool.clone();
        let (address, mut client) = match pool.connect().await {
            Ok(connected) => connected,
            Err(error) => return Ended::Broken(error),
        };
        let request = v1::WatchRequest {
            topic_ids: self.topics.iter().map(|id| id.to_bytes().to_vec()).collect(),
            min_applied: pool.applied(),
        };
        let ended = match tokio::time::timeout(SILENCE, client.watch(request)).await {
            Err(_) => Ended::Broken("no answer".to_owned()),
            Ok(Err(status)) => ended(&status),
            Ok(Ok(response)) => self.read(response.into_inner(), backoff).await,
        };
        match ended {
            Ended::Broken(reason) => {
                pool.give_up_on(&address);
                Ended::Broken(format!("{address}: {reason}"))
            }
            refused @ Ended::Refused(_) => refused,
        }
    }

    async fn read(
        &mut self,
        mut stream: tonic::Streaming<v1::WatchResponse>,
        backoff: &mut Backoff,
    ) -> Ended {
        loop {
            match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(update))) => {
                    backoff.reset();
                    self.metadata.pool.observe(update.applied);
                    // Told once: the next stream does not ask for them.
                    let deleted = &update.deleted_topic_ids;
                    self.topics.retain(|id| !deleted.iter().any(|gone| gone[..] == id.to_bytes()));
                    let heartbeat =
                        update.partitions.is_empty() && update.deleted_topic_ids.is_empty();
                    if !heartbeat && self.updates.send(update).await.is_err() {
                        return Ended::Broken("the fetcher is gone".to_owned());
                    }
                }
                Ok(Ok(None)) => return Ended::Broken("the controller ended it".to_owned()),
                Ok(Err(status)) => return ended(&status),
                Err(_) => return Ended::Broken(format!("silent for {SILENCE:?}")),
            }
        }
    }
}

fn ended(status: &tonic::Status) -> Ended {
    let (refusal, _) = convert::refusal(from_status(status));
    if refusal.code.retryable() || status.details().is_empty() {
        return Ended::Broken(refusal.message);
    }
    Ended::Refused(CallError::Refused(refusal))
}
