//! Connections that are slow, broken, refused, or lead nowhere.

use std::time::Duration;

use async_trait::async_trait;

use super::kill::leader;
use super::{Fault, Healed};
use crate::cluster::{Cluster, Node, Way};
use crate::error::ChaosError;
use crate::random::Random;

/// How often connections are reset, and how long they then have, milliseconds.
const RESETS: usize = 5;
const BETWEEN: std::ops::Range<u64> = 100..900;

#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    DelayControllers,
    DelayAll,
    Reset,
    RefuseLeader,
    HalfOpen,
}

pub(super) struct Connections(Trouble);

impl Connections {
    pub(super) fn new(trouble: Trouble) -> Self {
        Self(trouble)
    }
}

#[async_trait]
impl Fault for Connections {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        let controllers = cluster.controllers();
        match self.0 {
            Trouble::DelayControllers => {
                let by = random.within(20..200);
                delay(cluster, pairs(&controllers, &controllers), by);
                Ok(format!("{by} ms each way between controllers"))
            }
            Trouble::DelayAll => {
                let by = random.within(5..50);
                delay(cluster, everything(cluster), by);
                Ok(format!("{by} ms each way everywhere"))
            }
            Trouble::Reset => {
                for _ in 0..RESETS {
                    cluster.links().set(everything(cluster), |rule| rule.cut += 1);
                    tokio::time::sleep(Duration::from_millis(random.within(BETWEEN))).await;
                }
                Ok(format!("all connections, {RESETS} times"))
            }
            Trouble::RefuseLeader => {
                let leader = leader(cluster).await?;
                let others = [controllers, cluster.agents(), vec![Node::Client]].concat();
                cluster.links().set(pairs(&others, &[leader]), |rule| rule.refuse = true);
                Ok(format!("connections to {leader} (the leader)"))
            }
            Trouble::HalfOpen => {
                let (agents, links) = (cluster.agents(), cluster.links());
                links.set(pairs(&agents, &controllers), |rule| rule.half_open = true);
                links.set(pairs(&[Node::Client], &agents), |rule| rule.half_open = true);
                Ok("agents to controllers, clients to agents".to_owned())
            }
        }
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        Ok(Healed::links(cluster.links().heal()))
    }
}

fn delay(cluster: &Cluster, links: Vec<(Node, Node)>, milliseconds: u64) {
    let late = Way::Late(Duration::from_millis(milliseconds));
    cluster.links().set(links, |rule| (rule.forward, rule.backward) = (late, late));
}

fn pairs(from: &[Node], to: &[Node]) -> Vec<(Node, Node)> {
    from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))).collect()
}

fn everything(cluster: &Cluster) -> Vec<(Node, Node)> {
    let served = [cluster.controllers(), cluster.agents()].concat();
    let askers = [served.clone(), vec![Node::Client]].concat();
    pairs(&askers, &[served, vec![Node::Store]].concat())
}
