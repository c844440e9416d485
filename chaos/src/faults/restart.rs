//! What operators do: restarts in turn, hand-overs.

use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;

use super::kill::leader;
use super::{Fault, Healed};
use crate::cluster::{Cluster, admin};
use crate::error::ChaosError;
use crate::random::Random;

/// How long a process may take to stop, and the cluster to be whole again.
const STOPS: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_secs(60);

pub(super) struct RollingRestart;

#[async_trait]
impl Fault for RollingRestart {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        let mut nodes = [cluster.controllers(), cluster.agents()].concat();
        random.shuffle(&mut nodes);
        for node in &nodes {
            cluster.signal(*node, Signal::SIGTERM)?;
            let code = cluster.exit(*node, STOPS).await?;
            if code != 0 {
                let problem = format!("{node} was stopped and exited with {code}");
                return Err(ChaosError::Cluster(problem));
            }
            cluster.start_process(*node)?;
            cluster.wait_until_whole(WHOLE).await?;
        }
        let names: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        Ok(names.join(", "))
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        for node in [cluster.controllers(), cluster.agents()].concat() {
            cluster.start_process(node)?;
        }
        Ok(Healed::done("all run"))
    }
}

pub(super) struct TransferLeader;

#[async_trait]
impl Fault for TransferLeader {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        _: &mut Random,
    ) -> Result<String, ChaosError> {
        let before = leader(cluster).await?;
        let after = admin(&cluster.access().direct)?.transfer_leader(None).await;
        let after = after.map_err(|error| ChaosError::Cluster(error.to_string()))?;
        Ok(format!("from {before} to the controller with id {after}"))
    }

    async fn heal(&mut self, _: &mut Cluster) -> Result<Healed, ChaosError> {
        Ok(Healed::done("nothing to undo"))
    }
}
