//! The task that learns of new records: one watch stream from some controller, taken up at another when it breaks.

use std::time::Duration;

use streamhouse_proto::{from_status, v1};
use streamhouse_segment::ids::TopicId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::retry::Backoff;
use crate::routing::Metadata;

/// A healthy controller says something every second.
const SILENCE: Duration = Duration::from_secs(5);

pub(super) struct WatchTask {
    pub(super) metadata: Metadata,
    pub(super) topics: Vec<TopicId>,
    /// BOUND: when the fetcher does not keep up, the stream waits, and the controller resyncs it.
    pub(super) updates: mpsc::Sender<v1::WatchResponse>,
}

impl WatchTask {
    pub(super) async fn run(self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let ended = tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.follow(&mut backoff) => ended,
            };
            tracing::debug!(reason = %ended, "watch stream ended");
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    /// Follows one controller until the stream ends, and says why it did.
    async fn follow(&self, backoff: &mut Backoff) -> String {
        let pool = &self.metadata.pool;
        let (address, mut client) = match pool.connect().await {
            Ok(connected) => connected,
            Err(error) => return error,
        };
        let request = v1::WatchRequest {
            topic_ids: self.topics.iter().map(|id| id.to_bytes().to_vec()).collect(),
            min_applied: pool.applied(),
        };
        let reason = match tokio::time::timeout(SILENCE, client.watch(request)).await {
            Err(_) => "no answer".to_owned(),
            Ok(Err(status)) => from_status(&status).message,
            Ok(Ok(response)) => self.read(response.into_inner(), backoff).await,
        };
        pool.give_up_on(&address);
        format!("{address}: {reason}")
    }

    async fn read(
        &self,
        mut stream: tonic::Streaming<v1::WatchResponse>,
        backoff: &mut Backoff,
    ) -> String {
        loop {
            match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(update))) => {
                    backoff.reset();
                    self.metadata.pool.observe(update.applied);
                    let heartbeat =
                        update.partitions.is_empty() && update.deleted_topic_ids.is_empty();
                    if !heartbeat && self.updates.send(update).await.is_err() {
                        return "the fetcher is gone".to_owned();
                    }
                }
                Ok(Ok(None)) => return "the controller ended it".to_owned(),
                Ok(Err(status)) => return from_status(&status).message,
                Err(_) => return format!("silent for {SILENCE:?}"),
            }
        }
    }
}
