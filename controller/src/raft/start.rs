//! Starting a node: opening what is on disk, checking all of it, and joining
//! the parts.

use super::admission::{self, Admission};
use super::campaign;
use super::db::{Db, OpenError, begin_use};
use super::forward;
use super::leadership::{self, Leadership};
use super::levels::{self, TooOld};
use super::log_store::{LogError, LogStore};
use super::marks;
use super::membership;
use super::meta::{self, AppliedMeta, Identity};
use super::network::Network;
use super::node::{Core, RaftNode};
use super::options::RaftOptions;
use super::peers::Peers;
use super::proposer;
use super::server::RaftService;
use super::snapshot_file::SnapshotError;
use super::snapshot_store::SnapshotStore;
use super::state_machine::{AppliedState, StateMachine};
use super::state_store::StateStore;
use super::time;
use super::types::TypeConfig;
use super::{ApplyObserver, CommandClock, bootstrap, log_bounds, stall};
use crate::limits::Gate;
use crate::state::kv::KvError;
use futures::future::BoxFuture;
use metrics::Histogram;
use openraft::RaftState;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use streamhouse_proto::MAX_MESSAGE_BYTES;
use streamhouse_proto::v1::raft_server::RaftServer;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A node that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its options contradict each other.
    #[error("raft options: {0}")]
    Options(String),
    /// Its data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its state uses what this release does not read.
    #[error("data directory {}: {too_old}", path.display())]
    TooOld {
        /// The directory.
        path: PathBuf,
        /// Both levels.
        too_old: TooOld,
    },
    /// Raft itself did not start.
    #[error("raft: {0}")]
    Raft(String),
}

/// What is on disk.
struct Disk {
    db: Arc<Db>,
    identity: Identity,
    log: LogStore,
    was_member: bool,
    state: Arc<StateStore>,
    applied: AppliedMeta,
    /// The feature level of the state.
    level: Option<u32>,
}

impl RaftNode {
    /// Opens the data directory and starts the node. The caller must serve
    /// the service at once: the others cannot reach this node before.
    ///
    /// A new cluster is founded in the background when all of
    /// [`RaftOptions::peers`] answer and are empty.
    ///
    /// Boxed, so that openraft is compiled once, with this crate, and not with
    /// every binary that starts a node.
    pub fn start(
        options: RaftOptions,
        observer: Arc<dyn ApplyObserver>,
        clock: Arc<dyn CommandClock>,
    ) -> BoxFuture<'static, Result<(Self, RaftServer<RaftService>), StartError>> {
        Box::pin(Self::start_here(options, observer, clock))
    }

    async fn start_here(
        mut options: RaftOptions,
        observer: Arc<dyn ApplyObserver>,
        clock: Arc<dyn CommandClock>,
    ) -> Result<(Self, RaftServer<RaftService>), StartError> {
        if !options.peers.contains_key(&options.node_id) {
            let id = options.node_id;
            return Err(StartError::Options(format!("node {id} is not among its own peers")));
        }
        let started = time::now();
        let config = options.config().map_err(|e| StartError::Options(e.to_string()))?;
        let (data, asked) = (options.data.clone(), options.node_id);
        let sync_seconds = options.probes.log_sync_seconds.clone();
        let reads = options.reads_level;
        let disk = move || open(&data, asked, sync_seconds, reads);
        let disk = streamhouse_host::spawn_blocking(disk).await;
        let disk = disk.map_err(|e| StartError::Raft(e.to_string()))??;
        let id = disk.identity.node;
        if id != asked {
            // It took the place of the one that the operator still calls it.
            tracing::info!(asked, id, "this directory belongs to the controller's successor");
            options.peers.remove(&asked);
            options.peers.insert(id, options.advertise.clone());
            (options.node_id, options.founds) = (id, false);
        }

        let applied = AppliedState::new(&disk.applied, disk.level);
        let peers = Arc::new(Peers::new(options.peers.clone()));
        let network = Network {
            id,
            disk: disk.identity.disk,
            peers: peers.clone(),
            applied: applied.clone(),
        };
        let probes = options.probes.clone();
        let machine =
            StateMachine::new(disk.state.clone(), disk.applied, applied.clone(), observer, probes);
        let raft =
            super::types::Raft::new(id, Arc::new(config), network, disk.log.clone(), machine)
                .await
                .map_err(|e| StartError::Raft(e.to_string()))?;

        // Asked of the core: the metrics are empty until it runs.
        let voters =
            |state: &RaftState<TypeConfig>| state.membership_state.effective().voter_ids().count();
        let voters = raft.with_raft_state(voters).await;
        let voters = voters.map_err(|e| StartError::Raft(e.to_string()))?;
        let (forwards, queue) = mpsc::channel(forward::QUEUE);
        let (batches, proposed) = mpsc::channel(proposer::QUEUE);
        let gate = Arc::new(Gate::new(options.limits.clone()));
        let node = Self::new(Core {
            options,
            disk: disk.identity.disk,
            db: disk.db,
            raft,
            log: disk.log,
            state: disk.state,
            applied,
            peers,
            clock,
            proposals: Arc::new(Semaphore::new(gate.limits().in_flight_bytes)),
            gate,
            batches,
            forwards,
            leadership: watch::Sender::new(Leadership::default()),
            admission: watch::Sender::new(Admission::Asking(String::new())),
            votes_above: AtomicU64::new(0),
            was_member: AtomicBool::new(disk.was_member),
            stalled: AtomicBool::new(false),
            defers: Mutex::new(voters > 1),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            stopping: AtomicBool::new(false),
            changing: Arc::default(),
            led_since: Mutex::new(None),
            heard: Mutex::new(time::now()),
            invited: Mutex::new(None),
            level_waits: Mutex::default(),
        });
        let tasks = &node.core().tasks;
        tasks.spawn(leadership::watch(node.clone()));
        tasks.spawn(stall::watch(node.clone()));
        tasks.spawn(campaign::defer(node.clone(), started));
        tasks.spawn(bootstrap::found(node.clone()));
        tasks.spawn(admission::seek(node.clone()));
        tasks.spawn(forward::run(node.clone(), queue));
        tasks.spawn(proposer::run(node.clone(), proposed));
        tasks.spawn(marks::watch(node.clone()));
        tasks.spawn(membership::promote(node.clone()));
        tasks.spawn(levels::watch(node.clone()));
        tasks.spawn(log_bounds::watch(node.clone()));
        let service = RaftServer::new(RaftService::new(node.clone()))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok((node, service))
    }
}

fn open(data: &Path, node: u64, sync_seconds: Histogram, reads: u32) -> Result<Disk, StartError> {
    let (db, identity) = Db::open(data, node)?;
    begin_use(data).map_err(|error| OpenError::Unreadable {
        path: data.to_owned(),
        what: error.to_string(),
    })?;
    let db = Arc::new(db);
    let path = || data.to_owned();
    let snapshot = |error: SnapshotError| match error {
        SnapshotError::Damaged(_) => OpenError::Damaged { path: path(), what: error.to_string() },
        SnapshotError::Io(_) | SnapshotError::State(_) => {
            OpenError::Unreadable { path: path(), what: error.to_string() }
        }
    };
    let snapshots = SnapshotStore::open(data).map_err(snapshot)?;
    let state = Arc::new(StateStore::open(db.clone(), snapshots, reads).map_err(snapshot)?);
    let unreadable = |e: KvError| OpenError::Unreadable { path: path(), what: e.0 };
    let level = state.feature_level().map_err(unreadable)?;
    if let Some(level) = level.filter(|level| *level > reads) {
        return Err(StartError::TooOld { path: path(), too_old: TooOld { level, reads } });
    }
    let applied = AppliedMeta::load(&db).map_err(|error| error.at(data))?;
    let was_member = db.get_raft(meta::MEMBER).map_err(|error| error.at(data))?.is_some();
    let log = LogStore::open(data, db.clone(), sync_seconds).map_err(|error| match error {
        LogError::Damaged(what) => OpenError::Damaged { path: path(), what },
        LogError::Unreadable(what) => OpenError::Unreadable { path: path(), what },
    })?;
    if applied.last_applied > log.durable() {
        keep_ahead(&state).map_err(snapshot)?;
    }
    Ok(Disk { db, identity, log, was_member, state, applied, level })
}

/// Makes a snapshot of a state that is ahead of the log.
///
/// Raft applies what a majority has on disk, which this disk need not be part
/// of: a crash may take entries and leave what they did. Raft then has the log
/// begin after the state, and must have a snapshot as far for whoever it
/// brings up to date.
fn keep_ahead(state: &StateStore) -> Result<(), SnapshotError> {
    let view = state.view().map_err(|e| SnapshotError::State(e.0))?;
    let current = state.snapshots().current()?;
    if current.is_none_or(|one| one.meta.last_log_id < view.meta().last_applied) {
        state.snapshots().build(&view)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::damage_tests;
    use crate::state::features;
    use rocksdb::WriteBatch;

    #[test]
    fn a_state_that_is_ahead_of_its_log_has_a_snapshot_as_far() {
        let dir = tempfile::tempdir().unwrap();
        let open = || open(dir.path(), 1, Histogram::noop(), features::NEWEST).unwrap();
        let kept = |disk: &Disk| {
            let current = disk.state.snapshots().current().unwrap();
            current.map(|one| one.meta.last_log_id.map(|id| id.index))
        };
        for (entry, expected) in [(1, Some(Some(1))), (2, Some(Some(2)))] {
            let mut disk = open();
            disk.state.apply(&mut disk.applied, &[damage_tests::entry(entry)]);
            // As when the disk took that, and not the log's entries before.
            disk.db.write_synced(WriteBatch::default()).unwrap();
            drop(disk);
            let disk = open();
            assert_eq!(disk.applied.index(), entry);
            assert_eq!(kept(&disk), expected);
        }
    }
}
