//! openraft's state machine over [`StateStore`]. The work on RocksDB runs on
//! tokio's blocking threads, one group of entries at a time.

use super::ApplyObserver;
use super::meta::AppliedMeta;
use super::snapshot_file::SnapshotError;
use super::snapshot_store::SnapshotFile;
use super::state_store::StateStore;
use super::time;
use super::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use super::view::StateView;
use crate::metrics::Probes;
use crate::state::features;
use crate::state::reply::Effect;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use parking_lot::RwLock;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// Entries per write.
const GROUP: usize = 256;

/// What others may know of the applied state without reading the database.
pub(crate) struct AppliedState {
    /// Index of the last applied entry, set after its write.
    pub(crate) index: watch::Sender<u64>,
    /// The cluster's id, once known.
    pub(crate) cluster: RwLock<Option<[u8; 16]>>,
    /// The feature level of the state, once the cluster has an identity.
    pub(crate) level: watch::Sender<Option<u32>>,
}

impl AppliedState {
    pub(crate) fn new(applied: &AppliedMeta, level: Option<u32>) -> Arc<Self> {
        let index = watch::Sender::new(applied.index());
        let (cluster, level) = (RwLock::new(applied.cluster), watch::Sender::new(level));
        Arc::new(Self { index, cluster, level })
    }

    /// The feature level that commands may use.
    pub(crate) fn level(&self) -> u32 {
        self.level.borrow().unwrap_or(features::OLDEST)
    }

    fn publish(&self, applied: &AppliedMeta) {
        *self.cluster.write() = applied.cluster;
        self.index.send_replace(applied.index());
    }

    /// SUBTLE: before [`AppliedState::publish`]: whoever was told that a level
    /// is applied may use it.
    fn publish_level(&self, level: Option<u32>) {
        self.level.send_if_modified(|known| std::mem::replace(known, level) != level);
    }
}

/// See the module.
pub(crate) struct StateMachine {
    store: Arc<StateStore>,
    applied: AppliedMeta,
    shared: Arc<AppliedState>,
    observer: Arc<dyn ApplyObserver>,
    probes: Probes,
    /// Snapshots that are being made.
    building: Arc<AtomicUsize>,
}

impl StateMachine {
    pub(crate) fn new(
        store: Arc<StateStore>,
        applied: AppliedMeta,
        shared: Arc<AppliedState>,
        observer: Arc<dyn ApplyObserver>,
        probes: Probes,
    ) -> Self {
        Self { store, applied, shared, observer, probes, building: Arc::default() }
    }

    fn builds(&self) -> bool {
        self.building.load(Ordering::Relaxed) > 0
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied.last_applied, self.applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut groups = entries.ready_chunks(GROUP);
        while let Some(group) = groups.next().await {
            let group: Vec<_> = group.into_iter().collect::<io::Result<_>>()?;
            let (begun, builds) = (time::now(), self.builds());
            let (entries, responders): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            let (store, mut applied) = (self.store.clone(), self.applied.clone());
            let work = move || {
                let group = store.apply(&mut applied, &entries);
                let level = group.effects.contains(&Effect::Cluster).then(|| store.feature_level());
                (group, level, applied)
            };
            let (group, level, applied) = blocking(work).await?;
            self.applied = applied;
            if let Some(level) = level {
                self.shared.publish_level(level.map_err(io::Error::other)?);
            }
            self.shared.publish(&self.applied);
            self.probes.applied(begun.elapsed(), builds || self.builds());
            for (responder, answer) in responders.into_iter().zip(group.applied) {
                if let Some(responder) = responder {
                    responder.send(answer);
                }
            }
            self.observer.applied(self.applied.index(), group.effects);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let begun = time::now();
        // A failure to read shows again, as an error, when building.
        let view = self.store.view().ok();
        // Nothing is applied meanwhile.
        self.probes.applied(begun.elapsed(), true);
        let under_way = UnderWay::new(&self.building);
        SnapshotBuilder { store: self.store.clone(), view, _under_way: under_way }
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, file: SnapshotFile) -> io::Result<()> {
        let store = self.store.clone();
        let install = move || Ok((store.install(&file)?, store.feature_level()));
        let installed: Result<_, SnapshotError> = blocking(install).await?;
        let (applied, level) = installed.map_err(io::Error::other)?;
        self.applied = applied;
        self.shared.publish_level(level.map_err(io::Error::other)?);
        self.shared.publish(&self.applied);
        self.observer.installed(self.applied.index());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.store.snapshots().current().map_err(io::Error::other)
    }
}

/// Builds a snapshot of the state as it was when the builder was made.
pub(crate) struct SnapshotBuilder {
    store: Arc<StateStore>,
    view: Option<StateView>,
    _under_way: UnderWay,
}

/// Counts a snapshot as long as it is being made.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(building: &Arc<AtomicUsize>) -> Self {
        building.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(building))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (store, view) = (self.store.clone(), self.view.take());
        let work = move || {
            let view = match view {
                Some(view) => view,
                None => store.view().map_err(|e| io::Error::other(e.0))?,
            };
            store.snapshots().build(&view).map_err(io::Error::other)
        };
        blocking(work).await?
    }
}
