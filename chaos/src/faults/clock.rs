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
    victims: Vec<Node>,
}

#[async_trait]
impl Fault for Jump {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        self.victims = match random.below(4) {
            0 => vec![leader(cluster).await?],
            1 => cluster.controllers(),
            2 => vec![busiest(cluster).await?],
            // Each by a jump of its own.
            _ => [cluster.controllers(), cluster.agents()].concat(),
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
        for node in &self.victims {
            let jumped = cluster.clock(*node).jump(0);
            jumped.map_err(ChaosError::io(format!("the clock of {node}")))?;
        }
        Ok(Healed::done("all clocks are right"))
    }
}
