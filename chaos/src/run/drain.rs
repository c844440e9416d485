//! After healing: every partition is read to its end, then written and read once more.

use std::collections::BTreeMap;
use std::time::Duration;

use streamhouse_client::{Consumer, TopicPartition};

use crate::clock;
use crate::error::ChaosError;
use crate::history::{Operation, Outcome, Partition};
use crate::workload::{AGAIN, Kind, Producer, World};

/// How long all partitions together may take to be read from the beginning.
const DRAIN: Duration = Duration::from_secs(300);
/// How long a fresh record may take to be written, and then to be read.
const PROBE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(500);

/// What came of it.
pub struct Drained {
    /// What was not as it must be, beside what the history says.
    pub problems: Vec<String>,
}

/// Reads every partition to its end, then writes and reads each once more.
pub async fn drain_and_probe(world: &World) -> Result<Drained, ChaosError> {
    let mut consumer = build(world).await?;
    let process = world.start("drain", false);
    let mut problems = Vec::new();
    let ends = ends(&consumer).await?;
    if let Some(problem) = read_to(world, &mut consumer, process, &ends, DRAIN).await {
        problems.push(format!("the drain: {problem}"));
    } else {
        world.recorder.record(process, Outcome::Ok, Operation::Drained);
    }
    let mut producer = producer(world).await?;
    for at in world.partitions() {
        world.recorder.record(process, Outcome::Invoke, probe(at, ""));
        producer.send(at).await;
    }
    // Whatever was not acknowledged is not in the log, or is behind these ends.
    producer.finish().await;
    let after = self::ends(&consumer).await?;
    for at in world.partitions() {
        let named = TopicPartition::new(world.name(at).clone(), at.partition);
        let written = after.get(&named) > ends.get(&named);
        let only = BTreeMap::from_iter(after.get_key_value(&named).map(|(k, v)| (k.clone(), *v)));
        let unread = read_to(world, &mut consumer, process, &only, PROBE).await;
        let problem = match unread {
            _ if !written => Some("nothing could be written".to_owned()),
            unread => unread,
        };
        let outcome = if problem.is_some() { Outcome::Info } else { Outcome::Ok };
        world.recorder.record(process, outcome, probe(at, &problem.unwrap_or_default()));
    }
    Ok(Drained { problems })
}

fn probe(at: Partition, problem: &str) -> Operation {
    Operation::Probe { at, problem: problem.to_owned() }
}

async fn build(world: &World) -> Result<Consumer, ChaosError> {
    let built = world.assigned().build().await;
    built.map_err(|error| ChaosError::Cluster(format!("a consumer after healing: {error}")))
}

async fn producer(world: &World) -> Result<Producer, ChaosError> {
    let built = Producer::build(world, Kind::Idempotent, world.random.fork(99)).await;
    built.ok_or_else(|| ChaosError::Cluster("no producer can be built after healing".to_owned()))
}

async fn ends(consumer: &Consumer) -> Result<BTreeMap<TopicPartition, u64>, ChaosError> {
    let ends = consumer.end_offsets().await;
    ends.map_err(|error| ChaosError::Cluster(format!("the log's ends after healing: {error}")))
}

/// Reads until these offsets were reached; what kept it from that.
async fn read_to(
    world: &World,
    consumer: &mut Consumer,
    process: u32,
    ends: &BTreeMap<TopicPartition, u64>,
    patience: Duration,
) -> Option<String> {
    let deadline = clock::now() + patience;
    loop {
        let positions = consumer.positions();
        let short = ends.iter().find(|(at, end)| positions.get(at).is_none_or(|now| now < end));
        let (at, end) = short?;
        let stands = format!("{at} stands at {:?} of {end}", positions.get(at));
        let problem = match consumer.poll(POLL).await {
            Ok(records) => {
                let reads = world.reads(records);
                if !reads.is_empty() {
                    world.recorder.record(process, Outcome::Ok, Operation::Drain { reads });
                }
                None
            }
            Err(error) => {
                world.poll_failed(process, &error);
                tokio::time::sleep(AGAIN).await;
                Some(error.to_string())
            }
        };
        if clock::now() >= deadline {
            let why = problem.unwrap_or_else(|| "no more records came".to_owned());
            return Some(format!("{stands} after {patience:?}: {why}"));
        }
    }
}
