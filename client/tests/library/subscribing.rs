//! What a consumer reads, from where, and what it commits: subscriptions that change, times, offsets with words beside
//! them.
use std::time::Duration;

use crate::world::World;
use crate::world::reading::{SOON, builder, cluster, fill, offsets, read};
use futures::{StreamExt, TryStreamExt};
use streamhouse_client::consumer::{CommittedOffset, ConsumeError, OffsetAndTimestamp};
use streamhouse_client::{Consumer, OffsetReset, Producer, Record, TopicPartition};

async fn send(producer: &Producer, topic: &str, value: &str) {
    producer.send(Record::to(topic).value(value)).await.unwrap().await.unwrap();
}

/// Reads nothing yet.
async fn idle(world: &World, controller: &str) -> Consumer {
    let builder = Consumer::builder().controllers([controller]).object_store(world.store());
    let builder = builder.metadata_refresh(Duration::from_millis(50));
    builder.offset_reset(OffsetReset::Earliest).build().await.unwrap()
}

fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
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
    let mut consumer = builder(&world, &controller)
        .group_id("g")
        .auto_commit_interval(Duration::MAX)
        .build()
        .await
        .unwrap();
    read(&mut consumer, 20).await;
    // The poll after the last records says that they were taken.
    assert!(consumer.poll(Duration::from_millis(50)).await.unwrap().is_empty());
    consumer.assign([("orders", 1)]).await.unwrap();
    // Of a group it reads nothing any more: what it has taken of all partitions is committed.
    let committed = world.state.lock().offsets.clone();
    assert_eq!(committed.len(), 2);
    let ((group, _, partition), (offset, _)) = committed.first_key_value().unwrap();
    assert_eq!((group.as_str(), *partition, *offset), ("g", 0, 10));
}

#[tokio::test]
async fn what_was_committed_by_hand_is_not_taken_back_when_its_partition_goes() {
    let (world, controller, producer) = cluster(2).await;
    fill(&producer, 0, 0..10).await;
    let mut consumer = builder(&world, &controller)
        .group_id("g")
        .auto_commit_interval(Duration::MAX)
        .build()
        .await
        .unwrap();
    assert_eq!(consumer.poll(SOON).await.unwrap().len(), 10);
    // By polls alone, nothing of this one is taken yet.
    consumer.commit().await.unwrap();
    consumer.assign([("orders", 1)]).await.unwrap();
    let committed = world.state.lock().offsets.clone();
    let of_first: Vec<u64> = committed
        .iter()
        .filter(|((_, _, partition), _)| *partition == 0)
        .map(|(_, (offset, _))| *offset)
        .collect();
    assert_eq!(of_first, [10]);
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
async fn records_come_as_a_stream() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..25).await;
    let mut consumer = builder(&world, &controller).max_poll_records(7).build().await.unwrap();
    let records: Vec<_> = consumer.stream().take(25).try_collect().await.unwrap();
    assert_eq!(offsets(&records), (0..25).collect::<Vec<_>>());
    // What was polled for the stream and not taken from it counts as handed out.
    assert_eq!(consumer.position("orders", 0), Some(25));
}

/// Ten records, one batch each, with timestamps 0, 100, …, and one at the end that is older than all.
async fn timed(producer: &Producer) {
    for number in (0..10).map(|number| number * 100).chain([-1]) {
        let record = Record::to("orders").partition(0).timestamp(number).value("v");
        producer.send(record).await.unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn times_become_offsets_at_between_and_beyond_timestamps() {
    let (world, controller, producer) = cluster(2).await;
    timed(&producer).await;
    let consumer = idle(&world, &controller).await;
    let find = async |time| {
        let found = consumer.offsets_for_times([(("orders", 0), time)]).await.unwrap();
        found[&at("orders", 0)]
    };
    let found = |offset, timestamp| Some(OffsetAndTimestamp { offset, timestamp });
    assert_eq!(find(300).await, found(3, 300));
    assert_eq!(find(301).await, found(4, 400));
    assert_eq!(find(i64::MIN).await, found(0, 0));
    assert_eq!(find(901).await, None);
    let empty = consumer.offsets_for_times([(("orders", 1), 0)]).await.unwrap();
    assert_eq!(empty[&at("orders", 1)], None);
    let error = consumer.offsets_for_times([(("orders", 9), 0)]).await.unwrap_err();
    assert_eq!(error.to_string(), "topic orders has no partition 9, only 0 to 1");
}

#[tokio::test]
async fn a_consumer_can_begin_with_what_is_not_older_than_some_time() {
    let (world, controller, producer) = cluster(2).await;
    timed(&producer).await;
    // This one has today's date.
    producer.send(Record::to("orders").partition(0).value("new")).await.unwrap().await.unwrap();
    let since = |age| builder(&world, &controller).offset_reset(OffsetReset::Since(age));
    let mut consumer = since(Duration::from_secs(3_600)).build().await.unwrap();
    let record = read(&mut consumer, 1).await.remove(0);
    assert_eq!((record.offset, record.value.as_deref()), (11, Some(&b"new"[..])));
    // A partition without such records is read from its end.
    assert_eq!(consumer.position("orders", 1), Some(0));
    // A position outside the log is found anew by the same rule.
    consumer.seek("orders", 0, 999).unwrap();
    assert_eq!(read(&mut consumer, 1).await[0].offset, 11);
    let all = since(Duration::from_secs(100 * 365 * 24 * 3_600)).build().await.unwrap();
    assert_eq!(all.position("orders", 0), Some(0));
}

#[tokio::test]
async fn lag_is_what_is_still_to_be_read() {
    let (world, controller, producer) = cluster(2).await;
    fill(&producer, 0, 0..30).await;
    let mut consumer = builder(&world, &controller).build().await.unwrap();
    consumer.seek("orders", 0, 12).unwrap();
    let lag = consumer.lag().await.unwrap();
    assert_eq!((lag[&at("orders", 0)], lag[&at("orders", 1)]), (18, 0));
}

#[tokio::test]
async fn a_record_s_place_in_the_store_can_be_told() {
    let (world, controller, _producer) = cluster(2).await;
    for _ in 0..2 {
        world.append_object("orders", 0..2).await;
    }
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
