//! Faults of the object store, for agents and clients, for some of their requests or for all.

use async_trait::async_trait;

use super::{Fault, Healed};
use crate::cluster::{Cluster, Node, StoreFault};
use crate::error::ChaosError;
use crate::random::Random;

pub(super) struct StoreTrouble(StoreFault);

impl StoreTrouble {
    pub(super) fn new(fault: StoreFault) -> Self {
        Self(fault)
    }
}

#[async_trait]
impl Fault for StoreTrouble {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        let percent = *random.choose(&[20, 50, 100]).unwrap_or(&100);
        let agents = cluster.agents();
        // Reads are the clients' only.
        let reads = matches!(self.0, StoreFault::Truncated | StoreFault::BitFlip);
        let (nodes, who) = match random.below(3) {
            _ if reads => (vec![Node::Client], "clients".to_owned()),
            0 => ([agents, vec![Node::Client]].concat(), "agents and clients".to_owned()),
            1 => (agents, "all agents".to_owned()),
            _ => {
                // One that holds nothing asks for nothing.
                let holders = cluster.holders().await.unwrap_or_default().into_iter();
                let holders = holders.filter(|(_, _, leases)| *leases > 0);
                let holders: Vec<_> = holders.map(|(agent, _, _)| agent).collect();
                let agent = random.choose(&holders).or(agents.first()).copied();
                let agent = agent.unwrap_or(Node::Client);
                (vec![agent], agent.to_string())
            }
        };
        cluster.bucket().fail(&nodes, self.0, percent);
        Ok(format!("{percent} % of the requests of {who}"))
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        let struck = cluster.heal_store();
        // A fault that no request had was none.
        Ok(Healed { detail: format!("{struck} requests had it"), effective: struck > 0 })
    }
}
