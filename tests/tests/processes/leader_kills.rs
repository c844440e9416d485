//! Leaders die again and again, and now and then an agent with them: the dead agent's leases move in time, nobody who
//! lives loses one, and a producer loses nothing.
//!
//! `STREAMHOUSE_KILLS_SECONDS` says for how long leaders are killed, on a machine that is there for this test alone.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use streamhouse_tests::{LocalCluster, Stopwatch, in_bounds, unless_paused, until};

use crate::promised::{Load, Sent, assert_exactly_once};

const PATIENCE: Duration = Duration::from_secs(60);
/// From one leader's death to the next one's.
const EVERY: Duration = Duration::from_secs(3);
/// What a round may take where nothing else uses the machine, the search for the leader included.
const ROUND: Duration = Duration::from_millis(3_750);
/// From an agent's death to the move of its last lease.
const MOVED: Duration = Duration::from_secs(6);
/// An agent dies in every so many rounds.
const AGENT_EVERY: usize = 4;
const AGENTS: usize = 3;
const PARTITIONS: usize = 12;

/// For how long leaders are killed, if that was asked for.
fn asked() -> Option<Duration> {
    let seconds = std::env::var("STREAMHOUSE_KILLS_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap()))
}

fn kills() -> Duration {
    asked().unwrap_or(Duration::from_secs(18))
}

/// Who may write a partition: the holder's address and session, and the epoch.
type Lease = (String, Option<u64>, u64);
type Leases = BTreeMap<u64, Lease>;

/// The leases of all partitions; nothing if nobody tells.
fn leases(cluster: &LocalCluster) -> Option<Leases> {
    let described = cluster.run(&["topic", "describe", "t", "--output", "json"]);
    let described = (described.code == Some(0)).then(|| described.json())?;
    let partitions = described["partitions"].as_array()?;
    let leases = partitions.iter().map(|p| {
        let address = p["address"].as_str().unwrap_or_default().to_owned();
        let epoch = p["lease_epoch"].as_u64().unwrap();
        (p["partition"].as_u64().unwrap(), (address, p["holder"].as_u64(), epoch))
    });
    Some(leases.collect()).filter(|leases: &Leases| leases.len() == PARTITIONS)
}

/// Every agent holds as many as any other.
fn is_fair(cluster: &LocalCluster, leases: &Leases) -> bool {
    (1..=AGENTS).all(|n| {
        let address = cluster.agent_address(n).to_string();
        let held = leases.values().filter(|(holder, ..)| *holder == address);
        held.count() == PARTITIONS / AGENTS
    })
}

/// How the agents are.
enum Agents {
    /// All live, with these leases.
    Whole(Leases),
    /// This one died, or hangs, for so long; the leases before.
    Dead(usize, Death, Stopwatch, Leases),
    /// This one was started again, or goes on; the leases before.
    Back(usize, Leases),
}

/// How an agent dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    Killed,
    /// Its streams stay open, and nothing comes.
    Stopped,
}

impl Agents {
    /// Holds what is so now against what was before.
    fn look(&mut self, cluster: &mut LocalCluster, took: &mut Vec<Duration>) {
        let Some(now) = leases(cluster) else { return };
        match self {
            Self::Whole(before) => assert_eq!(now, *before, "nobody died, and leases changed"),
            Self::Dead(n, death, died, before) => {
                let dead = cluster.agent_address(*n).to_string();
                for (partition, lease) in before.iter().filter(|(_, lease)| lease.0 != dead) {
                    assert_eq!(&now[partition], lease, "partition {partition} of a living agent");
                }
                if now.values().any(|(holder, ..)| *holder == dead || holder.is_empty()) {
                    return;
                }
                let moved = died.elapsed();
                println!("agent {n} was {death:?}: its leases moved within {moved:?}");
                took.push(moved);
                match death {
                    Death::Killed => cluster.start_agent(*n),
                    Death::Stopped => cluster.continue_agent(*n),
                }
                *self = Self::Back(*n, now);
            }
            Self::Back(n, before) => {
                // It takes its share: from the others to it, and nothing else moves.
                let address = cluster.agent_address(*n).to_string();
                for (partition, lease) in &now {
                    let given = lease.0 == address || lease.0.is_empty();
                    let was = &before[partition];
                    assert!(given || lease == was, "partition {partition}: {was:?}, now {lease:?}");
                }
                if is_fair(cluster, &now) {
                    *self = Self::Whole(now);
                }
            }
        }
    }
}

/// A producer that writes all the while.
struct Background {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sent>>,
}

impl Background {
    fn start(cluster: &LocalCluster) -> Self {
        const AT_ONCE: usize = 20;
        const PACE: Duration = Duration::from_millis(50);
        let mut load = Load::start(cluster, "background", None);
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("producer".into()).spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                load.feed(AT_ONCE);
                thread::sleep(PACE);
            }
            load.acknowledged()
        });
        Self { stop, thread: thread.unwrap() }
    }

    /// All that was sent, every record of it acknowledged.
    fn stop(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// The leader of a later term than `last`, and its term.
fn next_leader(cluster: &LocalCluster, last: u64) -> (usize, u64) {
    until("another term has its leader", PATIENCE, || {
        let status = cluster.try_status()?;
        let controllers = status["controllers"].as_array()?;
        let leader = controllers.iter().find(|c| c["role"] == "leader")?;
        let term = leader["term"].as_u64().filter(|term| *term > last)?;
        Some((leader["id"].as_u64()? as usize, term))
    })
}

#[test]
fn leaders_die_again_and_again_and_leases_move_only_from_the_dead() {
    unless_paused(leaders_die);
}

/// Ends with a dead agent's leases that moved late. What must hold of leases and records is asserted.
fn leaders_die() -> Result<(), String> {
    let mut cluster = LocalCluster::start(3, AGENTS);
    cluster.run(&["topic", "create", "t", "--partitions", &PARTITIONS.to_string()]).ok();
    let before = until("every agent has its share", PATIENCE, || {
        leases(&cluster).filter(|now| is_fair(&cluster, now))
    });
    let mut agents = Agents::Whole(before);
    let producer = Background::start(&cluster);
    let watch = Stopwatch::start();
    // When the agent's turn comes while another one is not whole again yet, it waits for the next round.
    let (mut rounds, mut deaths, mut due, mut last_term) = (0, 0, 0, 0);
    let mut took = Vec::new();
    while watch.elapsed() < kills() || !matches!(agents, Agents::Whole(_)) {
        let round = Stopwatch::start();
        // A later term: who was killed did lead.
        let (leader, term) = next_leader(&cluster, last_term);
        last_term = term;
        if let Agents::Whole(before) = &agents
            && rounds >= due
            && watch.elapsed() < kills()
        {
            // It dies together with the leader.
            let n = 1 + deaths % AGENTS;
            let death = if deaths % 2 == 0 { Death::Killed } else { Death::Stopped };
            match death {
                Death::Killed => cluster.kill_agent(n),
                Death::Stopped => cluster.stop_agent(n),
            }
            agents = Agents::Dead(n, death, Stopwatch::start(), before.clone());
            (deaths, due) = (deaths + 1, due + AGENT_EVERY);
        }
        cluster.kill_controller(leader);
        cluster.start_controller(leader);
        rounds += 1;
        until("the round is over", PATIENCE, || {
            agents.look(&mut cluster, &mut took);
            (round.elapsed() >= EVERY).then_some(())
        });
        assert!(watch.elapsed() < kills() + PATIENCE, "the agents are not whole again");
    }
    let lasted = watch.elapsed();
    let sent = producer.stop();
    let longest = took.iter().max().unwrap();
    println!(
        "{rounds} leaders and {deaths} agents killed in {lasted:?}; a dead agent's leases moved within {longest:?}; \
         {} records acknowledged meanwhile",
        sent.len()
    );
    if asked().is_some() {
        assert!(ROUND * rounds as u32 >= lasted, "{rounds} rounds in {lasted:?}");
    }
    // The last one whose turn came may not have had the time.
    assert!(deaths >= rounds / (AGENT_EVERY + 1), "{deaths} agents died in {rounds} rounds");
    assert_eq!(took.len(), deaths);
    assert_exactly_once(&cluster, &[&sent]);
    in_bounds(*longest < MOVED, || format!("a dead agent's leases moved after {longest:?}"))
}
