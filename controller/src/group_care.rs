//! What the leader does about consumer groups: ends members that fell silent,
//! and has groups removed in which nothing has happened for long.

use crate::clock::ClusterClock;
use crate::liveness::{Anew, Liveness, Patience};
use crate::raft::{RaftNode, StateView};
use crate::state::MAX_BATCH;
use crate::state::command::CommandBody;
use crate::state::groups::{self, MemberId};
use crate::state::kv::{KvError, KvRead};
use crate::state::reply::Effect;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// One member of one group.
pub(crate) type MemberKey = (Arc<str>, MemberId);

/// How often idle groups are looked for.
const IDLE_SWEEP: Duration = Duration::from_secs(10);
/// BOUND: groups or members read at once.
const PAGE: usize = 1_000;

/// How long a member may be silent. Its own clock stops it after its session
/// timeout, so nobody gets what it owns before that is over, whether its
/// stream broke or this controller has just begun to lead.
pub(crate) fn patience(session_timeout_ms: u32) -> Patience {
    let timeout = Duration::from_millis(session_timeout_ms.into());
    Patience { silent: timeout, gone: timeout }
}

/// A leader's care for groups.
pub(crate) struct GroupCare {
    raft: RaftNode,
    liveness: Arc<Liveness<MemberKey>>,
    clock: Arc<ClusterClock>,
    retention: Duration,
    /// Groups of which members are being ended.
    ending: HashSet<Arc<str>>,
    proposals: JoinSet<Option<Arc<str>>>,
    /// Where the search for idle groups goes on.
    next: String,
    swept: Option<Instant>,
}

impl GroupCare {
    pub(crate) fn new(
        raft: &RaftNode,
        liveness: &Arc<Liveness<MemberKey>>,
        clock: &Arc<ClusterClock>,
        retention: Duration,
    ) -> Self {
        Self {
            raft: raft.clone(),
            liveness: Arc::clone(liveness),
            clock: Arc::clone(clock),
            retention,
            ending: HashSet::new(),
            proposals: JoinSet::new(),
            next: String::new(),
            swept: None,
        }
    }

    /// Judges all members from now on. `leads_anew`: in that term.
    ///
    /// GROUP: a leader that was deposed with members on its side of a cut tells
    /// them that they live until it knows; what they own is theirs for the
    /// session timeout after that.
    pub(crate) fn begin(&self, leads_anew: Option<u64>) -> Result<(), KvError> {
        let view = self.raft.view();
        let (mut live, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let page = groups::all_members(&view, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            live.extend(page.into_iter().map(|listed| {
                let patience = patience(listed.member.session_timeout_ms);
                ((Arc::from(listed.group), listed.id), patience)
            }));
        }
        let overlap = self.raft.outlives_its_majority();
        self.liveness.begin(live, leads_anew.map(|term| Anew { term, overlap }));
        Ok(())
    }

    /// Follows members through what was applied.
    pub(crate) fn note(&self, effect: &Effect) {
        match effect {
            Effect::MemberJoined { group, member, session_timeout_ms } => {
                self.liveness
                    .opened((group.as_str().into(), *member), patience(*session_timeout_ms));
            }
            Effect::MemberLeft { group, member, .. } => {
                self.liveness.forget(&(group.as_str().into(), *member));
            }
            _ => {}
        }
    }

    /// Ends the members whose time is over, group by group, one command at a
    /// time for each; looks for idle groups now and then.
    pub(crate) fn look(&mut self, now: Instant) -> Result<(), KvError> {
        while let Some(done) = self.proposals.try_join_next() {
            // Whose end failed is tried again now.
            if let Ok(Some(group)) = done {
                self.ending.remove(&group);
            }
        }
        let mut silent = BTreeMap::<Arc<str>, Vec<MemberId>>::new();
        let view = self.raft.view();
        // GROUP: from here on none of them is told that it lives; its own clock
        // has stopped it, and a late sign of life must not start it again.
        for (group, member) in self.liveness.give_up_silent() {
            if groups::member(&view, &group, &member)?.is_none() {
                self.liveness.forget(&(group, member));
                continue;
            }
            let members = silent.entry(group).or_default();
            if members.len() < MAX_BATCH {
                members.push(member);
            }
        }
        for (group, members) in silent {
            if self.ending.insert(Arc::clone(&group)) {
                self.end(group, members);
            }
        }
        if self.swept.is_none_or(|at| now.saturating_duration_since(at) >= IDLE_SWEEP) {
            self.swept = Some(now);
            self.remove_idle(&view)?;
        }
        Ok(())
    }

    fn end(&mut self, group: Arc<str>, members: Vec<MemberId>) {
        tracing::warn!(%group, members = members.len(), "members fell silent; ending them");
        let raft = self.raft.clone();
        self.proposals.spawn(async move {
            let (name, expired) = (group.to_string(), true);
            let body = CommandBody::LeaveGroup { group: name, members, expired };
            if let Err(error) = raft.propose_local(None, body).await {
                tracing::warn!(%group, %error, "ending members failed");
            }
            Some(group)
        });
    }

    /// One page of all groups. CLOCK: by cluster time.
    fn remove_idle(&mut self, view: &StateView) -> Result<(), KvError> {
        let retention = u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX);
        let idle_before_ms = self.clock.now_ms().saturating_sub(retention);
        let names = groups::names(view, &self.next, PAGE)?;
        self.next = match names.last() {
            // The least name that comes after it.
            Some(last) if names.len() == PAGE => format!("{last}\0"),
            _ => String::new(),
        };
        let idle = idle(view, names, idle_before_ms)?;
        if idle.is_empty() {
            return Ok(());
        }
        let raft = self.raft.clone();
        self.proposals.spawn(async move {
            let body = CommandBody::ExpireGroups { groups: idle, idle_before_ms };
            if let Err(error) = raft.propose_local(None, body).await {
                tracing::warn!(%error, "removing idle groups failed");
            }
            None
        });
        Ok(())
    }
}

fn idle(
    view: &dyn KvRead,
    names: Vec<String>,
    idle_before_ms: u64,
) -> Result<Vec<String>, KvError> {
    let mut idle = Vec::new();
    for name in names {
        if groups::idle_since_ms(view, &name)?.is_some_and(|since| since < idle_before_ms) {
            idle.push(name);
        }
    }
    Ok(idle)
}
