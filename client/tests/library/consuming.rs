//! The consumer against a fake cluster and a memory store: order, damage, positions, commits.
use std::collections::BTreeMap;
use std::time::Duration;

use crate::world::objects::batch;
use crate::world::reading::{SOON, builder, cluster, fill, offsets, read};
use streamhouse_client::consumer::ConsumeError;
use streamhouse_client::{Admin, AdminError, Consumer, OffsetReset, Record, TopicPartition};
use streamhouse_segment::batch::Compression;

#[tokio::test]
async fn everything_sent_is_read_once_and_in_order() {
    let (world, controller, producer) = cluster(3).await;
    for partition in 0..3 {
        fill(&producer, partition, 0..500).await;
    }
    let mut consumer = builder(&world, &controller).build().await.unwrap();
    let end = consumer.end_offsets().await.unwrap();
    assert_eq!(end[&TopicPartition::new("orders", 1)], 500);
    let mut by_partition: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for record in read(&mut consumer, 1500).await {
        assert_eq!(record.value.as_deref(), Some(format!("v{}", record.offset).as_bytes()));
        assert_eq!(record.headers.last("n"), Some(record.offset.to_string().as_bytes()));
        by_partition.entry(record.partition).or_default().push(record.offset);
    }
    for found in by_partition.values() {
        assert_eq!(*found, (0..500).collect::<Vec<_>>());
    }
    assert_eq!(consumer.positions(), end);
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn a_caught_up_consumer_asks_nothing_until_the_watch_tells_of_more() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..20).await;
    let mut consumer = builder(&world, &controller).build().await.unwrap();
    read(&mut consumer, 20).await;
    let before = consumer.metrics();
    assert!(consumer.poll(Duration::from_millis(300)).await.unwrap().is_empty());
    assert_eq!(consumer.metrics(), before);
    fill(&producer, 0, 20..21).await;
    assert_eq!(offsets(&read(&mut consumer, 1).await), [20]);
    assert!(consumer.metrics().look_ups > before.look_ups);
}

#[tokio::test]
async fn a_poll_hands_out_no_more_than_its_limit() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..25).await;
    let mut consumer = builder(&world, &controller).max_poll_records(7).build().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 25 {
        let records = consumer.poll(SOON).await.unwrap();
        assert!((1..=7).contains(&records.len()));
        seen.extend(records.into_iter().map(|record| record.offset));
        assert_eq!(consumer.position("orders", 0), Some(seen.len() as u64));
    }
    assert_eq!(seen, (0..25).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_is_handed_out_in_parts_only_if_no_poll_can_hold_it() {
    let (world, controller, _producer) = cluster(1).await;
    for size in [4, 4, 10, 2] {
        let values = (0..size).map(|_| b"v".to_vec());
        world.append_batches("orders", [(0, batch(Compression::None, values))]).await;
    }
    let builder = builder(&world, &controller).max_poll_records(7);
    let mut consumer = builder.build().await.unwrap();
    let mut polls = Vec::new();
    while polls.iter().sum::<usize>() < 20 {
        polls.push(consumer.poll(SOON).await.unwrap().len());
    }
    assert_eq!(polls[..3], [4, 4, 7], "whichever of them were there");
}

#[tokio::test]
async fn a_consumer_with_little_memory_still_reads_everything() {
    let (world, controller, producer) = cluster(2).await;
    for partition in 0..2 {
        for _ in 0..30 {
            let record =
                Record::to("orders").partition(partition).value(vec![partition as u8; 50_000]);
            drop(producer.send(record).await.unwrap());
        }
    }
    producer.flush().await.unwrap();
    let mut consumer = builder(&world, &controller).fetch_memory(1 << 16).build().await.unwrap();
    assert_eq!(read(&mut consumer, 60).await.len(), 60);
}

#[tokio::test]
async fn a_corrupted_object_is_an_error_that_names_it_and_nothing_is_skipped() {
    let (world, controller, producer) = cluster(1).await;
    for start in [0, 10, 20] {
        fill(&producer, 0, start..start + 10).await;
    }
    let segment = world.state.lock().topics["orders"].1[0].segments[1];
    let Some(streamhouse_proto::v1::segment::Source::L0(l0)) = &segment.source else { panic!() };
    let key = world.key(l0.sequence);
    let good = world.get(&key).await;
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    world.put(&key, bad).await;

    let mut consumer = builder(&world, &controller).build().await.unwrap();
    let before = segment.base_offset as usize;
    assert_eq!(read(&mut consumer, before).await.len(), before);
    for _ in 0..2 {
        let error = consumer.poll(SOON).await.unwrap_err();
        assert!(matches!(error, ConsumeError::Corrupt { .. }) && !error.retryable());
        let text = error.to_string();
        let expected = format!("{:#010x}", segment.crc32c);
        assert!(text.contains(&key) && text.contains(&expected), "{text}");
        assert_eq!(consumer.position("orders", 0), Some(segment.base_offset));
    }
    // Repaired, it goes on where it stood.
    world.put(&key, good).await;
    let rest = read(&mut consumer, 30 - before).await;
    assert_eq!(offsets(&rest), (before as u64..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_missing_object_is_an_alarm_not_a_skip() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..5).await;
    let sequences = 1..=world.state.lock().topics["orders"].1[0].segments.len() as u64;
    let key = world.key(*sequences.start());
    world.delete(&key).await;
    let mut consumer = builder(&world, &controller).build().await.unwrap();
    let text = consumer.poll(SOON).await.unwrap_err().to_string();
    assert!(text.starts_with(&format!("the index names object {key} for orders/0")), "{text}");
    assert!(text.ends_with("which the store does not have"), "{text}");
    assert_eq!(consumer.position("orders", 0), Some(0));
}

#[tokio::test]
async fn automatic_commits_cover_what_the_application_has_taken() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..20).await;
    let group = || {
        builder(&world, &controller)
            .group_id("g")
            .auto_commit_interval(Duration::ZERO)
            .max_poll_records(10)
    };
    let at = TopicPartition::new("orders", 0);
    // The first poll's records were taken, for there was a second; the second's were not looked at.
    let mut consumer = group().build().await.unwrap();
    let first = consumer.poll(SOON).await.unwrap().len() as u64;
    let second = consumer.poll(SOON).await.unwrap();
    assert!(!second.is_empty());
    consumer.close().await.unwrap();
    let consumer = group().build().await.unwrap();
    assert_eq!(consumer.committed().await.unwrap()[&at], first);
    drop(consumer);
    // Iterated to the end, the last poll counts as well.
    let mut consumer = group().build().await.unwrap();
    let last = consumer.poll(SOON).await.unwrap().into_iter().last().unwrap().offset;
    // `last` runs the iterator dry.
    consumer.close().await.unwrap();
    let consumer = group().build().await.unwrap();
    assert_eq!(consumer.committed().await.unwrap()[&at], last + 1);
}

#[tokio::test]
async fn a_consumer_of_many_topics_learns_of_new_records_in_all_of_them() {
    let (world, controller, producer) = cluster(1).await;
    let agent = world.state.lock().topics["orders"].1[0].agent.clone();
    let others: Vec<String> = (0..120).map(|number| format!("t{number}")).collect();
    others.iter().for_each(|topic| world.add_topic(topic, 1, &agent));
    let mut consumer = builder(&world, &controller).topics(others.clone()).build().await.unwrap();
    assert!(consumer.poll(Duration::from_millis(100)).await.unwrap().is_empty());
    // One watch covers at most 100 topics.
    for topic in [others.first().unwrap(), others.last().unwrap()] {
        producer.send(Record::to(&**topic).value("v")).await.unwrap().await.unwrap();
        assert_eq!(read(&mut consumer, 1).await[0].topic.as_ref(), topic);
    }
}

#[tokio::test]
async fn a_deleted_topic_is_told_and_its_neighbours_are_read_on() {
    let (world, controller, producer) = cluster(1).await;
    let agent = world.state.lock().topics["orders"].1[0].agent.clone();
    world.add_topic("gone", 1, &agent);
    let mut consumer = builder(&world, &controller).topics(["gone"]).build().await.unwrap();
    assert!(consumer.poll(Duration::from_millis(100)).await.unwrap().is_empty());
    world.state.lock().topics.remove("gone");
    fill(&producer, 0, 0..10).await;
    let (mut records, mut told) = (0, 0);
    while records < 10 || told == 0 {
        match consumer.poll(SOON).await {
            Ok(polled) => records += polled.len(),
            Err(ConsumeError::TopicDeleted { topic }) => {
                assert_eq!(&*topic, "gone");
                told += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((records, told), (10, 1));
}

#[tokio::test]
async fn controllers_that_are_down_are_told_of_once() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..10).await;
    let mut consumer = builder(&world, &controller)
        .operation_timeout(Duration::from_secs(1))
        .build()
        .await
        .unwrap();
    read(&mut consumer, 10).await;
    world.state.lock().unavailable = true;
    consumer.seek("orders", 0, 3).unwrap();
    let error = consumer.poll(SOON).await.unwrap_err();
    assert!(matches!(error, ConsumeError::Call(_)) && error.retryable(), "{error}");
    assert!(consumer.poll(Duration::from_secs(2)).await.unwrap().is_empty());
    world.state.lock().unavailable = false;
    assert_eq!(offsets(&read(&mut consumer, 7).await), (3..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_controller_that_lags_behind_does_not_decide_what_is_out_of_range() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..10).await;
    let mut consumer = builder(&world, &controller)
        .offset_reset(OffsetReset::None)
        .group_id("g")
        .build()
        .await
        .unwrap();
    // Look-ups find an empty log, until somebody asks the leader.
    world.state.lock().lagging = true;
    consumer.seek("orders", 0, 4).unwrap();
    assert_eq!(offsets(&read(&mut consumer, 6).await), (4..10).collect::<Vec<_>>());
    assert!(!world.state.lock().lagging);
}

#[tokio::test]
async fn offsets_of_very_many_partitions_are_committed_and_fetched() {
    let (world, controller, _) = cluster(5_000).await;
    let group = || builder(&world, &controller).group_id("g").auto_commit(false);
    let mut consumer = group().build().await.unwrap();
    consumer.commit().await.unwrap();
    assert_eq!(consumer.committed().await.unwrap().len(), 5_000);
    assert_eq!(world.state.lock().commits.len(), 2);
}

#[tokio::test]
async fn a_poll_may_wait_for_ever() {
    let (world, controller, producer) = cluster(1).await;
    let mut consumer =
        builder(&world, &controller).auto_commit_interval(Duration::MAX).build().await.unwrap();
    fill(&producer, 0, 0..1).await;
    assert_eq!(consumer.poll(Duration::MAX).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_assignment_reads_only_its_partitions() {
    let (world, controller, producer) = cluster(3).await;
    for partition in 0..3 {
        fill(&producer, partition, 0..10).await;
    }
    let assign = |at: [(&str, u32); 1]| {
        Consumer::builder()
            .controllers([&*controller])
            .assign(at)
            .object_store(world.store())
            .offset_reset(OffsetReset::Earliest)
    };
    let mut consumer = assign([("orders", 2)]).build().await.unwrap();
    let records = read(&mut consumer, 10).await;
    assert!(records.iter().all(|record| record.partition == 2));
    assert_eq!(consumer.assignment(), [TopicPartition::new("orders", 2)]);
    assert!(matches!(consumer.commit().await, Err(ConsumeError::NoGroup)));
    let error = assign([("orders", 3)]).build().await.unwrap_err();
    assert_eq!(error.to_string(), "topic orders has no partition 3, only 0 to 2");
    let error = assign([("nope", 0)]).build().await.unwrap_err();
    assert_eq!(error.to_string(), "unknown topic nope");
}

#[tokio::test]
async fn topics_are_created_listed_and_deleted() {
    let (world, controller, _) = cluster(1).await;
    let admin = Admin::builder().controllers([&*controller]).build().unwrap();
    admin.create_topic("a", 2, BTreeMap::new()).await.unwrap();
    let exists = admin.create_topic("a", 2, BTreeMap::new()).await.unwrap_err();
    assert_eq!(exists.to_string(), "topic a exists");
    let names: Vec<_> = admin.list_topics().await.unwrap().into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["a", "orders"]);
    assert_eq!(admin.describe_topic("a").await.unwrap().partitions.len(), 2);
    admin.delete_topic("a").await.unwrap();
    let gone = admin.describe_topic("a").await.unwrap_err();
    assert!(matches!(gone, AdminError::UnknownTopic { .. }));
    // A controller that does not answer is shown, not an error.
    world.state.lock().controllers.push("127.0.0.1:1".to_owned());
    let admin = Admin::builder()
        .controllers([&*controller])
        .try_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let roles: Vec<_> =
        admin.controllers().await.unwrap().iter().map(|status| status.role.as_str()).collect();
    assert_eq!(roles, ["leader", "unreachable"]);
}
