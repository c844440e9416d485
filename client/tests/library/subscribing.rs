//! What a consumer reads and what it commits: subscriptions that change, offsets with words beside them.
use std::collections::BTreeMap;
use std::time::Duration;

use crate::world::World;
use crate::world::faulty::FaultyReads;
use crate::world::reading::{SOON, at, builder, cluster, fill, idle, offsets, read, with_objects};
use futures::{StreamExt, TryStreamExt};
use streamhouse_client::consumer::{CommittedOffset, ConsumeError};
use streamhouse_client::{Consumer, OffsetReset, Producer, Record};

async fn send(producer: &Producer, topic: &str, value: &str) {
    producer.send(Record::to(topic).value(value)).await.unwrap().await.unwrap();
}

/// A member of group `g` that commits by itself, and only when its partitions go.
async fn committing(world: &World, controller: &str) -> Consumer {
    let builder = builder(world, controller).group_id("g");
    builder.auto_commit_interval(Duration::MAX).build().await.unwrap()
}

/// What group `g` has committed: partition and offset.
fn committed(world: &World) -> Vec<(u32, u64)> {
    let state = world.state.lock();
    let ours = state.offsets.iter().filter(|((group, ..), _)| group == "g");
    ours.map(|((_, _, partition), (offset, _))| (*partition, *offset)).collect()
}

#[tokio::test]
async fn a_consumer_is_told_what_to_read_and_changes_its_mind() {
    let (world, controller, producer) = cluster(2).await;
    let agent = world.state.lock().topics["orders"].1[0].agent.clone();
    world.add_topic("audit", 1, &agent);
    fill(&producer, 0, 0..10).await;
    send(&producer, "audit", "a0").await;

    let mut consumer = idle(&world, &controller).await;
    let error = consumer.poll(SOON).await.unwrap_err();
    assert!(matches!(error, ConsumeError::NotSubscribed), "{error}");

    consumer.subscribe(["orders"]).await.unwrap();
    assert_eq!(consumer.assignment(), [at("orders", 0), at("orders", 1)]);
    assert_eq!(read(&mut consumer, 10).await.len(), 10);

    // What is read already goes on where it is; what is new begins at the beginning.
    consumer.subscribe(["orders", "audit"]).await.unwrap();
    assert_eq!(consumer.position("orders", 0), Some(10));
    assert_eq!(&*read(&mut consumer, 1).await[0].topic, "audit");

    // An unknown topic changes nothing.
    let error = consumer.subscribe(["nope"]).await.unwrap_err();
    assert_eq!(error.to_string(), "unknown topic nope");
    assert_eq!(consumer.assignment().len(), 3);

    consumer.assign([("audit", 0)]).await.unwrap();
    fill(&producer, 0, 10..11).await;
    send(&producer, "audit", "a1").await;
    assert_eq!(&*read(&mut consumer, 1).await[0].topic, "audit");
    assert_eq!(consumer.position("orders", 0), None);

    consumer.unsubscribe().await.unwrap();
    assert!(consumer.assignment().is_empty());
    assert!(matches!(consumer.poll(SOON).await, Err(ConsumeError::NotSubscribed)));
}

#[tokio::test]
async fn topics_that_a_pattern_matches_are_noticed_when_they_are_created() {
    let (world, controller, producer) = cluster(1).await;
    let agent = world.state.lock().topics["orders"].1[0].agent.clone();
    world.add_topic("log-a", 1, &agent);
    let mut consumer = idle(&world, &controller).await;
    consumer.subscribe_pattern("log-.*").await.unwrap();
    assert_eq!(consumer.assignment(), [at("log-a", 0)]);
    world.add_topic("log-b", 2, &agent);
    world.add_topic("other", 1, &agent);
    send(&producer, "log-b", "first").await;
    // From its first record on, although that came before anybody noticed.
    let record = read(&mut consumer, 1).await.remove(0);
    assert_eq!((&*record.topic, record.value.as_deref()), ("log-b", Some(&b"first"[..])));
    assert_eq!(consumer.assignment(), [at("log-a", 0), at("log-b", 0), at("log-b", 1)]);
    let error = consumer.subscribe_pattern("(").await.unwrap_err();
    assert!(matches!(error, ConsumeError::Config(_)), "{error}");
}

#[tokio::test]
async fn new_partitions_of_a_subscribed_topic_are_noticed() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..10).await;
    // The watch tells of it long before the next refresh.
    let mut consumer = builder(&world, &controller)
        .offset_reset(OffsetReset::Latest)
        .metadata_refresh(Duration::from_secs(3_600))
        .build()
        .await
        .unwrap();
    {
        let mut state = world.state.lock();
        let log = crate::world::Log { agent: String::new(), ..crate::world::Log::default() };
        state.topics.get_mut("orders").unwrap().1.push(log);
    }
    world.append_object("orders", 1..2).await;
    let records = read(&mut consumer, 10).await;
    assert!(records.iter().all(|record| record.partition == 1));
    assert_eq!(offsets(&records), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn revoked_partitions_are_committed_as_far_as_they_were_taken() {
    let (world, controller, producer) = cluster(2).await;
    for partition in 0..2 {
        fill(&producer, partition, 0..10).await;
    }
    let mut consumer = committing(&world, &controller).await;
    read(&mut consumer, 20).await;
    // The poll after the last records says that they were taken.
    assert!(consumer.poll(Duration::from_millis(50)).await.unwrap().is_empty());
    consumer.assign([("orders", 1)]).await.unwrap();
    // Of a group it reads nothing any more: what it has taken of all partitions is committed.
    assert_eq!(committed(&world), [(0, 10), (1, 10)]);
}

#[tokio::test]
async fn what_was_committed_by_hand_is_not_taken_back_when_its_partition_goes() {
    let (world, controller, producer) = cluster(2).await;
    fill(&producer, 0, 0..10).await;
    let mut consumer = committing(&world, &controller).await;
    assert_eq!(consumer.poll(SOON).await.unwrap().len(), 10);
    // By polls alone, nothing of this one is taken yet.
    consumer.commit().await.unwrap();
    consumer.assign([("orders", 1)]).await.unwrap();
    assert_eq!(committed(&world)[0], (0, 10));
}

#[tokio::test]
async fn a_rewind_is_committed_whoever_waited_for_the_commit_before_it() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..20).await;
    for waits in [true, false] {
        let mut consumer = committing(&world, &controller).await;
        consumer.seek("orders", 0, 10).unwrap();
        consumer.commit().await.unwrap();
        read(&mut consumer, 10).await;
        if waits {
            consumer.commit_async().unwrap().await.unwrap();
        } else {
            // It is sent, but nobody hears of the answer.
            world.commits_held.send_replace(true);
            let commit = tokio::time::timeout(Duration::from_millis(50), consumer.commit());
            assert!(commit.await.is_err());
            world.commits_held.send_replace(false);
        }
        consumer.seek("orders", 0, 10).unwrap();
        consumer.close().await.unwrap();
        let commits = world.state.lock().commits.clone();
        let said: Vec<u64> = commits.iter().map(|commit| commit.offsets[0].offset).collect();
        assert_eq!(said[said.len() - 2..], [20, 10]);
    }
}

#[tokio::test]
async fn given_offsets_are_committed_with_the_application_s_words() {
    let (world, controller, producer) = cluster(2).await;
    fill(&producer, 0, 0..20).await;
    let group = || builder(&world, &controller).group_id("g").auto_commit(false);
    let mut consumer = group().build().await.unwrap();
    let note = CommittedOffset { offset: 7, metadata: "batch 3".to_owned() };
    consumer.commit_offsets([(("orders", 0), note.clone())]).await.unwrap();
    consumer.commit_offsets([(("orders", 1), 0)]).await.unwrap();
    let committed = consumer.committed_offsets().await.unwrap();
    assert_eq!(committed[&at("orders", 0)], note);
    assert_eq!(committed[&at("orders", 1)], 0.into());
    assert_eq!(consumer.position("orders", 0), Some(0));
    let error = consumer.commit_offsets([(("orders", 9), 1)]).await.unwrap_err();
    assert_eq!(error.to_string(), "orders/9 is not assigned to this consumer");
    // A successor begins there.
    let mut next = group().build().await.unwrap();
    assert_eq!(read(&mut next, 1).await[0].offset, 7);
}

#[tokio::test]
async fn commits_that_nobody_waits_for_keep_their_order() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..30).await;
    let mut consumer = builder(&world, &controller)
        .group_id("g")
        .auto_commit(false)
        .max_poll_records(10)
        .build()
        .await
        .unwrap();
    let mut pending = Vec::new();
    for _ in 0..3 {
        assert!(!consumer.poll(SOON).await.unwrap().is_empty());
        pending.push(consumer.commit_async().unwrap());
    }
    let last = consumer.position("orders", 0).unwrap();
    // Close waits for them.
    consumer.close().await.unwrap();
    for commit in pending {
        commit.await.unwrap();
    }
    let state = world.state.lock();
    let commits: Vec<u64> = state.commits.iter().map(|commit| commit.offsets[0].offset).collect();
    assert!(commits.is_sorted() && commits.len() == 3, "{commits:?}");
    assert_eq!(commits[2], last);
}

#[tokio::test]
async fn commits_beyond_the_limit_are_refused() {
    let (world, controller, _producer) = cluster(1).await;
    let builder = builder(&world, &controller).group_id("g").auto_commit(false);
    let mut consumer = builder.build().await.unwrap();
    // Nothing runs between these calls, so none is sent.
    let refused = (0..100).filter_map(|_| consumer.commit_async().err()).last().unwrap();
    let text = "64 commits of group g are waiting already, no more may";
    assert_eq!((refused.to_string().as_str(), refused.retryable()), (text, true));
}

#[tokio::test]
async fn close_takes_no_longer_than_one_commit_may() {
    let (world, controller, _producer) = cluster(1).await;
    let builder = builder(&world, &controller).group_id("g").auto_commit(false);
    let mut consumer = builder.operation_timeout(Duration::from_secs(2)).build().await.unwrap();
    world.commits_held.send_replace(true);
    // One after the other would take longer than the test waits.
    let pending: Vec<_> = (0..40).map(|_| consumer.commit_async().unwrap()).collect();
    tokio::time::timeout(SOON, consumer.close()).await.unwrap().unwrap();
    for commit in pending {
        let error = commit.await.unwrap_err();
        assert!(error.retryable(), "{error}");
    }
}

#[tokio::test]
async fn of_a_commit_that_is_refused_in_part_the_rest_is_known_to_be_taken() {
    let (world, controller, producer) = cluster(2).await;
    for partition in 0..2 {
        fill(&producer, partition, 0..10).await;
    }
    let mut consumer = committing(&world, &controller).await;
    read(&mut consumer, 20).await;
    world.state.lock().groups.refuse_commits.insert(1);
    let error = consumer.commit().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "1 offsets were committed, but not all: committing offset of orders/1 for group g: not its owner"
    );
    assert!(error.may_have_taken_effect() && matches!(error, ConsumeError::CommittedInPart { .. }));
    assert_eq!(committed(&world), [(0, 10)]);
    // Only what was refused is committed again.
    world.state.lock().groups.refuse_commits.clear();
    consumer.close().await.unwrap();
    let last = world.state.lock().commits.last().unwrap().clone();
    let again: Vec<u32> =
        last.offsets.into_iter().map(|one| one.partition.unwrap().partition).collect();
    assert_eq!(again, [1]);
    assert_eq!(committed(&world), [(0, 10), (1, 10)]);
}

#[tokio::test]
async fn a_subscription_outlives_another_one_that_nobody_waited_for() {
    let (world, controller, _producer) = cluster(1).await;
    world.add_topic("audit", 1, "");
    world.append_object("audit", 0..1).await;
    let faulty = FaultyReads::new(world.objects.clone(), []);
    let since = OffsetReset::Since(Duration::from_secs(100 * 365 * 24 * 3_600));
    let builder = builder(&world, &controller).object_store(faulty.store()).offset_reset(since);
    let builder = builder.metadata_refresh(Duration::from_millis(50));
    let mut consumer = builder.build().await.unwrap();
    // Where `audit` begins takes too long to find.
    faulty.hold(true);
    let subscribe = consumer.subscribe(["orders", "audit"]);
    assert!(tokio::time::timeout(Duration::from_millis(200), subscribe).await.is_err());
    faulty.hold(false);
    // What comes into being of the topic that is read is noticed still.
    let log = crate::world::Log::default();
    world.state.lock().topics.get_mut("orders").unwrap().1.push(log);
    world.append_object("orders", 1..2).await;
    assert_eq!(read(&mut consumer, 10).await[0].partition, 1);
    assert_eq!(consumer.assignment(), [at("orders", 0), at("orders", 1)]);
}

#[tokio::test]
async fn records_come_as_a_stream() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..25).await;
    let mut consumer = builder(&world, &controller).max_poll_records(7).build().await.unwrap();
    let records: Vec<_> = consumer.stream().take(25).try_collect().await.unwrap();
    assert_eq!(offsets(&records), (0..25).collect::<Vec<_>>());
    assert_eq!(consumer.position("orders", 0), Some(25));
}

#[tokio::test]
async fn what_was_not_taken_from_a_stream_comes_with_the_next_poll() {
    let (world, controller, producer) = cluster(2).await;
    fill(&producer, 0, 0..30).await;
    fill(&producer, 1, 0..30).await;
    let builder = builder(&world, &controller).group_id("g").auto_commit(false);
    let mut consumer = builder.build().await.unwrap();
    let mut taken = BTreeMap::<u32, Vec<u64>>::new();
    let mut count = 0;
    while count < 60 {
        let some: Vec<_> = consumer.stream().take(3).try_collect().await.unwrap();
        for record in &some {
            taken.entry(record.partition).or_default().push(record.offset);
            count += 1;
        }
        let positions = consumer.positions();
        for (partition, offsets) in &taken {
            assert_eq!(positions[&at("orders", *partition)], offsets.last().unwrap() + 1);
        }
        consumer.commit().await.unwrap();
        assert_eq!(consumer.committed().await.unwrap(), positions);
    }
    for offsets in taken.values() {
        assert_eq!(*offsets, (0..30).collect::<Vec<_>>());
    }
    assert_eq!(consumer.metrics().records, 60);
    // Whoever goes elsewhere gets nothing of what was taken back.
    consumer.seek_to_beginning().await.unwrap();
    let first: Vec<_> = consumer.stream().take(1).try_collect().await.unwrap();
    assert_eq!(first[0].offset, 0);
    consumer.seek("orders", first[0].partition, 20).unwrap();
    consumer.pause([("orders", 1 - first[0].partition)]).unwrap();
    assert_eq!(read(&mut consumer, 1).await[0].offset, 20);
}

#[tokio::test]
async fn a_record_s_place_in_the_store_can_be_told() {
    let (world, controller) = with_objects(2).await;
    let consumer = idle(&world, &controller).await;
    let found = consumer.locate("orders", 1, 13).await.unwrap();
    assert_eq!(found.key, world.key(2));
    assert_eq!((found.slice_offsets, found.batch_offsets), ((10, 19), (10, 19)));
    assert_eq!((found.slice, found.timestamp), (found.batch, Some(1)));
    assert_eq!((found.object.session.0, found.object.sequence), (5, 2));
    let error = consumer.locate("orders", 1, 20).await.unwrap_err().to_string();
    assert!(error.starts_with("offset 20 of orders/1 is out of range"), "{error}");
    assert!(consumer.locate("orders", 2, 0).await.is_err());
}
