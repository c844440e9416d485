//! What the leader does on its own account: gives a new cluster its identity,
//! ends sessions that fell silent, and proposes `Continue` while work is due.

use crate::clock::{self, ClusterClock};
use crate::controller::Fuse;
use crate::entropy;
use crate::group_care::GroupCare;
use crate::hub::{Changes, Hub};
use crate::liveness::{Anew, Liveness, Patience};
use crate::raft::{ProposeError, RaftNode};
use crate::state::command::{CommandBody, GenerationKey};
use crate::state::kv::KvError;
use crate::state::reply::{Effect, Reply};
use crate::state::{cluster, sessions, work};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often silence is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How often work that waits for its time is looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Sessions whose end is being proposed.
#[derive(Default)]
struct Ending {
    sessions: HashSet<u64>,
    proposals: JoinSet<u64>,
}

/// The housekeeper of one controller.
pub(crate) struct Housekeeping {
    pub(crate) raft: RaftNode,
    pub(crate) hub: Arc<Hub>,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) liveness: Arc<Liveness<u64>>,
    pub(crate) patience: Patience,
    pub(crate) fuse: Fuse,
    pub(crate) cancel: CancellationToken,
}

impl Housekeeping {
    /// Runs until cancelled: waits for leadership, keeps house while it lasts.
    pub(crate) async fn run(self, mut groups: GroupCare) {
        let mut leadership = self.raft.leadership();
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                led = leadership.wait_for(|now| now.is_leader) => {
                    if led.is_err() {
                        return;
                    }
                }
            }
            let term = leadership.borrow().term;
            tracing::debug!(term, "keeping house");
            let mut lost = self.raft.leadership();
            tokio::select! {
                () = self.cancel.cancelled() => return,
                _ = lost.wait_for(|now| !now.is_leader || now.term != term) => {
                    tracing::debug!(term, "no longer leading");
                }
                kept = self.keep_house(term, &mut groups) => {
                    if let Err(error) = kept {
                        self.fuse.blow(error.to_string());
                        return;
                    }
                }
            }
            self.clock.stand_down();
        }
    }

    /// Never returns while this controller leads and its state can be read.
    async fn keep_house(&self, term: u64, groups: &mut GroupCare) -> Result<(), KvError> {
        // Subscribed before the state is read, so that nothing falls between.
        let mut changes = self.hub.subscribe();
        self.clock.take_over(cluster::time_ms(&self.raft.view())?);
        self.name_cluster().await?;
        self.begin_watch(groups, Some(term))?;
        let mut ending = Ending::default();
        let mut work = JoinSet::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut looked, mut swept) = (clock::now(), clock::now());
        let mut apart = None;
        self.begin_work(&mut work);
        loop {
            tokio::select! {
                change = changes.recv() => {
                    if self.take_note(change, &mut changes, groups)? {
                        self.begin_work(&mut work);
                    }
                }
                Some(done) = work.join_next() => {
                    if matches!(done, Ok(Ok(true))) {
                        self.begin_work(&mut work);
                    } else if let Ok(Err(error)) = done {
                        return Err(error);
                    }
                }
                Some(ended) = ending.proposals.join_next() => {
                    // One whose end failed is tried again on the next look.
                    if let Ok(session) = ended {
                        ending.sessions.remove(&session);
                    }
                }
                _ = look.tick() => {
                    let now = clock::now();
                    self.look_for_silence(now, looked, &mut ending, groups)?;
                    looked = now;
                    if now.saturating_duration_since(swept) >= SWEEP {
                        swept = now;
                        self.watch_clock(&mut apart);
                        self.begin_work(&mut work);
                    }
                }
            }
        }
    }

    /// CLOCK: says once when cluster time and wall time have come too far
    /// apart, and when they have not any more.
    fn watch_clock(&self, alarm: &mut Option<Duration>) {
        let apart = self.clock.apart();
        match (apart, alarm.is_some()) {
            (Some(apart), false) => tracing::error!(
                ?apart,
                "cluster time and this machine's clock are far apart, and nothing is deleted until \
                 they are not; after an outage of all controllers cluster time catches up by itself"
            ),
            (None, true) => tracing::info!("cluster time has come back to this machine's clock"),
            _ => {}
        }
        *alarm = apart;
    }

    /// A new cluster gets its id and first generation from its first leader.
    async fn name_cluster(&self) -> Result<(), KvError> {
        while cluster::cluster(&self.raft.view())?.is_none() {
            let generation = GenerationKey { counter: 1, random: entropy::number() };
            let id = entropy::id();
            let body = CommandBody::InitCluster { cluster: id, generation };
            match self.raft.propose_local(None, body).await {
                Ok((index, _)) => {
                    tracing::info!(index, id = %uuid::Uuid::from_bytes(id), "cluster created")
                }
                Err(error) => self.log_and_wait("naming the cluster", &error).await,
            }
        }
        Ok(())
    }

    async fn log_and_wait(&self, what: &str, error: &ProposeError) {
        tracing::warn!(%error, "{what} failed; trying again while this controller leads");
        tokio::time::sleep(LOOK).await;
    }

    /// `leads_anew`: in that term.
    fn begin_watch(&self, groups: &GroupCare, leads_anew: Option<u64>) -> Result<(), KvError> {
        groups.begin(leads_anew)?;
        let live = sessions::live(&self.raft.view())?;
        let live = live.into_iter().map(|(id, _)| (id, self.patience));
        // Ending a session while the leader before still counts it is safe: commits are fenced.
        let overlap = Duration::ZERO;
        self.liveness.begin(live, leads_anew.map(|term| Anew { term, overlap }));
        Ok(())
    }

    /// Follows sessions through their effects; tells whether work is pending.
    fn take_note(
        &self,
        change: Result<Arc<Changes>, RecvError>,
        changes: &mut broadcast::Receiver<Arc<Changes>>,
        groups: &GroupCare,
    ) -> Result<bool, KvError> {
        let batch = match change {
            Ok(batch) if !batch.replaced => batch,
            Ok(_) | Err(RecvError::Lagged(_)) => {
                *changes = self.hub.subscribe();
                self.begin_watch(groups, None)?;
                return Ok(true);
            }
            Err(RecvError::Closed) => return Ok(false),
        };
        let mut pending = false;
        for effect in &batch.effects {
            match effect {
                Effect::SessionOpened(session) => self.liveness.opened(*session, self.patience),
                Effect::SessionEnded(session) => self.liveness.forget(session),
                Effect::WorkPending => pending = true,
                Effect::MemberJoined { .. } | Effect::MemberLeft { .. } => groups.note(effect),
                Effect::Appended(..)
                | Effect::Lease { .. }
                | Effect::TopicReady(_)
                | Effect::TopicDeleted(_)
                | Effect::CommitRefused { .. }
                | Effect::OffsetsRefused { .. }
                | Effect::Assigned { .. }
                | Effect::GroupDeleted(_)
                | Effect::Cluster => {}
            }
        }
        Ok(pending)
    }

    fn look_for_silence(
        &self,
        now: Instant,
        looked: Instant,
        ending: &mut Ending,
        groups: &mut GroupCare,
    ) -> Result<(), KvError> {
        // A process that was stopped for a while has heard nobody meanwhile;
        // that is not their silence.
        if now.saturating_duration_since(looked) > LOOK * 5 {
            return self.begin_watch(groups, None);
        }
        groups.look(now)?;
        for session in self.liveness.expired() {
            if !sessions::session(&self.raft.view(), session)?.is_some_and(|s| s.is_live()) {
                self.liveness.forget(&session);
                continue;
            }
            if !ending.sessions.insert(session) {
                continue;
            }
            tracing::warn!(session, "session fell silent, or its stream broke; ending it");
            let (raft, liveness) = (self.raft.clone(), Arc::clone(&self.liveness));
            ending.proposals.spawn(async move {
                let body = CommandBody::EndSession { session };
                match raft.propose_local(None, body).await {
                    Ok(_) => liveness.forget(&session),
                    Err(error) => tracing::warn!(session, %error, "ending the session failed"),
                }
                session
            });
        }
        Ok(())
    }

    /// Proposes one `Continue` if anything is due and none is under way; its
    /// task tells whether there is more. A task of its own, so that long work
    /// never keeps the housekeeper from looking after sessions.
    fn begin_work(&self, work: &mut JoinSet<Result<bool, KvError>>) {
        if !work.is_empty() {
            return;
        }
        let (raft, clock) = (self.raft.clone(), Arc::clone(&self.clock));
        work.spawn(async move {
            if !work::is_due(&raft.view(), clock.now_ms())? {
                return Ok(false);
            }
            match raft.propose_local(None, CommandBody::Continue).await {
                Ok((_, reply)) => Ok(reply == Reply::Continued { more: true }),
                Err(error) => {
                    // The next sweep tries again.
                    tracing::warn!(%error, "continuing work failed");
                    Ok(false)
                }
            }
        });
    }
}
