//! What a controller asks before it votes, campaigns or acknowledges anything:
//! does its disk still hold what it had acknowledged?
//!
//! A disk that was put back from a copy, or whose log was cut off, looks sound
//! by itself, and so does one that was emptied. So a starting controller asks
//! the others how far they saw its disk get (see [`super::marks`]), and takes
//! part once their answers are enough ([`super::evidence`] says when) and none
//! of them saw more than is there. Until then it answers no message of Raft. A
//! disk that is behind, a number that belongs to another disk by now, or a
//! member that was removed, is refused with the way out.
//!
//! What is answered in another cluster's name, at an address that was given out
//! anew, counts for nothing, once this disk knows its own; a starting controller
//! that was told of no other address is refused.
//!
//! What no other member knows cannot be found so. With a leader that others
//! confirm, that is nothing. When all start at once, it is what the disk
//! acknowledged after its last mark was written, a second at most, if the
//! leader's memory is gone; and if not all voters answer in time, whatever
//! only the silent ones know.

use super::evidence::{self, Answer, Answers, Members, Own, Verdict};
use super::marks;
use super::node::RaftNode;
use super::peers;
use super::time;
use super::types::DiskId;
use crate::state::kv::KvError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;
use streamhouse_proto::v1::raft_client::RaftClient;
use streamhouse_proto::v1::{self, IdentifyRequest, IdentifyResponse};
use tonic::transport::Channel;

pub use super::evidence::Refused;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(1);
/// A leader that is not confirmed within this time answers without.
const CONFIRM: Duration = Duration::from_millis(400);
/// Without a leader for so long, a member asks whether it still is one.
const LONELY: Duration = Duration::from_secs(1);

/// Whether this node may take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The answers are not enough yet, and why; empty before the first.
    Asking(String),
    /// It takes part.
    Admitted,
    /// It never will, with this disk.
    Refused(Refused),
}

/// Asks until there is a decision or the node stops.
pub(crate) async fn seek(node: RaftNode) {
    let core = node.core();
    let (begun, mut asker) = (time::now(), Asker::new(&node));
    let mut pause = FIRST_PAUSE;
    loop {
        let waited = || time::now().saturating_duration_since(begun) >= core.options.wait_for_all;
        let verdict = asker.round(|own, answers| evidence::decide(own, answers, waited())).await;
        match verdict {
            Verdict::Refuse(refused) => return node.decide(Admission::Refused(refused)),
            Verdict::Admit { .. } | Verdict::Wait(_) if asker.is_misplaced() => {
                let id = core.options.node_id;
                return node.decide(Admission::Refused(Refused::OtherCluster(id)));
            }
            // Nobody vouches for it but itself; a slow answer may yet say more.
            Verdict::Admit { .. } if asker.met_strangers_only() && !waited() => {
                let why = asker.names_strangers("no word from its own cluster".into());
                node.decide(Admission::Asking(why));
            }
            Verdict::Admit { votes_above } => {
                core.votes_above.store(votes_above, Ordering::SeqCst);
                node.decide(Admission::Admitted);
                return stay(node.clone(), asker).await;
            }
            Verdict::Wait(why) => node.decide(Admission::Asking(asker.names_strangers(why))),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.cancel.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A member that was removed hears no more from anybody. One that has had no
/// leader for a while asks whether that is why.
async fn stay(node: RaftNode, mut asker: Asker) {
    let core = node.core();
    let mut leadership = node.leadership();
    loop {
        let lonely = async {
            let _ = leadership.wait_for(|now| now.leader.is_none()).await;
            tokio::time::sleep(LONELY).await;
        };
        tokio::select! {
            () = lonely => {}
            () = core.cancel.cancelled() => return,
        }
        if leadership.borrow().leader.is_some() {
            continue;
        }
        let verdict = asker.round(|own, answers| {
            let refused = evidence::membership_refusal(own, answers);
            refused.map_or(Verdict::Wait(String::new()), Verdict::Refuse)
        });
        if let Verdict::Refuse(refused) = verdict.await {
            return node.decide(Admission::Refused(refused));
        }
    }
}

/// Asks the others, wherever they are said to be, and keeps what they said.
struct Asker {
    node: RaftNode,
    /// The latest of each: what one said stays true when it is gone.
    answers: Answers,
    /// Where another cluster's controllers answered in the last round.
    strangers: BTreeSet<String>,
    /// By address.
    clients: BTreeMap<String, RaftClient<Channel>>,
}

impl Asker {
    fn new(node: &RaftNode) -> Self {
        Self {
            node: node.clone(),
            answers: Answers::new(),
            strangers: BTreeSet::new(),
            clients: BTreeMap::new(),
        }
    }

    /// Asks everyone once; judges after each answer, until that decides.
    ///
    /// Before anyone has answered where this node was told to look, it may be
    /// in the wrong place, and does not take part on others' word.
    async fn round(&mut self, judge: impl Fn(&Own, &Answers) -> Verdict) -> Verdict {
        let addresses = self.addresses();
        self.clients.retain(|address, _| addresses.contains(address));
        let configured = self.configured();
        let mut at_home = configured.is_empty();
        let before = std::mem::take(&mut self.strangers);
        let calls: FuturesUnordered<_> =
            addresses.into_iter().filter_map(|address| self.call(address)).collect();
        futures::pin_mut!(calls);
        while let Some(answer) = calls.next().await {
            let Some((address, from, answer)) = answer else { continue };
            let own = self.node.own();
            if answer.is_foreign(&own) {
                if !before.contains(&address) {
                    tracing::warn!(address, "another cluster's controller answers at this address");
                }
                self.strangers.insert(address);
                continue;
            }
            if from == own.node {
                continue;
            }
            at_home |= configured.contains(&address);
            self.answers.insert(from, answer);
            match self.judged(&judge) {
                Verdict::Wait(_) => {}
                Verdict::Admit { .. } if !at_home => {}
                verdict => return verdict,
            }
        }
        self.judged(&judge)
    }

    fn judged(&mut self, judge: impl Fn(&Own, &Answers) -> Verdict) -> Verdict {
        let own = self.node.own();
        // Whose cluster was not known to be another when they answered.
        self.answers.retain(|_, answer| !answer.is_foreign(&own));
        judge(&own, &self.answers)
    }

    /// Wherever it was told to look it met another cluster, so it was told to
    /// join that; its own would be called by addresses that are not its own.
    fn is_misplaced(&self) -> bool {
        let configured = self.configured();
        !configured.is_empty() && configured.is_subset(&self.strangers)
    }

    fn met_strangers_only(&self) -> bool {
        self.answers.is_empty() && !self.strangers.is_empty()
    }

    /// What is waited for, and where others were found.
    fn names_strangers(&self, why: String) -> String {
        match self.strangers.is_empty() {
            true => why,
            false => {
                let at = self.strangers.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                format!("{why}; at {at} another cluster answers")
            }
        }
    }

    fn call(
        &mut self,
        address: String,
    ) -> Option<impl Future<Output = Option<(String, u64, Answer)>> + use<>> {
        let mut client = match self.clients.get(&address) {
            Some(client) => client.clone(),
            None => {
                let client = peers::connect_once(&address).ok()?;
                self.clients.insert(address.clone(), client.clone());
                client
            }
        };
        let core = self.node.core();
        let own = core.options.node_id;
        let request = IdentifyRequest { node_id: own, disk_id: core.disk.to_vec() };
        Some(async move {
            let answer = tokio::time::timeout(PATIENCE, client.identify(request)).await;
            let (from, answer) = Answer::read(answer.ok()?.ok()?.into_inner(), own)?;
            Some((address, from, answer))
        })
    }

    /// Where it was told that others are.
    fn configured(&self) -> BTreeSet<String> {
        let options = &self.node.core().options;
        let others = options.peers.iter().filter(|(id, _)| **id != options.node_id);
        let addresses = others.map(|(_, address)| address.clone());
        addresses.filter(|address| *address != options.advertise).collect()
    }

    /// Where others may be: as the newest membership has it, as the own one
    /// has it, and as configured. Whoever answers there counts as itself.
    fn addresses(&self) -> BTreeSet<String> {
        let (core, own) = (self.node.core(), self.node.own());
        let mut addresses = self.configured();
        for members in [evidence::newest(&own, &self.answers), &own.effective] {
            let others = members.nodes.iter().filter(|(id, _)| **id != own.node);
            addresses.extend(others.map(|(_, place)| place.address.clone()));
        }
        addresses.remove(&core.options.advertise);
        addresses
    }
}

impl RaftNode {
    fn own(&self) -> Own {
        let core = self.core();
        let (committed, effective) = self.memberships();
        Own {
            node: core.options.node_id,
            disk: core.disk,
            cluster: *core.applied.cluster.read(),
            vote_term: core.log.vote_term(),
            last: core.log.durable(),
            was_member: core.was_member.load(Ordering::SeqCst),
            committed,
            effective,
            peers: core.options.peers.keys().copied().collect(),
            reads: core.options.reads_level,
        }
    }

    fn memberships(&self) -> (Members, Members) {
        self.with_metrics(|m| {
            let (committed, effective) = (&m.committed_membership_config, &m.membership_config);
            let any = committed.log_id().is_some();
            let settled = any && committed.log_id() == effective.log_id();
            (Members::new(committed, any), Members::new(effective, settled))
        })
    }

    fn decide(&self, decision: Admission) {
        let core = self.core();
        let changed = core.admission.send_if_modified(|known| {
            let changed = *known != decision;
            known.clone_from(&decision);
            changed
        });
        if !changed {
            return;
        }
        match &decision {
            Admission::Asking(why) => tracing::info!(why, "waiting before taking part"),
            Admission::Admitted => tracing::debug!("taking part"),
            Admission::Refused(refused) => tracing::error!(%refused, "not taking part"),
        }
        core.review_campaigns();
    }

    /// Returns when this node's disk was found to be of no more use.
    pub async fn refused(&self) -> Refused {
        let mut admission = self.core().admission.subscribe();
        let refused = admission.wait_for(|now| matches!(now, Admission::Refused(_))).await;
        if let Ok(refused) = refused
            && let Admission::Refused(refused) = &*refused
        {
            return refused.clone();
        }
        std::future::pending().await
    }

    /// What this node waits for before it takes part; empty once that is
    /// decided, or before it has asked.
    pub fn waits_for(&self) -> String {
        match &*self.core().admission.borrow() {
            Admission::Asking(why) => why.clone(),
            Admission::Admitted | Admission::Refused(_) => String::new(),
        }
    }

    /// What is told to a controller that asks.
    pub(crate) async fn identify(
        &self,
        asking: &IdentifyRequest,
    ) -> Result<IdentifyResponse, KvError> {
        let core = self.core();
        // Before anything else is looked at: what was acknowledged to this
        // leader before the question is known to it when this is confirmed.
        let leads = asking.node_id != 0 && self.confirmed_leader().await;
        let (committed, effective) = self.memberships();
        // What is not committed may yet be taken back; but a cluster that is
        // being founded has nothing else, and its members must find each other.
        let members = if committed.committed { committed } else { effective };
        let disk = DiskId::try_from(asking.disk_id.as_slice()).ok();
        let mark = match disk {
            Some(disk) => marks::known(self, &disk).await?,
            None => None,
        };
        let admission = core.admission.borrow().clone();
        Ok(IdentifyResponse {
            node_id: core.options.node_id,
            disk_id: core.disk.to_vec(),
            empty: core.is_empty(),
            cluster_id: core.applied.cluster.read().map_or(Vec::new(), |id| id.to_vec()),
            member_disk: members.disk_of(asking.node_id).map_or(Vec::new(), |disk| disk.to_vec()),
            membership_index: members.at.map_or(0, |at| at.index),
            mark: mark.map(|mark| v1::DiskMark {
                term: mark.term,
                matched_term: mark.matched_term,
                matched_index: mark.matched_index,
            }),
            standing: Some(v1::Standing {
                term: core.log.vote_term(),
                leads,
                admitted: admission == Admission::Admitted,
                refused: matches!(admission, Admission::Refused(_)),
                holds_log: core.log.durable().is_some(),
            }),
            membership: Some(members.to_wire()),
            reads_level: core.options.reads_level,
            feature_level: (*core.applied.level.borrow()).unwrap_or(0),
        })
    }

    /// A majority confirms now that this node leads, and it has committed an
    /// entry of its term.
    async fn confirmed_leader(&self) -> bool {
        let is_leader = || self.leadership().borrow().is_leader;
        if !is_leader() {
            return false;
        }
        let read = tokio::time::timeout(CONFIRM, self.leader_read_index()).await;
        matches!(read, Ok(Ok(_))) && is_leader()
    }
}
