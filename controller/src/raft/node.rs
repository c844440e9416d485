//! The handle through which the rest of the controller uses Raft.

use super::admission::Admission;
use super::forward::Waiting;
use super::leadership::Leadership;
use super::log_store::LogStore;
use super::membership;
use super::options::RaftOptions;
use super::peers::Peers;
use super::proposer::Proposed;
use super::state_machine::AppliedState;
use super::state_store::StateStore;
use super::types::{ControllerNode, DiskId, Raft, TypeConfig};
use super::view::StateView;
use super::{CommandClock, db::Db};
use crate::limits::Gate;
use crate::state::kv::KvError;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{RaftMetrics, ServerState};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a stop waits for tasks that should end at once.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A running node of the Raft cluster; clones are handles of the same node.
///
/// The data directory stays locked until the last handle, and the service
/// that came with it, are dropped.
#[derive(Clone)]
pub struct RaftNode {
    core: Arc<Core>,
}

/// What the handles share.
pub(crate) struct Core {
    pub(crate) options: RaftOptions,
    pub(crate) disk: DiskId,
    pub(crate) db: Arc<Db>,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) state: Arc<StateStore>,
    pub(crate) applied: Arc<AppliedState>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) clock: Arc<dyn CommandClock>,
    pub(crate) proposals: Arc<Semaphore>,
    /// Proposals for Raft, while this node leads.
    pub(crate) batches: mpsc::Sender<Proposed>,
    /// Proposals for the leader, if that is another.
    pub(crate) forwards: mpsc::Sender<Waiting>,
    /// Asked before a command is proposed.
    pub(crate) gate: Arc<Gate>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) admission: watch::Sender<Admission>,
    /// It votes only in terms above this one.
    pub(crate) votes_above: AtomicU64,
    /// A committed membership has named this node with this disk.
    pub(crate) was_member: AtomicBool,
    /// The log's disk has stopped.
    pub(crate) stalled: AtomicBool,
    /// It was just started, and other voters are to campaign first.
    pub(crate) defers: Mutex<bool>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
    pub(crate) stopping: AtomicBool,
    /// Held while this node changes the membership.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
    /// Since when this node has led, as [`super::membership`] saw it.
    pub(crate) led_since: Mutex<Option<Instant>>,
    /// When a leader's word was last accepted here.
    pub(crate) heard: Mutex<Instant>,
    /// The leader that last asked this node to take over, and its term.
    pub(crate) invited: Mutex<Option<(u64, u64)>>,
    /// Why the feature level is not higher, as [`super::levels`] saw it.
    pub(crate) level_waits: Mutex<String>,
}

impl Core {
    /// Neither a vote nor an entry was ever written here, nor state.
    pub(crate) fn is_empty(&self) -> bool {
        let applied = self.raft.metrics().borrow_watched().last_applied;
        self.log.is_empty() && applied.is_none()
    }
}

/// What a node does in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Orders the commands.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks to become the leader.
    Candidate,
    /// Has no vote.
    Learner,
}

impl Role {
    /// In lower case, as operators are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
        }
    }
}

/// For operators.
#[derive(Debug, Clone)]
pub struct RaftStatus {
    /// This node.
    pub id: u64,
    /// What it does.
    pub role: Role,
    /// The term it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// The last index applied here.
    pub applied: u64,
    /// The last index in the log here.
    pub last_log: u64,
    /// The index of the newest snapshot here, 0 if there is none.
    pub snapshot: u64,
    /// The voters and where they are.
    pub voters: BTreeMap<u64, String>,
    /// The id of this node's disk.
    pub disk: String,
    /// Synced writes of the log since the start.
    pub log_syncs: u64,
}

impl RaftNode {
    pub(crate) fn new(core: Core) -> Self {
        Self { core: Arc::new(core) }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    pub(crate) fn with_metrics<T>(&self, read: impl FnOnce(&RaftMetrics<TypeConfig>) -> T) -> T {
        read(&self.core.raft.metrics().borrow_watched())
    }

    /// Raft says that this node leads; its state may not be current yet.
    ///
    /// SUBTLE: while the log's disk hangs, Raft's core may wait for it, and
    /// what it last said of itself may be long over.
    pub(crate) fn leads(&self) -> bool {
        !self.stalled() && self.with_metrics(|m| m.state == ServerState::Leader)
    }

    /// The log's disk has stopped.
    pub(crate) fn stalled(&self) -> bool {
        self.core.stalled.load(Ordering::SeqCst)
    }

    /// Who leads, as far as is known.
    pub(crate) fn leader(&self) -> Option<u64> {
        if self.stalled() {
            return None;
        }
        self.with_metrics(|m| m.current_leader)
    }

    /// The leader, if it is another node, and how the membership has it.
    pub(crate) fn leader_node(&self) -> Option<(u64, ControllerNode)> {
        let leader = self.leader()?;
        self.with_metrics(|m| {
            let leader = Some(leader).filter(|leader| *leader != m.id)?;
            Some((leader, m.membership_config.get_node(&leader)?.clone()))
        })
    }

    /// The disk with which `node` is a member.
    pub(crate) fn member_disk(&self, node: u64) -> Option<DiskId> {
        self.with_metrics(|m| m.membership_config.get_node(&node).map(|n| n.disk))
    }

    /// The state as of now, unchanged by what is applied later.
    ///
    /// # Panics
    ///
    /// If the database cannot be read, which [`RaftNode::try_view`] reports.
    pub fn view(&self) -> StateView {
        self.try_view().expect("the applied index is in the block cache or the disk has failed")
    }

    /// [`RaftNode::view`], for those who can go on without.
    pub fn try_view(&self) -> Result<StateView, KvError> {
        self.core.state.view()
    }

    /// The last index applied here, as it moves on.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.core.applied.index.subscribe()
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.subscribe()
    }

    /// Where the leader is, this node included.
    pub fn leader_address(&self) -> Option<String> {
        let leader = self.leader()?;
        if leader == self.core.options.node_id {
            return Some(self.core.options.advertise.clone());
        }
        let (leader, member) = self.leader_node()?;
        Some(self.core.peers.address(leader, &member).to_owned())
    }

    /// Where this node is reached.
    pub fn advertised(&self) -> &str {
        &self.core.options.advertise
    }

    /// The cluster's id, once it is known here.
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        *self.core.applied.cluster.read()
    }

    /// Where this node stands.
    pub fn status(&self) -> RaftStatus {
        let core = &self.core;
        let address = |id: u64, node: &ControllerNode| core.peers.address(id, node).to_owned();
        // One that lost its majority may not know yet that it is deposed.
        let leads = self.leads() && core.leadership.borrow().leader == Some(core.options.node_id);
        let leader = self.leader().filter(|leader| leads || *leader != core.options.node_id);
        self.with_metrics(|m| RaftStatus {
            id: m.id,
            role: match m.state {
                ServerState::Leader if leads => Role::Leader,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                ServerState::Leader | ServerState::Follower | ServerState::Shutdown => {
                    Role::Follower
                }
            },
            term: m.current_term,
            leader,
            applied: *core.applied.index.borrow(),
            last_log: core.log.last_index(),
            snapshot: m.snapshot.map_or(0, |id| id.index),
            voters: m
                .membership_config
                .voter_ids()
                .filter_map(|id| Some((id, address(id, m.membership_config.get_node(&id)?))))
                .collect(),
            disk: uuid::Uuid::from_bytes(core.disk).to_string(),
            log_syncs: core.log.writer().syncs(),
        })
    }

    /// Asks the voter whose log is furthest, of those that answer if any do, to
    /// take over. False if this node does not lead or has no other voter.
    pub(crate) async fn hand_over(&self) -> bool {
        let best = self.with_metrics(|m| {
            let matched = m.replication.as_ref()?;
            let own = m.id;
            let voters = m.membership_config.voter_ids().filter(|id| *id != own);
            voters
                .max_by_key(|id| (membership::answers(m, *id), matched.get(id).copied().flatten()))
        });
        let Some(to) = best else {
            return false;
        };
        tracing::info!(to, "handing over the leadership");
        self.core.raft.trigger().transfer_leader(to).await.is_ok()
    }

    /// Hands over the leadership if this node has it, then stops.
    pub async fn shutdown(&self) {
        if self.leads() && self.hand_over().await {
            let patience = self.core.options.election_max * 3;
            let mut metrics = self.core.raft.metrics();
            let gone = async { while self.leads() && metrics.changed().await.is_ok() {} };
            if tokio::time::timeout(patience, gone).await.is_err() {
                tracing::warn!("nobody took over the leadership in time");
            }
        }
        self.abort().await;
    }

    /// Stops without handing over: to the others it looks like a crash, but
    /// whatever was written stays written.
    pub async fn abort(&self) {
        let core = &self.core;
        if core.stopping.swap(true, Ordering::SeqCst) {
            core.tasks.wait().await;
            return;
        }
        core.cancel.cancel();
        let _ = core.raft.shutdown().await;
        core.tasks.close();
        if tokio::time::timeout(STOP_PATIENCE, core.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks of raft did not end in time");
        }
        core.log.writer().stop().await;
        let db = core.db.clone();
        let synced = streamhouse_host::spawn_blocking(move || db.quiesce()).await;
        if let Ok(Err(error)) = synced {
            tracing::error!(%error, "last sync failed; what was acknowledged is safe");
        }
    }
}
