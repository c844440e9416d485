//! How long records take from `send` to their acknowledgement, watched by a task of its own.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use streamhouse_client::producer::Delivery;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock;

/// BOUND: records that are watched at once; and as many may wait to be.
const WATCHED: usize = 1 << 16;

/// See the module.
pub(super) struct Acks {
    sent: mpsc::Sender<(Instant, Delivery)>,
    collector: JoinSet<Vec<Duration>>,
}

impl Acks {
    pub(super) fn collect() -> Self {
        let (sent, inbox) = mpsc::channel(WATCHED);
        let mut collector = JoinSet::new();
        collector.spawn(collect(inbox));
        Self { sent, collector }
    }

    /// Watches a record that was sent then.
    pub(super) async fn watch(&self, sent: Instant, delivery: Delivery) {
        // The collector ends when this end is dropped, not before.
        let _ = self.sent.send((sent, delivery)).await;
    }

    /// Waits for all that are watched; what each took, without those that failed.
    pub(super) async fn end(mut self) -> anyhow::Result<Vec<Duration>> {
        drop(self.sent);
        let took = self.collector.join_next().await.expect("one task was spawned");
        Ok(took?)
    }
}

async fn collect(mut inbox: mpsc::Receiver<(Instant, Delivery)>) -> Vec<Duration> {
    let (mut open, mut took) = (FuturesUnordered::new(), Vec::new());
    let mut more = true;
    while more || !open.is_empty() {
        tokio::select! {
            Some(acknowledged) = open.next() => took.extend(acknowledged),
            watched = inbox.recv(), if more && open.len() < WATCHED => match watched {
                Some((sent, delivery)) => open.push(async move {
                    delivery.await.is_ok().then(|| clock::now().duration_since(sent))
                }),
                None => more = false,
            },
        }
    }
    took
}
