//! What operators do: restarts in turn, hand-overs.

use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;

use super::kill::leader;
use super::{Fault, Healed, found};
use crate::clock;
use crate::cluster::{Cluster, Node, admin};
use crate::error::ChaosError;
use crate::random::Random;

/// How long a process may take to stop, and the cluster to be whole again.
const STOPS: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_secs(60);

/// How often a hand-over is asked for.
const TRANSFERS: usize = 3;

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
            // One that has ended by itself is told of, and started.
            cluster.start_process(*node)?;
            cluster.signal(*node, Signal::SIGTERM)?;
            let code = cluster.exit(*node, STOPS).await.map_err(found)?;
            if code != 0 {
                let problem = format!("{node} was stopped and exited with {code}");
                return Err(ChaosError::Finding(problem));
            }
            cluster.start_process(*node)?;
            cluster.wait_until_whole(WHOLE).await.map_err(found)?;
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

/// How long the one who is to lead may take to be seen leading.
const LEADS: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct TransferLeader {
    /// Another one was seen leading.
    moved: bool,
}

#[async_trait]
impl Fault for TransferLeader {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        _: &mut Random,
    ) -> Result<String, ChaosError> {
        let before = leader(cluster).await?;
        let admin = admin(&cluster.access().direct)?;
        let mut tries = 1;
        loop {
            match admin.transfer_leader(None).await {
                Ok(id) => {
                    let after = other_leader(cluster, before).await;
                    self.moved = after.is_some();
                    let seen = after.map_or("seen leading: nobody else".to_owned(), |after| {
                        format!("seen leading: {after}")
                    });
                    return Ok(format!("from {before} to the controller with id {id}; {seen}"));
                }
                // Who is to lead may not be asked in time, and then the one before goes on.
                Err(_) if tries < TRANSFERS => tries += 1,
                Err(error) => {
                    let problem =
                        format!("{before} does not hand over, asked {tries} times: {error}");
                    return Err(ChaosError::Finding(problem));
                }
            }
        }
    }

    async fn heal(&mut self, _: &mut Cluster) -> Result<Healed, ChaosError> {
        Ok(Healed { detail: "nothing to undo".to_owned(), effective: self.moved })
    }
}

/// Who leads, if it is another one within some time.
async fn other_leader(cluster: &Cluster, before: Node) -> Option<Node> {
    let deadline = clock::now() + LEADS;
    loop {
        let leader = cluster.leader().await.map(Node::Controller);
        match leader.filter(|leader| *leader != before) {
            Some(leader) => return Some(leader),
            None if clock::now() >= deadline => return None,
            None => tokio::time::sleep(LOOK).await,
        }
    }
}
