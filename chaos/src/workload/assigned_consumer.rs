//! Consumers of all partitions without a group: they read on, seek back, and are built anew.

use std::collections::BTreeMap;
use std::time::Duration;

use streamhouse_client::{Consumer, TopicPartition};

use super::{AGAIN, World};
use crate::clock;
use crate::error::ChaosError;
use crate::history::{Operation, Outcome};
use crate::random::Random;

const CLIENT: &str = "assigned consumer";
const POLL: Duration = Duration::from_millis(500);
/// Between two changes of where it reads, in seconds.
const STAY: std::ops::Range<u64> = 5..20;
/// How far it goes back.
const BACK: u64 = 300;

type Positions = BTreeMap<TopicPartition, u64>;

pub(super) async fn run(world: World) -> Result<(), ChaosError> {
    let mut random = world.random.clone();
    let mut positions = Positions::new();
    let mut last = None;
    while !world.stop.is_cancelled() {
        let Ok(consumer) = world.assigned().build().await else {
            world.pause(AGAIN).await;
            continue;
        };
        let process = world.start_after(CLIENT, false, last);
        last = Some(process);
        positions = live(&world, consumer, process, &mut random, &positions).await?;
    }
    Ok(())
}

/// Reads for some time, from a little before where the one before it ended; where it ended itself.
async fn live(
    world: &World,
    mut consumer: Consumer,
    process: u32,
    random: &mut Random,
    positions: &Positions,
) -> Result<Positions, ChaosError> {
    // It begins with the first record, unless it is told to begin elsewhere.
    for at in world.partitions() {
        world.recorder.record(process, Outcome::Ok, Operation::Seek { at, offset: 0 });
    }
    for (at, position) in positions {
        seek(world, &mut consumer, process, at, position.saturating_sub(random.below(BACK)))?;
    }
    for _ in 0..random.within(1..5) {
        read(world, &mut consumer, process, Duration::from_secs(random.within(STAY))).await;
        if world.stop.is_cancelled() {
            break;
        }
        let all: Vec<_> = consumer.positions().into_iter().collect();
        if let Some((at, position)) = random.choose(&all) {
            seek(world, &mut consumer, process, at, position.saturating_sub(random.below(BACK)))?;
        }
    }
    Ok(consumer.positions())
}

fn seek(
    world: &World,
    consumer: &mut Consumer,
    process: u32,
    named: &TopicPartition,
    offset: u64,
) -> Result<(), ChaosError> {
    let sought = consumer.seek(&named.topic, named.partition, offset);
    sought.map_err(|error| ChaosError::Harness(error.to_string()))?;
    if let Some(at) = world.at(named) {
        world.recorder.record(process, Outcome::Ok, Operation::Seek { at, offset });
    }
    Ok(())
}

async fn read(world: &World, consumer: &mut Consumer, process: u32, time: Duration) {
    let end = clock::now() + time;
    while clock::now() < end && !world.stop.is_cancelled() {
        match consumer.poll(POLL).await {
            Ok(records) if records.is_empty() => {}
            Ok(records) => {
                let reads = world.reads(records);
                let poll = Operation::Poll { reads, failure: None };
                world.recorder.record(process, Outcome::Ok, poll);
            }
            Err(error) => {
                world.poll_failed(process, &error);
                world.pause(AGAIN).await;
            }
        }
    }
}
