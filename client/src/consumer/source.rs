//! The object store that segments are read from: given, or told by the cluster.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use streamhouse_store::{GetError, Store, StoreOptions};
use tokio::sync::OnceCell;

use super::error::ConsumeError;
use super::metrics::Counters;
use super::plan::Slice;
use crate::retry::Backoff;
use crate::routing::Metadata;
use crate::types::TopicPartition;

/// A failing GET is tried so often before the partition stops; the next poll starts over.
const TRIES: u32 = 5;

#[derive(Debug)]
pub(super) struct Source {
    store: OnceCell<Store>,
    metadata: Metadata,
    counters: Arc<Counters>,
}

impl Source {
    pub(super) fn new(store: Option<Store>, metadata: Metadata, counters: Arc<Counters>) -> Self {
        Self { store: OnceCell::new_with(store), metadata, counters }
    }

    /// Opens the store at that URL, unless one was given.
    pub(super) fn open(&self, url: Option<&str>) -> Result<(), ConsumeError> {
        if let (Some(url), false) = (url, self.store.initialized()) {
            // Nobody else has this source yet, so the cell is still empty.
            let _ = self.store.set(open(url)?);
        }
        Ok(())
    }

    /// The store. A cluster without agents has not told where it is; when there is something to read, it has.
    async fn store(&self) -> Result<&Store, ConsumeError> {
        self.store
            .get_or_try_init(|| async {
                let cluster = self.metadata.cluster().await?;
                let url = cluster.store_url.ok_or_else(|| ConsumeError::StoreNotOpen {
                    reason: "no agent has told the cluster where it is".to_owned(),
                })?;
                open(&url)
            })
            .await
    }

    /// The bytes from the first slice's start to the last one's end; all lie in one object.
    pub(super) async fn fetch(
        &self,
        at: &TopicPartition,
        slices: &[Slice],
    ) -> Result<Bytes, ConsumeError> {
        let (first, last) = (&slices[0], &slices[slices.len() - 1]);
        let store = self.store().await?;
        let key = first.object.key();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for attempt in 1.. {
            self.counters.get_requests.fetch_add(1, Relaxed);
            let error = match store.get_range(&key, first.start..last.end).await {
                Ok(bytes) => {
                    self.counters.bytes_fetched.fetch_add(bytes.len() as u64, Relaxed);
                    return Ok(bytes);
                }
                Err(error) => error,
            };
            if !error.can_retry() || attempt == TRIES {
                return Err(name(at, first, key, error));
            }
            tracing::warn!(%error, partition = %at, "reading a segment failed, trying again");
            tokio::time::sleep(backoff.next()).await;
        }
        unreachable!("the last try returns")
    }
}

fn open(url: &str) -> Result<Store, ConsumeError> {
    StoreOptions::new()
        .reader()
        .open(url)
        .map_err(|error| ConsumeError::StoreNotOpen { reason: error.to_string() })
}

fn name(at: &TopicPartition, first: &Slice, object: String, error: GetError) -> ConsumeError {
    match error {
        GetError::NotFound { .. } => {
            ConsumeError::MissingObject { at: at.clone(), offset: first.base_offset, object }
        }
        error @ (GetError::Unavailable { .. }
        | GetError::Throttled { .. }
        | GetError::Denied { .. }
        | GetError::Short { .. }
        | GetError::Other { .. }) => ConsumeError::Store { at: at.clone(), error },
    }
}
