//! Backups on a schedule: the leader takes one into the cluster's own store
//! whenever the newest there is old enough, and removes all but the newest.

use super::BackupError;
use super::file::{Decoder, Header, Item};
use super::patience::patiently;
use super::place::{self, Found, Place};
use super::take;
use crate::clock::ClusterClock;
use crate::raft::RaftNode;
use crate::state::cluster;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use streamhouse_segment::Generation;
use streamhouse_store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After a failure it is tried again so soon, or at the next time that is due
/// if that comes before.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// While there is nothing to back up yet, it is looked for so often.
const NOTHING_YET: Duration = Duration::from_secs(5);
/// A backup's header lies within so many bytes.
const HEAD_BYTES: u64 = 8 << 10;

/// When backups are taken, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupPlan {
    /// From one to the next, in cluster time.
    pub every: Duration,
    /// The newest so many of this cluster stay; at least one.
    pub keep: usize,
}

/// The task of one controller.
pub(crate) struct Schedule {
    pub(crate) plan: BackupPlan,
    pub(crate) raft: RaftNode,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

impl Schedule {
    /// Runs until cancelled: waits for leadership, takes backups while it lasts.
    pub(crate) async fn run(self) {
        let cancel = self.cancel.clone();
        let mut leadership = self.raft.leadership();
        let mut lost = self.raft.leadership();
        cancel
            .run_until_cancelled(async {
                while leadership.wait_for(|now| now.is_leader).await.is_ok() {
                    tokio::select! {
                        // A backup under way when leadership is lost is given
                        // up with it; the next leader sees how old the newest is.
                        _ = lost.wait_for(|now| !now.is_leader) => {}
                        () = self.lead() => {}
                    }
                }
            })
            .await;
    }

    async fn lead(&self) {
        loop {
            let pause = match self.look().await {
                Ok(pause) => pause,
                Err(error) => {
                    let pause = TRY_AGAIN.min(self.plan.every);
                    tracing::warn!(%error, again_in = ?pause, "the backup that was due failed");
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Takes a backup if one is due; returns how long nothing more is to do.
    async fn look(&self) -> Result<Duration, BackupError> {
        let state = |error| BackupError::State(super::file::EncodeError::State(error));
        let view = self.raft.try_view().map_err(state)?;
        let (known, applied) = (cluster::cluster(&view).map_err(state)?, view.applied());
        drop(view);
        let Some((own, url)) = known.and_then(|own| Some((own.clone(), own.store_url?))) else {
            return Ok(NOTHING_YET);
        };
        let store = Store::open(&url)?;
        let folder = place::folder(own.cluster);
        let generation = place::generation(own.generation);
        if let Some(newest) = own_of(&store, &folder, generation).await?.last() {
            if newest.index == applied {
                // Nothing has happened since.
                return Ok(self.plan.every);
            }
            let age_ms = match self.head(&store, &newest.key).await? {
                Some(header) => self.clock.now_ms().saturating_sub(header.time_ms),
                // What cannot be read is no backup, however new.
                None => u64::MAX,
            };
            let left = self.plan.every.saturating_sub(Duration::from_millis(age_ms));
            if !left.is_zero() {
                return Ok(left);
            }
        }
        self.take(&store).await?;
        self.prune(&store, &folder, generation).await?;
        Ok(self.plan.every)
    }

    async fn head(&self, store: &Store, key: &str) -> Result<Option<Header>, BackupError> {
        let Some(size) = patiently(|| store.head(key)).await? else { return Ok(None) };
        let head = patiently(|| store.get_range(key, 0..size.min(HEAD_BYTES))).await?;
        let mut decoder = Decoder::default();
        decoder.feed(&head);
        match decoder.next_item() {
            Ok(Some(Item::Header(header))) => Ok(Some(*header)),
            Ok(_) | Err(_) => {
                tracing::warn!(%store, key, "the newest backup cannot be read; taking another");
                Ok(None)
            }
        }
    }

    async fn take(&self, store: &Store) -> Result<(), BackupError> {
        let failed = |message| BackupError::Cluster { retryable: true, message };
        let unread = |error: crate::raft::ReadError| failed(error.to_string());
        let deadline = take::deadline();
        take::hold(&self.raft).await.map_err(|error| failed(error.to_string()))?;
        self.raft.read_index().await.map_err(unread)?;
        let pieces = take::pieces(&self.tasks, self.raft.view())?;
        let pieces = pieces.map(|piece| piece.map_err(BackupError::from));
        let choose = |header: &Header| Ok(Place::own(store.clone(), header));
        let taken = take::write(pieces, choose, deadline).await?;
        let (index, bytes) = (taken.header.index, taken.totals.bytes);
        tracing::info!(index, bytes, url = taken.url, "backed up");
        Ok(())
    }

    /// Removes all but the newest backups. Only after a new one was found to
    /// be there.
    async fn prune(
        &self,
        store: &Store,
        folder: &str,
        generation: Generation,
    ) -> Result<(), BackupError> {
        let found = own_of(store, folder, generation).await?;
        let too_many = found.len().saturating_sub(self.plan.keep.max(1));
        for old in &found[..too_many] {
            store.delete(&old.key).await?;
            tracing::info!(index = old.index, key = old.key, "removed an old backup");
        }
        Ok(())
    }
}

/// The backups of this generation, oldest first. Those of others are another
/// cluster's, restored from a backup of this one or the one that this one was
/// restored from: the operator's to remove.
async fn own_of(
    store: &Store,
    folder: &str,
    generation: Generation,
) -> Result<Vec<Found>, BackupError> {
    let mut found = Found::below(store, folder).await?;
    found.retain(|backup| backup.generation == generation);
    Ok(found)
}
