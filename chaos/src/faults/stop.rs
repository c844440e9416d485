//! SIGSTOP, and SIGCONT when it is over: to itself, no time has passed.

use async_trait::async_trait;
use nix::sys::signal::Signal;

use super::kill::{Whom, describe};
use super::{Fault, Healed};
use crate::cluster::{Cluster, Node};
use crate::error::ChaosError;
use crate::random::Random;

pub(super) struct Stop {
    whom: Whom,
    stopped: Vec<Node>,
}

impl Stop {
    pub(super) fn new(whom: Whom) -> Self {
        Self { whom, stopped: Vec::new() }
    }
}

#[async_trait]
impl Fault for Stop {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        let mut told = Vec::new();
        for (node, role) in self.whom.pick(cluster, random).await? {
            let pid = cluster.signal(node, Signal::SIGSTOP)?;
            self.stopped.push(node);
            told.push(describe(node, role, pid));
        }
        Ok(format!("stopped {}", told.join(", ")))
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        let stood = !self.stopped.is_empty() && self.stopped.iter().all(|n| cluster.is_stopped(*n));
        for node in &self.stopped {
            cluster.signal(*node, Signal::SIGCONT)?;
        }
        let was = if stood { "stood still until then" } else { "did not stand still" };
        Ok(Healed { detail: format!("goes on, {was}"), effective: stood })
    }

    fn hit_leader(&self) -> Option<bool> {
        (!self.stopped.is_empty()).then(|| self.whom.has_leader())
    }
}
