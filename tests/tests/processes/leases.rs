//! How soon leases move when an agent dies, hangs, is stopped or joins, while records flow; and that no other lease
//! moves with them.
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_tests::{
    LocalCluster, Signal, Stopwatch, busy_share, in_bounds, one_at_a_time, signal, unless_paused,
    until,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::load::{CALL, Records, client, records};
use crate::promised::assert_exactly_once;

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: usize = 12;
const AGENTS: usize = 3;
const SHARE: usize = PARTITIONS / AGENTS;

// The bounds. An agent's silence is noticed after the TTL of 3 s, less the heartbeat that it may just have sent.
const AFTER_KILL: Duration = Duration::from_millis(1_500);
const SILENT_AT_LEAST: Duration = Duration::from_millis(2_500);
const AFTER_SILENCE: Duration = Duration::from_secs(5);
const AFTER_SIGTERM: Duration = Duration::from_secs(1);
const AFTER_JOINING: Duration = Duration::from_secs(1);

/// Upper bounds hold on a machine that has nothing else to do. If others use more than this share of it, before or after
/// the trial, they are so much wider.
const BUSY_SHARE: f64 = 0.25;
const BUSY_FACTOR: u32 = 3;

/// Who may write a partition, and in which epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: String,
    pub(crate) session: u64,
    pub(crate) epoch: u32,
}

/// By partition.
pub(crate) type Leases = BTreeMap<u32, Lease>;

/// Asks the controllers for the leases of the topic `t`.
pub(crate) struct Holders {
    runtime: Runtime,
    clients: Vec<MetadataClient<Channel>>,
}

impl Holders {
    pub(crate) fn of(cluster: &LocalCluster) -> Self {
        let runtime = Runtime::new().unwrap();
        let inside = runtime.enter();
        let clients = cluster.controllers().split(',').map(client).collect();
        drop(inside);
        Self { runtime, clients }
    }

    /// As of now, by a linearizable read of the first controller that answers.
    pub(crate) fn leases(&mut self) -> Leases {
        until("a controller tells the leases", PATIENCE, || {
            let answer = self.clients.iter_mut().find_map(|client| {
                let request = v1::DescribeTopicRequest {
                    topic: Some(v1::describe_topic_request::Topic::Name("t".into())),
                    linearizable: true,
                    min_applied: 0,
                };
                let call =
                    async { tokio::time::timeout(CALL, client.describe_topic(request)).await };
                self.runtime.block_on(call).ok()?.ok()
            });
            let lease = |p: v1::Partition| {
                (p.partition, Lease { address: p.address, session: p.holder, epoch: p.lease_epoch })
            };
            Some(answer?.into_inner().partitions.into_iter().map(lease).collect())
        })
    }

    /// The addresses of the agents that have a session.
    fn agents(&mut self) -> Vec<String> {
        until("a controller tells the agents", PATIENCE, || {
            let answer = self.clients.iter_mut().find_map(|client| {
                let request = v1::ListAgentsRequest { linearizable: true };
                let call = async { tokio::time::timeout(CALL, client.list_agents(request)).await };
                self.runtime.block_on(call).ok()?.ok()
            });
            Some(answer?.into_inner().agents.into_iter().map(|agent| agent.address).collect())
        })
    }

    /// Waits until these agents, and nobody else, hold the same number of leases each.
    pub(crate) fn shared_out(&mut self, cluster: &LocalCluster, agents: &[usize]) -> Leases {
        until("every agent has its share", PATIENCE, || {
            let leases = self.leases();
            let share = leases.len() / agents.len();
            let fair = agents.iter().all(|n| held_by(&leases, cluster, *n) == share);
            (fair && !leases.is_empty()).then_some(leases)
        })
    }

    /// Waits until every lease is held, none of them by agent `n`.
    fn moved_from(&mut self, cluster: &LocalCluster, n: usize) -> Leases {
        until("others hold the agent's leases", PATIENCE, || {
            let leases = self.leases();
            let held = leases.values().all(|lease| lease.session != 0);
            (held && held_by(&leases, cluster, n) == 0).then_some(leases)
        })
    }
}

fn held_by(leases: &Leases, cluster: &LocalCluster, n: usize) -> usize {
    let address = cluster.agent_address(n).to_string();
    leases.values().filter(|lease| lease.address == address).count()
}

/// How many leases have another holder. Each of them was granted once; the others are as they were.
fn moves(before: &Leases, after: &Leases) -> usize {
    let moved = before.iter().filter(|(partition, lease)| {
        let now = &after[*partition];
        if now.session == lease.session {
            assert_eq!(now, *lease, "partition {partition}, whose holder lives on");
            return false;
        }
        assert_eq!(now.epoch, lease.epoch + 1, "partition {partition} was granted once");
        true
    });
    moved.count()
}

/// Whether others use this machine. No cluster runs while that is asked.
fn is_busy() -> bool {
    let _alone = one_at_a_time();
    busy_share(Duration::from_millis(500)) > BUSY_SHARE
}

/// A cluster whose agents have a fair share each, with records flowing.
struct Trial {
    cluster: LocalCluster,
    holders: Holders,
    load: Records,
    before: Leases,
    busy: bool,
}

impl Trial {
    fn start() -> Self {
        let busy = is_busy();
        let cluster = LocalCluster::start(3, AGENTS);
        cluster.run(&["topic", "create", "t", "--partitions", &PARTITIONS.to_string()]).ok();
        let mut holders = Holders::of(&cluster);
        let all: Vec<usize> = (1..=AGENTS).collect();
        let before = holders.shared_out(&cluster, &all);
        let load = records(&cluster, "leases");
        load.flows();
        Self { cluster, holders, load, before, busy }
    }

    /// Waits until others hold what agent `n` had, and nothing else has moved.
    fn moved_from(&mut self, n: usize) {
        let after = self.holders.moved_from(&self.cluster, n);
        assert_eq!(moves(&self.before, &after), SHARE);
        self.before = after;
    }

    /// Nothing was lost. Holds what was measured against its bound, a wider one where others use the machine.
    fn end(self, what: &str, took: Duration, bound: Duration) -> Result<(), String> {
        let Self { cluster, load, busy, .. } = self;
        load.flows();
        let (sent, _) = load.acknowledged();
        assert_exactly_once(&cluster, &[&sent]);
        drop(cluster);
        let busy = is_busy() || busy;
        println!("{what}: {took:?}, at most {bound:?}{}", if busy { "; busy" } else { "" });
        let bound = if busy { bound * BUSY_FACTOR } else { bound };
        in_bounds(took <= bound, || format!("{what}: {took:?}, more than {bound:?}"))
    }
}

#[test]
fn the_leases_of_a_killed_agent_move_after_the_grace() {
    unless_paused(|| {
        let mut trial = Trial::start();
        let watch = Stopwatch::start();
        trial.cluster.kill_agent(AGENTS);
        trial.moved_from(AGENTS);
        let took = watch.elapsed();
        trial.end("from kill -9 of an agent to others holding its leases", took, AFTER_KILL)
    });
}

#[test]
fn the_leases_of_a_silent_agent_move_after_the_ttl_and_not_before() {
    unless_paused(|| {
        let mut trial = Trial::start();
        let watch = Stopwatch::start();
        trial.cluster.stop_agent(AGENTS);
        trial.moved_from(AGENTS);
        let took = watch.elapsed();
        // It finds its session ended, and comes back with another.
        trial.cluster.continue_agent(AGENTS);
        let all: Vec<usize> = (1..=AGENTS).collect();
        trial.holders.shared_out(&trial.cluster, &all);
        trial.end("from SIGSTOP of an agent to others holding its leases", took, AFTER_SILENCE)?;
        // Unless its last heartbeat before was a late one.
        in_bounds(took >= SILENT_AT_LEAST, || {
            format!("its leases were taken after {took:?}, before the TTL")
        })
    });
}

#[test]
fn an_agent_that_is_stopped_hands_its_leases_over() {
    unless_paused(|| {
        let mut trial = Trial::start();
        let watch = Stopwatch::start();
        signal(&json!(trial.cluster.agent_pid(AGENTS)), Signal::SIGTERM);
        trial.moved_from(AGENTS);
        let took = watch.elapsed();
        until("the agent ends", PATIENCE, || {
            trial.cluster.agent_log(AGENTS).contains("agent stopped").then_some(())
        });
        trial.end("from SIGTERM of an agent to others holding its leases", took, AFTER_SIGTERM)
    });
}

#[test]
fn an_agent_that_joins_gets_its_share_with_the_fewest_moves() {
    unless_paused(|| {
        let mut trial = Trial::start();
        trial.cluster.kill_agent(AGENTS);
        trial.moved_from(AGENTS);
        let address = trial.cluster.agent_address(AGENTS).to_string();
        trial.cluster.start_agent(AGENTS);
        // Since it was last seen to have none.
        let mut watch = Stopwatch::start();
        until("it has its session", PATIENCE, || {
            let now = Stopwatch::start();
            let joined = trial.holders.agents().contains(&address);
            if !joined {
                watch = now;
            }
            joined.then_some(())
        });
        let all: Vec<usize> = (1..=AGENTS).collect();
        let after = trial.holders.shared_out(&trial.cluster, &all);
        let took = watch.elapsed();
        assert_eq!(moves(&trial.before, &after), SHARE, "the fewest that give it its share");
        trial.end("from a joining agent's session to its share of the leases", took, AFTER_JOINING)
    });
}
