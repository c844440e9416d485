//! Wall clocks that jump, and jump back when it is over. Monotonic ones go on (CLOCK).

use async_trait::async_trait;

use super::kill::{busiest, leader};
use super::{Fault, Healed};
use crate::cluster::{Cluster, Node};
use crate::disk::Clock;
use crate::error::ChaosError;
use crate::random::Random;

const SECONDS: [i64; 6] = [-3_600, -60, -5, 5, 60, 3_600];

#[derive(Default)]
pub(super) struct Jump {
    leader: bool,
    victims: Vec<Node>,
}

#[async_trait]
impl Fault for Jump {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        self.victims = match (self.leader, random.below(3)) {
            (true, 0) => vec![leader(cluster).await?],
            (true, 1) => cluster.controllers(),
            // Each by a jump of its own.
            (true, _) => [cluster.controllers(), cluster.agents()].concat(),
            (false, _) => vec![busiest(cluster).await?],
        };
        let mut told = Vec::new();
        for node in &self.victims {
            let seconds = *random.choose(&SECONDS).unwrap_or(&60);
            if !cluster.pid(*node).is_some_and(Clock::is_that_of) {
                return Err(ChaosError::Harness(format!("{node} has a clock that cannot be set")));
            }
            let jumped = cluster.clock(*node).jump(seconds);
            jumped.map_err(ChaosError::io(format!("the clock of {node}")))?;
            told.push(format!("{node} {seconds:+} s"));
        }
        Ok(told.join(", "))
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        let mut noticed = 0;
        for node in &self.victims {
            let clock = cluster.clock(*node);
            noticed += usize::from(clock.struck() > 0);
            clock.jump(0).map_err(ChaosError::io(format!("the clock of {node}")))?;
        }
        let detail = format!("all clocks are right; {noticed} processes asked for the time");
        Ok(Healed { detail, effective: noticed > 0 })
    }

    fn aim(&mut self, leader: bool) {
        self.leader = leader;
    }

    fn hit_leader(&self) -> Option<bool> {
        (!self.victims.is_empty()).then_some(self.leader)
    }
}
