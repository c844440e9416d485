//! What a consumer that dies leaves to its successor: the records that it had not committed, all of them and no others.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::world::reading::{SOON, builder, cluster, fill, read};
use crate::world::{World, until};
use streamhouse_client::consumer::ConsumerBuilder;
use streamhouse_client::{Consumer, TopicPartition};

type Offsets = BTreeMap<TopicPartition, u64>;

/// Two partitions with so many records each, far more than the polls of a test hand out.
const EACH: u64 = 60;

async fn filled() -> (World, String) {
    let (world, controller, producer) = cluster(2).await;
    for partition in 0..2 {
        fill(&producer, partition, 0..EACH).await;
    }
    (world, controller)
}

/// A member of the group, with small polls.
fn member(world: &World, controller: &str) -> ConsumerBuilder {
    builder(world, controller).group_id("g").auto_commit(false).max_poll_records(10)
}

async fn polls(consumer: &mut Consumer, count: usize) {
    for _ in 0..count {
        // The application takes all that it is handed.
        assert!(consumer.poll(SOON).await.unwrap().into_iter().count() > 0);
    }
}

/// A cluster with records, and a member that has been handed some of them.
async fn begun() -> (World, String, Consumer) {
    let (world, controller) = filled().await;
    let mut consumer = member(&world, &controller).build().await.unwrap();
    polls(&mut consumer, 2).await;
    (world, controller, consumer)
}

/// What the group has committed, by the controllers.
fn committed(world: &World) -> Offsets {
    let all = world.state.lock().offsets.clone();
    all.into_iter()
        .map(|((_, _, partition), (offset, _))| (TopicPartition::new("orders", partition), offset))
        .collect()
}

/// The next one begins at `kept` in each partition and reads to the end without a gap.
async fn comes_again_from(world: &World, controller: &str, kept: &Offsets) {
    let mut next = member(world, controller).build().await.unwrap();
    assert_eq!(next.committed().await.unwrap(), *kept);
    let left = 2 * EACH - kept.values().sum::<u64>();
    let mut seen: BTreeMap<TopicPartition, Vec<u64>> = BTreeMap::new();
    for record in read(&mut next, left as usize).await {
        let at = TopicPartition::new(record.topic, record.partition);
        seen.entry(at).or_default().push(record.offset);
    }
    for (at, first) in kept {
        assert_eq!(seen[at], (*first..EACH).collect::<Vec<_>>(), "{at}");
    }
    assert!(next.poll(Duration::from_millis(50)).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_dead_consumer_had_not_committed_comes_again_and_nothing_else() {
    let (world, controller, mut consumer) = begun().await;
    consumer.commit().await.unwrap();
    let kept = consumer.positions();
    polls(&mut consumer, 2).await;
    assert_ne!(consumer.positions(), kept);
    // It dies: nobody closes it.
    drop(consumer);
    comes_again_from(&world, &controller, &kept).await;
}

#[tokio::test]
async fn of_offsets_that_were_given_the_dead_consumer_s_successor_begins_at_those() {
    let (world, controller, mut consumer) = begun().await;
    let kept = consumer.positions();
    // It had gone on when it committed, and goes on after it.
    polls(&mut consumer, 1).await;
    consumer.commit_offsets(kept.clone()).await.unwrap();
    polls(&mut consumer, 1).await;
    assert_ne!(consumer.positions(), kept);
    drop(consumer);
    comes_again_from(&world, &controller, &kept).await;
}

#[tokio::test]
async fn what_a_dead_consumer_got_last_was_never_committed_automatically() {
    let (world, controller) = filled().await;
    let builder = member(&world, &controller).auto_commit(true);
    let mut consumer = builder.auto_commit_interval(Duration::ZERO).build().await.unwrap();
    let mut taken = consumer.positions();
    for poll in 1..=4 {
        taken = consumer.positions();
        polls(&mut consumer, 1).await;
        assert_ne!(consumer.positions(), taken);
        // Every poll commits, now that the one before is answered: what was handed out before it, never what it hands
        // out itself.
        until("an automatic commit", || consumer.metrics().commits >= poll).await;
        assert_eq!(committed(&world), taken);
    }
    drop(consumer);
    comes_again_from(&world, &controller, &taken).await;
}
