//! One that is killed again as soon as it is up.

use std::time::Duration;

use async_trait::async_trait;

use super::kill::{busiest, describe, leader};
use super::{Fault, Healed};
use crate::cluster::{Cluster, Node};
use crate::error::ChaosError;
use crate::random::Random;

const TIMES: usize = 5;
/// How long it may run in between, milliseconds.
const UP: std::ops::Range<u64> = 100..1_200;

pub(super) struct CrashLoop {
    controllers: bool,
    victims: Vec<Node>,
}

impl CrashLoop {
    pub(super) fn of_controllers() -> Self {
        Self { controllers: true, victims: Vec::new() }
    }

    pub(super) fn of_agents() -> Self {
        Self { controllers: false, victims: Vec::new() }
    }

    /// Whoever leads now, or the agent of the first time; while nobody leads, the one before.
    async fn victim(&self, cluster: &Cluster) -> Result<Node, ChaosError> {
        match (self.controllers, self.victims.last()) {
            (true, Some(last)) => Ok(cluster.leader().await.map_or(*last, Node::Controller)),
            (true, None) => leader(cluster).await,
            (false, Some(last)) => Ok(*last),
            (false, None) => busiest(cluster).await,
        }
    }
}

#[async_trait]
impl Fault for CrashLoop {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        let mut told = Vec::new();
        for _ in 0..TIMES {
            let victim = self.victim(cluster).await?;
            let pid = cluster.kill(victim)?;
            self.victims.push(victim);
            told.push(describe(victim, "", pid));
            cluster.start_process(victim)?;
            tokio::time::sleep(Duration::from_millis(random.within(UP))).await;
        }
        Ok(format!("killed {}", told.join(", ")))
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        for node in &self.victims {
            cluster.start_process(*node)?;
        }
        Ok(Healed::done("left alone"))
    }
}
