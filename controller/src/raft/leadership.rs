//! Who leads, for those who act only as the leader or only while there is
//! one.

use super::admission::Admission;
use super::fatal::{FatalReason, fatal};
use super::herald::Herald;
use super::node::RaftNode;
use super::options::RaftOptions;
use super::time;
use super::types::TypeConfig;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant, RaftMetrics, ServerState};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a leader looks whether its majority still answers.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// That nobody leads is said after so long.
const SAID_FIRST: Duration = Duration::from_secs(2);

/// Who leads, as this node sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term; a term has one leader at most.
    pub term: u64,
    /// The leader, if there is one that still has its majority.
    pub leader: Option<u64>,
    /// This node leads, and its state is current: it has applied an entry of
    /// its own term, and so everything before.
    pub is_leader: bool,
}

/// A leader whose majority has been silent for so long is likely deposed.
fn lonely(options: &RaftOptions) -> Duration {
    options.election_max * 3
}

impl RaftNode {
    /// For how long a leader that is cut off from its majority goes on as one.
    pub(crate) fn outlives_its_majority(&self) -> Duration {
        lonely(&self.core().options) + CHECK_EVERY
    }
}

/// Keeps [`Leadership`] up to date until the node stops.
pub(crate) async fn watch(node: RaftNode) {
    let core = node.core();
    let lonely = lonely(&core.options);
    let mut metrics = core.raft.metrics();
    let mut herald = Herald::default();
    let mut absence = Absence::default();
    let mut loneliness = Loneliness::default();
    loop {
        if let Err(error) = &metrics.borrow_watched().running_state
            && !core.stopping.load(Ordering::SeqCst)
        {
            core.state.end_over_snapshot();
            fatal(FatalReason::RaftStopped, error);
        }
        let mut now = leadership(&metrics.borrow_watched(), *core.heard.lock(), lonely);
        loneliness.look(&metrics.borrow_watched(), &now);
        if node.stalled() {
            (now.leader, now.is_leader) = (None, false);
        }
        herald.look(core, &metrics.borrow_watched());
        // Others lead without one that was refused.
        let refused = matches!(*core.admission.borrow(), Admission::Refused(_));
        let voters = metrics.borrow_watched().membership_config.voter_ids().count();
        absence.look(&now, if refused { 0 } else { voters });
        core.leadership.send_if_modified(|known| {
            let changed = *known != now;
            if known.term != now.term {
                core.peers.forget_lost();
            }
            *known = now;
            changed
        });
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(CHECK_EVERY) => {}
            () = core.cancel.cancelled() => break,
        }
    }
    core.leadership.send_modify(|known| {
        known.leader = None;
        known.is_leader = false;
    });
}

/// That a leader has lost its majority, and that it is back.
#[derive(Debug, Default)]
struct Loneliness {
    /// The term in which the first was said, and the second was not.
    said: Option<u64>,
}

impl Loneliness {
    fn look(&mut self, metrics: &RaftMetrics<TypeConfig>, now: &Leadership) {
        let (term, said) = (now.term, self.said == Some(now.term));
        if metrics.state != ServerState::Leader {
            self.said = None;
        } else if now.leader.is_none() && !said {
            tracing::warn!(term, "no majority answers: this controller leads no more");
            self.said = Some(term);
        } else if now.leader.is_some() && said {
            tracing::info!(term, "a majority answers again: this controller leads");
            self.said = None;
        }
    }
}

/// That no leader is known, for so long that operators should know.
#[derive(Debug, Default)]
struct Absence {
    since: Option<std::time::Instant>,
    /// After how long it is said again.
    next: Option<Duration>,
}

impl Absence {
    /// The first time after two seconds, then after twice as long each.
    fn look(&mut self, now: &Leadership, voters: usize) {
        if now.leader.is_some() || voters == 0 {
            *self = Self::default();
            return;
        }
        let lasted = time::now().saturating_duration_since(*self.since.get_or_insert(time::now()));
        if lasted >= self.next.unwrap_or(SAID_FIRST) {
            self.next = Some(lasted * 2);
            tracing::warn!(
                term = now.term,
                ?lasted,
                voters,
                "this controller knows no leader: a majority of the voters must be up, reach each other, and write to \
                 their disks in time"
            );
        }
    }
}

fn leadership(
    metrics: &RaftMetrics<TypeConfig>,
    heard: std::time::Instant,
    lonely: Duration,
) -> Leadership {
    let term = metrics.current_term;
    if metrics.state != ServerState::Leader {
        // With pre-vote an isolated follower stays in its term, so that only
        // the leader's silence tells.
        let silent = time::now().saturating_duration_since(heard) > lonely;
        let leader = metrics.current_leader.filter(|_| !silent);
        return Leadership { term, leader, is_leader: false };
    }
    let alone = metrics.membership_config.voter_ids().count() == 1;
    let acked = metrics.last_quorum_acked.as_ref();
    // A leader that no majority has answered yet has only just been elected.
    if !alone && acked.is_some_and(|at| at.elapsed() > lonely) {
        return Leadership { term, leader: None, is_leader: false };
    }
    let current = metrics.last_applied.is_some_and(|id| id.leader_id.term == term);
    Leadership { term, leader: Some(metrics.id), is_leader: current }
}
