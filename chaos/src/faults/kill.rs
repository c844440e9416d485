//! kill -9, and started again when it is over.

use std::time::Duration;

use async_trait::async_trait;

use super::{Fault, Healed, found};
use crate::clock;
use crate::cluster::{Cluster, Node};
use crate::error::ChaosError;
use crate::random::Random;

/// How long a victim is looked for in a cluster that was whole just now, and how often.
const FOUND: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// Who is to suffer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whom {
    Leader,
    Follower,
    Agent,
    AllAgents,
    AllControllers,
    Everything,
}

impl Whom {
    /// Whether the leader is among them.
    pub(super) fn has_leader(self) -> bool {
        match self {
            Self::Leader | Self::AllControllers | Self::Everything => true,
            Self::Follower | Self::Agent | Self::AllAgents => false,
        }
    }

    /// These nodes, with what they are just now.
    pub(super) async fn pick(
        self,
        cluster: &Cluster,
        random: &mut Random,
    ) -> Result<Vec<(Node, &'static str)>, ChaosError> {
        let plain = |nodes: Vec<Node>| nodes.into_iter().map(|node| (node, "")).collect();
        Ok(match self {
            Self::Leader => vec![(leader(cluster).await?, "the leader")],
            Self::Follower => {
                let leader = leader(cluster).await?;
                let mut others = cluster.controllers();
                others.retain(|node| *node != leader);
                let chosen = random.choose(&others).copied();
                chosen.map(|node| (node, "a follower")).into_iter().collect()
            }
            Self::Agent => vec![(busiest(cluster).await?, "the holder of most partitions")],
            Self::AllAgents => plain(cluster.agents()),
            Self::AllControllers => plain(cluster.controllers()),
            Self::Everything => plain([cluster.controllers(), cluster.agents()].concat()),
        })
    }
}

/// Who leads. That nobody does, in a cluster that was whole just now, is a finding.
pub(super) async fn leader(cluster: &Cluster) -> Result<Node, ChaosError> {
    let deadline = clock::now() + FOUND;
    loop {
        if let Some(leader) = cluster.leader().await {
            return Ok(Node::Controller(leader));
        }
        if clock::now() >= deadline {
            let problem = format!("no controller leads for {FOUND:?}");
            return Err(ChaosError::Finding(problem));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The agent that holds most partitions; the same.
pub(super) async fn busiest(cluster: &Cluster) -> Result<Node, ChaosError> {
    let deadline = clock::now() + FOUND;
    loop {
        let holders = cluster.holders().await;
        let late = clock::now() >= deadline;
        match holders.map(|all| all.into_iter().max_by_key(|(_, _, leases)| *leases)) {
            Ok(Some((node, _, _))) => return Ok(node),
            Ok(None) if late => {
                let problem = format!("no agent has a session for {FOUND:?}");
                return Err(ChaosError::Finding(problem));
            }
            Err(error) if late => return Err(found(error)),
            Ok(None) | Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

pub(super) struct Kill {
    whom: Whom,
    victims: Vec<Node>,
}

impl Kill {
    pub(super) fn new(whom: Whom) -> Self {
        Self { whom, victims: Vec::new() }
    }
}

#[async_trait]
impl Fault for Kill {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        let mut told = Vec::new();
        for (node, role) in self.whom.pick(cluster, random).await? {
            let pid = cluster.kill(node)?;
            self.victims.push(node);
            told.push(describe(node, role, pid));
        }
        Ok(format!("killed {}", told.join(", ")))
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        let mut gone = !self.victims.is_empty();
        for node in &self.victims {
            gone &= !cluster.is_running(*node);
            cluster.start_process(*node)?;
        }
        let was = if gone { "was dead until then" } else { "was alive before" };
        Ok(Healed { detail: format!("started again, {was}"), effective: gone })
    }

    fn hit_leader(&self) -> Option<bool> {
        (!self.victims.is_empty()).then(|| self.whom.has_leader())
    }
}

pub(super) fn describe(node: Node, role: &str, pid: u32) -> String {
    let comma = if role.is_empty() { "" } else { ", " };
    format!("{node} ({role}{comma}pid {pid})")
}
