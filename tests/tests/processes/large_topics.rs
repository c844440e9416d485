//! Topics of more partitions than one entry of the log may make or remove: it goes in chunks, and where a leader that
//! died had stopped, the next one goes on.
use std::ops::RangeBounds;
use std::time::Duration;

use streamhouse_tests::{LocalCluster, Running, Stopwatch, http_get, until};

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: u64 = 10_000;
/// So many topics are made and removed in order to strike amid both.
const TOPICS: usize = 10;

/// What controller `n` says of its applied state.
fn gauge(cluster: &LocalCluster, n: usize, name: &str) -> Option<u64> {
    let (status, text) = http_get(cluster.http_address(n), "/metrics")?;
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok();
    let value = text.lines().find_map(value).filter(|_| status == 200)?;
    Some(value as u64)
}

/// How many partitions have a holder. These come and go by chunks, unlike the count of partitions, which is that of
/// the topics' sizes.
fn leases(cluster: &LocalCluster, n: usize) -> Option<u64> {
    gauge(cluster, n, "streamhouse_controller_leases")
}

/// A leader's death amid chunks.
struct Struck {
    leader: usize,
    /// Leases when it was asked last.
    last_word: u64,
    /// The command had been answered by then.
    answered: bool,
    /// Leases at those that live on, before another one leads.
    left: Vec<u64>,
}

impl Struck {
    /// Runs `command`, and kills the leader as soon as `place` is where its leases are.
    fn amid(
        cluster: &mut LocalCluster,
        command: &[&str],
        place: impl RangeBounds<u64>,
    ) -> (Self, Running) {
        let leader = cluster.leader();
        let mut running = cluster.spawn_command(command);
        let watch = Stopwatch::start();
        // Without a pause: it is a matter of milliseconds.
        let last_word = loop {
            match leases(cluster, leader).filter(|now| place.contains(now)) {
                Some(now) => break now,
                None => assert!(watch.elapsed() < PATIENCE, "{command:?} does not come so far"),
            }
        };
        cluster.kill_controller(leader);
        let answered = running.child.try_wait().unwrap().is_some();
        let others = (1..=cluster.controller_count()).filter(|n| *n != leader);
        let left = others.map(|n| leases(cluster, n).expect("the others live")).collect();
        (Self { leader, last_word, answered, left }, running)
    }

    /// Some chunks had been applied, and at nobody all: there was something to go on with, which is not at its `end`.
    fn is_midway(&self, end: u64) -> bool {
        (1..PARTITIONS).contains(&self.last_word) && self.left.iter().all(|left| *left != end)
    }

    fn tell(&self, what: &str, midway: bool) {
        let Self { leader, last_word, answered, left } = self;
        let place = if midway { "amid" } else { "beside" };
        println!(
            "leader {leader} died {place} the chunks of {what}: {last_word} leases at it, {left:?} at the others; \
             answered: {answered}"
        );
    }
}

/// The leader dies while the topic is being made. Whether that was amid the chunks.
fn is_made_by_two(cluster: &mut LocalCluster) -> bool {
    let size = PARTITIONS.to_string();
    let (struck, creating) =
        Struck::amid(cluster, &["topic", "create", "large", "--partitions", &size], 3_000..);
    let midway = struck.is_midway(PARTITIONS) && !struck.answered;
    struck.tell("creation", midway);
    // Its client hears of success all the same, and only once all of it is there.
    creating.finish().ok();
    let partitions = cluster.partitions("large");
    assert_eq!(partitions.len() as u64, PARTITIONS);
    assert!(partitions.iter().zip(0_u64..).all(|(p, number)| p["partition"] == number));
    cluster.start_controller(struck.leader);
    until("every partition has its lease, at every controller", PATIENCE, || {
        let all = (1..=3).all(|n| leases(cluster, n) == Some(PARTITIONS));
        all.then_some(())
    });
    midway
}

/// The leader dies while the topic is being removed. Whether that was amid the chunks.
fn is_removed_by_two(cluster: &mut LocalCluster) -> bool {
    let (struck, deleting) = Struck::amid(cluster, &["topic", "delete", "large"], ..=7_000);
    let midway = struck.is_midway(0);
    struck.tell("deletion", midway);
    // Its name is free at once; what is left of it goes in the background.
    deleting.finish().ok();
    cluster.start_controller(struck.leader);
    until("nothing of it is left, at any controller", PATIENCE, || {
        let gone = |n, name: &str| gauge(cluster, n, name) == Some(0);
        let gone = |n| {
            ["leases", "partitions", "topics"]
                .iter()
                .all(|what| gone(n, &format!("streamhouse_controller_{what}")))
        };
        (1..=3).all(gone).then_some(())
    });
    midway
}

#[test]
fn ten_thousand_partitions_are_made_and_removed_across_leaders() {
    let mut cluster = LocalCluster::start(3, 1);
    until("the agent has its session", PATIENCE, || {
        let all = (1..=3).all(|n| gauge(&cluster, n, "streamhouse_controller_sessions") == Some(1));
        all.then_some(())
    });
    let (mut made, mut removed) = (0, 0);
    for topic in 1.. {
        made += usize::from(is_made_by_two(&mut cluster));
        removed += usize::from(is_removed_by_two(&mut cluster));
        if made > 0 && removed > 0 {
            println!("of {topic} topics {made} were made and {removed} removed by two leaders");
            break;
        }
        assert!(
            topic < TOPICS,
            "no leader died amid chunks: of {topic} topics it struck {made} while they were made and {removed} while \
             they were removed"
        );
    }
    cluster.run(&["topic", "create", "large", "--partitions", "3"]).ok();
    assert_eq!(cluster.partitions("large").len(), 3);
}
