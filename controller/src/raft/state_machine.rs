//! openraft's state machine over [`StateStore`]. The work on RocksDB runs on
//! tokio's blocking threads, one group of entries at a time.

use super::ApplyObserver;
use super::entry;
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
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::watch;

/// Entries that are taken from Raft at once.
const READY: usize = 256;
/// About so many bytes of them are applied in one write. Whoever waits for the
/// first waits for the last, so this bounds how long nothing seems to happen.
const GROUP_BYTES: usize = 4 << 10;

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
    applied: AppliedMeta,
    parts: Arc<Parts>,
}

/// What the work on RocksDB needs.
struct Parts {
    store: Arc<StateStore>,
    shared: Arc<AppliedState>,
    observer: Arc<dyn ApplyObserver>,
    probes: Probes,
    /// Snapshots that are being made.
    building: Arc<AtomicUsize>,
}

/// Committed entries, each with whom to tell what came of it.
type Ready = VecDeque<EntryResponder<TypeConfig>>;

impl StateMachine {
    pub(crate) fn new(
        store: Arc<StateStore>,
        applied: AppliedMeta,
        shared: Arc<AppliedState>,
        observer: Arc<dyn ApplyObserver>,
        probes: Probes,
    ) -> Self {
        let parts = Parts { store, shared, observer, probes, building: Arc::default() };
        Self { applied, parts: Arc::new(parts) }
    }
}

impl Parts {
    fn builds(&self) -> bool {
        self.building.load(Ordering::Relaxed) > 0
    }

    /// Applies group after group, and tells of each at once; what the state is
    /// of after the last. The first was ready at `begun`.
    fn apply(
        &self,
        mut applied: AppliedMeta,
        mut ready: Ready,
        mut begun: Instant,
    ) -> io::Result<AppliedMeta> {
        while !ready.is_empty() {
            let builds = self.builds();
            let (entries, responders): (Vec<_>, Vec<_>) =
                next_group(&mut ready).into_iter().unzip();
            let group = self.store.apply(&mut applied, &entries);
            if group.effects.contains(&Effect::Cluster) {
                let level = self.store.feature_level().map_err(io::Error::other)?;
                self.shared.publish_level(level);
            }
            self.shared.publish(&applied);
            self.probes.applied(begun.elapsed(), builds || self.builds());
            for (responder, answer) in responders.into_iter().zip(group.applied) {
                if let Some(responder) = responder {
                    responder.send(answer);
                }
            }
            self.observer.applied(applied.index(), group.effects);
            begun = time::now();
        }
        Ok(applied)
    }
}

/// Takes what is applied in one write: at least one entry.
fn next_group(ready: &mut Ready) -> Vec<EntryResponder<TypeConfig>> {
    let mut bytes = 0;
    let end = ready.iter().position(|(entry, _)| {
        let full = bytes >= GROUP_BYTES;
        bytes += entry::size(entry);
        full
    });
    ready.drain(..end.unwrap_or(ready.len())).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    streamhouse_host::spawn_blocking(work).await.map_err(io::Error::other)
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
        let mut chunks = entries.ready_chunks(READY);
        while let Some(ready) = chunks.next().await {
            let begun = time::now();
            let ready = ready.into_iter().collect::<io::Result<Ready>>()?;
            let (parts, applied) = (Arc::clone(&self.parts), self.applied.clone());
            self.applied = blocking(move || parts.apply(applied, ready, begun)).await??;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let begun = time::now();
        // A failure to read shows again, as an error, when building.
        let view = self.parts.store.view().ok();
        // Nothing is applied meanwhile.
        self.parts.probes.applied(begun.elapsed(), true);
        let under_way = UnderWay::new(&self.parts.building);
        SnapshotBuilder { store: self.parts.store.clone(), view, _under_way: under_way }
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, file: SnapshotFile) -> io::Result<()> {
        let store = self.parts.store.clone();
        let install = move || {
            let applied = store.install(&file).map_err(|error| store.snapshot_failed(error))?;
            Ok::<_, io::Error>((applied, store.feature_level()))
        };
        let (applied, level) = blocking(install).await??;
        self.applied = applied;
        self.parts.shared.publish_level(level.map_err(io::Error::other)?);
        self.parts.shared.publish(&self.applied);
        self.parts.observer.installed(self.applied.index());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let store = &self.parts.store;
        store.snapshots().current().map_err(|error| store.snapshot_failed(error))
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
            let view = view.map_or_else(|| store.view(), Ok);
            let view = view.map_err(|error| SnapshotError::State(error.0));
            let built = view.and_then(|view| store.snapshots().build(&view));
            built.map_err(|error| store.snapshot_failed(error))
        };
        blocking(work).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::db::Db;
    use crate::raft::fatal::set_fatal_hook;
    use crate::raft::snapshot_store::SnapshotStore;
    use crate::raft::types::{EncodedCommand, Entry, Payload};
    use crate::state::features;
    use std::panic::AssertUnwindSafe;

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_written_ends_the_process_by_its_own_name() {
        set_fatal_hook(|_| ());
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(dir.path(), 1).unwrap().0);
        let snapshots = SnapshotStore::open(dir.path()).unwrap();
        let store = Arc::new(StateStore::open(db, snapshots, features::NEWEST).unwrap());
        let _under_way = UnderWay::new(&Arc::default());
        let mut builder = SnapshotBuilder { store, view: None, _under_way };
        builder.build_snapshot().await.unwrap();
        std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
        builder.build_snapshot().await.unwrap_err();
        let store = Arc::clone(&builder.store);
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| store.end_over_snapshot()));
        let said = ended.unwrap_err().downcast::<String>().unwrap();
        assert!(said.starts_with("fatal: snapshot-disk-failed: snapshot file: "), "{said}");
    }

    #[test]
    fn what_is_applied_in_one_write_is_bounded_in_bytes() {
        let entry = |index, bytes: usize| {
            let payload = Payload::Normal(EncodedCommand(vec![0; bytes].into()));
            (Entry { log_id: LogId::new_term_index(1, index), payload }, None)
        };
        let sizes = [GROUP_BYTES / 2, GROUP_BYTES / 2, 1, GROUP_BYTES * 2, 1, 1];
        let mut ready: Ready = (1..).zip(sizes).map(|(index, size)| entry(index, size)).collect();
        let mut groups = Vec::new();
        while !ready.is_empty() {
            let group = next_group(&mut ready);
            groups.push(group.iter().map(|(entry, _)| entry.log_id.index).collect::<Vec<_>>());
        }
        // The last one of a group may exceed the bound; none is without any.
        assert_eq!(groups, [vec![1, 2], vec![3, 4], vec![5, 6]]);
    }
}
