//! Links on which nothing passes, as behind a broken cable: both ways, or one.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::kill::{busiest, leader};
use super::{Fault, Healed};
use crate::cluster::{Cluster, Node, Way};
use crate::error::ChaosError;
use crate::random::Random;

#[derive(Debug, Clone, Copy)]
pub(super) enum Split {
    IsolateLeader,
    IsolateFollower,
    MinorityLeader,
    Ring,
    MuteLeader,
    DeafLeader,
    AgentControllers,
    AgentStore,
    ClientStore,
    ClientAgents,
}

pub(super) struct Partition(Split);

impl Partition {
    pub(super) fn new(split: Split) -> Self {
        Self(split)
    }
}

/// Ways from one to another, however they are connected.
type Ways = BTreeSet<(Node, Node)>;

#[async_trait]
impl Fault for Partition {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        let (told, ways) = self.choose(cluster, random).await?;
        for (from, to) in ways {
            let links = cluster.links();
            links.set([(from, to)], |rule| rule.forward = Way::Silent);
            links.set([(to, from)], |rule| rule.backward = Way::Silent);
        }
        Ok(told)
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        Ok(Healed::links(cluster.links().heal()))
    }
}

impl Partition {
    async fn choose(
        &self,
        cluster: &Cluster,
        random: &mut Random,
    ) -> Result<(String, Ways), ChaosError> {
        let (controllers, agents) = (cluster.controllers(), cluster.agents());
        let everybody = [&controllers[..], &agents, &[Node::Client]].concat();
        Ok(match self.0 {
            Split::IsolateLeader => {
                let leader = leader(cluster).await?;
                (format!("{leader} (the leader) from everybody"), between(&[leader], &everybody))
            }
            Split::IsolateFollower => {
                let follower = other(&controllers, leader(cluster).await?, random);
                (
                    format!("{follower} (a follower) from everybody"),
                    between(&[follower], &everybody),
                )
            }
            Split::MinorityLeader => {
                let leader = leader(cluster).await?;
                let (few, most) = minority(&controllers, leader, random);
                (format!("{} from {}", list(&few), list(&most)), between(&few, &most))
            }
            Split::Ring => (format!("a ring of {}", list(&controllers)), ring(&controllers)),
            Split::MuteLeader | Split::DeafLeader => {
                let leader = leader(cluster).await?;
                let mut others = controllers;
                others.retain(|node| *node != leader);
                if matches!(self.0, Split::MuteLeader) {
                    (
                        format!("what {leader} (the leader) says to controllers"),
                        ways(&[leader], &others),
                    )
                } else {
                    (
                        format!("what controllers say to {leader} (the leader)"),
                        ways(&others, &[leader]),
                    )
                }
            }
            Split::AgentControllers => {
                let agent = busiest(cluster).await?;
                (format!("{agent} from all controllers"), between(&[agent], &controllers))
            }
            Split::AgentStore => {
                let agent = busiest(cluster).await?;
                (format!("{agent} from the store"), between(&[agent], &[Node::Store]))
            }
            Split::ClientStore => {
                ("clients from the store".into(), between(&[Node::Client], &[Node::Store]))
            }
            Split::ClientAgents => {
                (format!("clients from {}", list(&agents)), between(&[Node::Client], &agents))
            }
        })
    }
}

fn list(nodes: &[Node]) -> String {
    nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(", ")
}

fn ways(from: &[Node], to: &[Node]) -> Ways {
    let all = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
    all.filter(|(from, to)| from != to).collect()
}

fn between(some: &[Node], others: &[Node]) -> Ways {
    ways(some, others).union(&ways(others, some)).copied().collect()
}

fn other(nodes: &[Node], than: Node, random: &mut Random) -> Node {
    let others: Vec<_> = nodes.iter().copied().filter(|node| *node != than).collect();
    random.choose(&others).copied().unwrap_or(than)
}

/// The largest minority that holds `with`, and the rest.
fn minority(nodes: &[Node], with: Node, random: &mut Random) -> (Vec<Node>, Vec<Node>) {
    let mut others: Vec<_> = nodes.iter().copied().filter(|node| *node != with).collect();
    random.shuffle(&mut others);
    let most = others.split_off(((nodes.len() - 1) / 2).saturating_sub(1));
    (std::iter::once(with).chain(others).collect(), most)
}

fn ring(nodes: &[Node]) -> Ways {
    let count = nodes.len();
    // Three in a ring would all be neighbours: the first and the last are none.
    let neighbours = |a: usize, b: usize| {
        let distance = a.abs_diff(b);
        distance == 1 || (count > 3 && distance == count - 1)
    };
    let apart = |(a, b): &(usize, usize)| a != b && !neighbours(*a, *b);
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    pairs.filter(apart).map(|(a, b)| (nodes[a], nodes[b])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controllers(count: usize) -> Vec<Node> {
        (1..=count).map(Node::Controller).collect()
    }

    #[test]
    fn a_minority_with_the_leader_is_as_large_as_can_be() {
        for (count, few) in [(3, 1), (4, 1), (5, 2)] {
            let all = controllers(count);
            let (small, large) = minority(&all, all[0], &mut Random::new(1));
            assert_eq!((small.len(), large.len(), small[0]), (few, count - few, all[0]));
        }
    }

    #[test]
    fn in_a_ring_each_has_two_neighbours() {
        // Of five each misses two others; of three the ends miss each other.
        assert_eq!(ring(&controllers(5)).len(), 5 * 2);
        let ends = [(1, 3), (3, 1)].map(|(a, b)| (Node::Controller(a), Node::Controller(b)));
        assert_eq!(ring(&controllers(3)), ends.into());
    }
}
