//! The object store that segments are read from, given or told by the cluster, with the cache before it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, join_all, select};
use parking_lot::Mutex;
use streamhouse_store::{GetError, Store, StoreKind, StoreOptions};
use tokio::sync::OnceCell;

use super::budget::Hold;
use super::cache::SegmentCache;
use super::decode::Pieces;
use super::error::ConsumeError;
use super::hedge::Hedge;
use super::joint::gets;
use super::metrics::{Counters, count};
use super::plan::Slice;
use crate::clock;
use crate::retry::Backoff;
use crate::routing::Metadata;
use crate::types::TopicPartition;

/// A failing GET is tried so often before the partition stops; the next poll starts over.
const TRIES: u32 = 5;

/// A run to fetch.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) slot: usize,
    pub(super) version: u64,
    pub(super) run: u64,
    pub(super) at: Arc<TopicPartition>,
    pub(super) slices: Arc<[Slice]>,
    /// Whatever the cache has of it is wrong.
    pub(super) anew: bool,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) slot: usize,
    pub(super) version: u64,
    pub(super) run: u64,
    pub(super) result: Result<Pieces, ConsumeError>,
}

#[derive(Debug)]
pub(super) struct Source {
    store: OnceCell<Store>,
    metadata: Metadata,
    counters: Arc<Counters>,
    hedge: Mutex<Hedge>,
    pub(super) cache: Option<SegmentCache>,
}

impl Source {
    pub(super) fn new(
        store: Option<Store>,
        cache: Option<SegmentCache>,
        metadata: Metadata,
        counters: Arc<Counters>,
    ) -> Self {
        let store = OnceCell::new_with(store);
        Self { store, metadata, counters, hedge: Mutex::default(), cache }
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

    /// What the store is called.
    pub(super) async fn url(&self) -> Result<String, ConsumeError> {
        Ok(self.store().await?.url().to_owned())
    }

    /// Fetches runs that lie in one object, with as few GETs as that takes. The bytes hold `hold`.
    pub(super) async fn fetch(&self, wanted: Vec<Wanted>, hold: Hold) -> Vec<Got> {
        let hold = Arc::new(hold);
        let mut done = Vec::with_capacity(wanted.len());
        let mut missing = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            match self.cached(&wanted).await {
                Some(slices) => {
                    let pieces = Pieces { slices, hold: hold.clone(), fresh: false };
                    done.push(wanted.done(Ok(pieces)));
                }
                None => missing.push(wanted),
            }
        }
        if missing.is_empty() {
            return done;
        }
        let key = missing[0].slices[0].object.key();
        let fetched = join_all(gets(missing.iter().map(Wanted::range).collect()).into_iter().map(
            async |range| {
                let result = self.get(&key, range.clone(), Some(&hold)).await;
                (range, result)
            },
        ));
        let fetched = fetched.await;
        done.extend(missing.into_iter().map(|wanted| wanted.cut(&fetched, &key, &hold)));
        done
    }

    /// All slices of the run, if the cache has all of them.
    async fn cached(&self, wanted: &Wanted) -> Option<Arc<[Bytes]>> {
        let cache = self.cache.as_ref()?;
        if wanted.anew {
            wanted.slices.iter().for_each(|slice| cache.remove(slice));
            return None;
        }
        let mut slices = Vec::with_capacity(wanted.slices.len());
        for slice in wanted.slices.iter() {
            match cache.get(slice).await {
                Some(bytes) => slices.push(bytes),
                None => {
                    count(&self.counters.cache_misses, wanted.slices.len() as u64);
                    return None;
                }
            }
        }
        count(&self.counters.cache_hits, slices.len() as u64);
        Some(slices.into())
    }

    /// One range, tried again while that may help. `hold`: what is held for it, if somebody counts.
    pub(super) async fn get(
        &self,
        key: &str,
        range: Range<u64>,
        hold: Option<&Hold>,
    ) -> Result<Bytes, FetchError> {
        let store = self.store().await.map_err(FetchError::NotOpen)?;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for attempt in 1.. {
            let error = match self.get_within(store, key, range.clone(), hold, attempt).await {
                Ok(bytes) => {
                    count(&self.counters.bytes_fetched, bytes.len() as u64);
                    return Ok(bytes);
                }
                Err(error) => error,
            };
            // An answer that was cut off looks like an object that is too short.
            let again = error.can_retry() || matches!(error, GetError::Short { .. });
            if !again || attempt == TRIES {
                return Err(FetchError::Get(error));
            }
            tracing::warn!(%error, "reading a segment failed, trying again");
            count(&self.counters.retried_gets, 1);
            tokio::time::sleep(backoff.next()).await;
        }
        unreachable!("the last try returns")
    }

    /// A try, which is over when no answer came for too long: then another connection may do better. Not on `file://`,
    /// where there are none.
    async fn get_within(
        &self,
        store: &Store,
        key: &str,
        range: Range<u64>,
        hold: Option<&Hold>,
        attempt: u32,
    ) -> Result<Bytes, GetError> {
        let got = self.get_once(store, key, range.clone(), hold);
        if store.kind() == StoreKind::File {
            return got.await;
        }
        let patience = self.hedge.lock().patience(range.end - range.start, attempt);
        tokio::time::timeout(patience, got).await.unwrap_or_else(|_| {
            let (store, key) = (store.to_string(), key.to_owned());
            let cause = format!("no answer within {patience:?}");
            Err(GetError::Unavailable { store, key, cause })
        })
    }

    /// One GET, and a second one if the first is slow: whichever succeeds first counts. Not on `file://`, where the
    /// second would wait behind the first.
    async fn get_once(
        &self,
        store: &Store,
        key: &str,
        range: Range<u64>,
        hold: Option<&Hold>,
    ) -> Result<Bytes, GetError> {
        count(&self.counters.get_requests, 1);
        let started = clock::now();
        let mut first = std::pin::pin!(store.get_range(key, range.clone()));
        let patience = match store.kind() {
            StoreKind::File => Duration::MAX,
            _ => self.hedge.lock().wait(),
        };
        let late = clock::until(Some(clock::later(started, patience)));
        let result = tokio::select! {
            result = &mut first => result,
            () = late => {
                if !self.hedge.lock().spend() {
                    return first.await;
                }
                count(&self.counters.get_requests, 1);
                count(&self.counters.hedged_gets, 1);
                // BOUND: both bring the bytes.
                let _twice = hold.map(|hold| hold.beside((range.end - range.start) as usize));
                let second = std::pin::pin!(store.get_range(key, range));
                match select(first, second).await {
                    Either::Left((Err(_), second)) => second.await,
                    Either::Right((Err(_), first)) => first.await,
                    Either::Left((done, _)) | Either::Right((done, _)) => done,
                }
            }
        };
        if result.is_ok() {
            self.hedge.lock().answered(started.elapsed());
        }
        result
    }
}

/// Why a range could not be fetched; what it was wanted for makes a [`ConsumeError`] of it.
#[derive(Clone, Debug)]
pub(super) enum FetchError {
    NotOpen(ConsumeError),
    Get(GetError),
}

impl FetchError {
    pub(super) fn name(self, at: &TopicPartition, first: &Slice, end: u64) -> ConsumeError {
        match self {
            Self::NotOpen(error) => error,
            Self::Get(GetError::NotFound { .. }) => ConsumeError::MissingObject {
                at: at.clone(),
                offset: first.base_offset,
                object: first.object.key(),
            },
            Self::Get(error) => {
                ConsumeError::Store { at: at.clone(), start: first.start, end, error }
            }
        }
    }
}

impl Wanted {
    /// Where its slices lie in their object.
    pub(super) fn range(&self) -> Range<u64> {
        self.slices[0].start..self.slices[self.slices.len() - 1].end
    }

    fn done(self, result: Result<Pieces, ConsumeError>) -> Got {
        Got { slot: self.slot, version: self.version, run: self.run, result }
    }

    /// This run's part of what was fetched.
    fn cut(
        self,
        fetched: &[(Range<u64>, Result<Bytes, FetchError>)],
        key: &str,
        hold: &Arc<Hold>,
    ) -> Got {
        let wanted = self.range();
        let found = fetched
            .iter()
            .find(|(range, _)| range.start <= wanted.start && wanted.end <= range.end)
            .expect("every range lies in one of the GETs made for it");
        let result = match found {
            (range, Ok(bytes)) => {
                let place = |at: u64| (at - range.start) as usize;
                let cut = |slice: &Slice| bytes.slice(place(slice.start)..place(slice.end));
                let slices = self.slices.iter().map(cut).collect();
                Ok(Pieces { slices, hold: hold.clone(), fresh: true })
            }
            (range, Err(error)) => {
                tracing::debug!(%key, ?range, "a range could not be fetched");
                Err(error.clone().name(&self.at, &self.slices[0], wanted.end))
            }
        };
        self.done(result)
    }
}

fn open(url: &str) -> Result<Store, ConsumeError> {
    StoreOptions::new()
        .reader()
        .open(url)
        .map_err(|error| ConsumeError::StoreNotOpen { reason: error.to_string() })
}
