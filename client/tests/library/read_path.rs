//! The read path against a fake cluster: what is fetched together, kept in the cache, and made good when the store, the
//! plan or the controllers fail.
use std::time::Duration;

use crate::world::faulty::{FaultyReads, ReadFault};
use crate::world::reading::{SOON, builder, cluster, fill, offsets, read};
use streamhouse_client::consumer::{ConsumeError, SegmentCache};
use streamhouse_client::{Consumer, Record, TopicPartition};

/// Reads on until so many records came; what failed meanwhile.
async fn read_through(consumer: &mut Consumer, count: usize) -> (Vec<(u32, u64)>, Vec<String>) {
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    while seen.len() < count {
        match consumer.poll(SOON).await {
            Ok(records) => {
                assert!(!records.is_empty(), "only {} of {count} records came", seen.len());
                for record in records {
                    let value = format!("v{}", record.offset);
                    assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
                    seen.push((record.partition, record.offset));
                }
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    (seen, errors)
}

#[tokio::test]
async fn slices_of_several_partitions_in_one_object_are_fetched_by_one_get() {
    let (world, controller, _producer) = cluster(8).await;
    for _ in 0..3 {
        world.append_object("orders", 0..8).await;
    }
    let mut consumer = builder(&world, &controller).build().await.unwrap();
    read(&mut consumer, 3 * 8 * 10).await;
    let metrics = consumer.metrics();
    assert_eq!((metrics.get_requests, metrics.look_ups), (3, 1), "{metrics:?}");
}

#[tokio::test]
async fn what_is_in_the_cache_is_not_fetched_again() {
    let (world, controller, _producer) = cluster(4).await;
    for _ in 0..5 {
        world.append_object("orders", 0..4).await;
    }
    let cache = SegmentCache::builder().memory_bytes(8 << 20).open().await.unwrap();
    let build = || builder(&world, &controller).cache(cache.clone()).build();
    let mut first = build().await.unwrap();
    read(&mut first, 200).await;
    assert_eq!((first.metrics().cache_hits, first.metrics().cache_misses), (0, 20));
    // Another consumer of this process finds everything.
    let mut second = build().await.unwrap();
    let (seen, errors) = read_through(&mut second, 200).await;
    assert_eq!((seen.len(), errors.len()), (200, 0));
    let metrics = second.metrics();
    assert_eq!((metrics.get_requests, metrics.cache_hits), (0, 20));
    assert_eq!(metrics.cache_hit_rate(), Some(1.0));
}

#[tokio::test]
async fn every_record_comes_once_and_right_while_the_store_fails() {
    let (world, controller, producer) = cluster(3).await;
    for partition in 0..3 {
        fill(&producer, partition, 0..200).await;
    }
    use ReadFault::{Flipped, None, Silent, SlowDown, TimedOut, Truncated};
    let faults = [SlowDown, None, TimedOut, Truncated, None, Flipped, None, Silent, Flipped, None];
    let faulty = FaultyReads::new(world.objects.clone(), faults.repeat(3));
    let mut consumer =
        builder(&world, &controller).object_store(faulty.store()).build().await.unwrap();
    let (mut seen, errors) = read_through(&mut consumer, 600).await;
    // READ: in order within a partition, each once.
    for partition in 0..3 {
        let own: Vec<u64> = seen.iter().filter(|at| at.0 == partition).map(|at| at.1).collect();
        assert_eq!(own, (0..200).collect::<Vec<_>>());
    }
    seen.dedup();
    assert_eq!(seen.len(), 600);
    for error in errors {
        assert!(error.contains("/l0/") && error.contains(".."), "{error}");
    }
    assert!(consumer.metrics().retried_gets > 0 && consumer.metrics().damaged_fetches > 0);
}

#[tokio::test]
async fn a_get_without_an_answer_is_sent_again() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..10).await;
    let faulty = FaultyReads::new(world.objects.clone(), [ReadFault::Silent]);
    let mut consumer =
        builder(&world, &controller).object_store(faulty.store()).build().await.unwrap();
    assert_eq!(read(&mut consumer, 10).await.len(), 10);
    assert_eq!(faulty.left(), 0);
    assert_eq!(consumer.metrics().hedged_gets, 1);
}

#[tokio::test]
async fn a_store_that_stays_broken_is_an_error_that_names_object_and_range() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..10).await;
    let faulty = FaultyReads::new(world.objects.clone(), [ReadFault::Truncated; 1_000]);
    let mut consumer =
        builder(&world, &controller).object_store(faulty.store()).build().await.unwrap();
    let error = consumer.poll(SOON).await.unwrap_err();
    let ConsumeError::Store { start: 0, end, .. } = &error else { panic!("{error}") };
    let text = error.to_string();
    assert!(text.contains(&format!("bytes 0..{end}")) && text.contains(&world.key(1)), "{text}");
    assert_eq!(consumer.position("orders", 0), Some(0));
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_a_segment_is_never_delivered() {
    let (world, controller, _producer) = cluster(1).await;
    world.append_object("orders", 0..1).await;
    let key = world.key(1);
    let whole = world.get(&key).await;
    // READ: each byte in turn.
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 1 << (position % 8);
        world.put(&key, damaged).await;
        let mut consumer = builder(&world, &controller).build().await.unwrap();
        let error = consumer.poll(SOON).await.unwrap_err();
        let ConsumeError::Corrupt { object, .. } = &error else { panic!("{position}: {error}") };
        assert_eq!((object, consumer.position("orders", 0)), (&key, Some(0)));
    }
    world.put(&key, whole).await;
    let mut consumer = builder(&world, &controller).build().await.unwrap();
    assert_eq!(read(&mut consumer, 10).await.len(), 10);
}

/// Ten partitions with records that are small in the store and large in memory: forty mebibytes.
async fn large_records() -> (crate::world::World, String) {
    let (world, controller, producer) = cluster(10).await;
    let value = "streamhouse ".repeat(20_000);
    for _ in 0..20 {
        for partition in 0..10 {
            let record = Record::to("orders").partition(partition).value(&*value);
            drop(producer.send(record).await.unwrap());
        }
    }
    producer.flush().await.unwrap();
    (world, controller)
}

#[tokio::test]
async fn what_is_held_stays_within_the_memory_limit() {
    const LIMIT: usize = 12 << 20;
    let (world, controller) = large_records().await;
    let mut consumer =
        builder(&world, &controller).fetch_memory(LIMIT).max_poll_records(7).build().await.unwrap();
    let (mut seen, mut most) = (0, 0);
    while seen < 200 {
        // BOUND: what the application has in its hands counts, too.
        let records = consumer.poll(SOON).await.unwrap();
        assert!(!records.is_empty());
        most = most.max(consumer.metrics().buffered_bytes);
        seen += records.into_iter().count();
    }
    assert!((1..=LIMIT as u64).contains(&most), "{most}");
    assert!(consumer.poll(Duration::from_millis(20)).await.unwrap().is_empty());
    assert_eq!(consumer.metrics().buffered_bytes, 0);
}

#[tokio::test]
async fn an_application_that_keeps_what_it_was_handed_reads_on() {
    let (world, controller) = large_records().await;
    let mut consumer = builder(&world, &controller).fetch_memory(1 << 20).build().await.unwrap();
    let (mut kept, mut seen) = (Vec::new(), 0);
    while seen < 200 {
        let records = consumer.poll(SOON).await.unwrap();
        assert!(!records.is_empty(), "only {seen} came");
        seen += records.len();
        kept.push(records);
    }
}

#[tokio::test]
async fn a_stale_plan_is_made_anew() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..100).await;
    // The last segment moves to another object, as merging does.
    let moved = {
        let mut state = world.state.lock();
        let log = &mut state.topics.get_mut("orders").unwrap().1[0];
        let segment = log.segments.last_mut().unwrap();
        let Some(streamhouse_proto::v1::segment::Source::L0(l0)) = &mut segment.source else {
            panic!()
        };
        let old = l0.sequence;
        l0.sequence = 9_999;
        old
    };
    let bytes = world.get(&world.key(moved)).await;
    world.put(&world.key(9_999), bytes).await;
    world.delete(&world.key(moved)).await;
    // The first look-up is answered from before the move.
    world.state.lock().outdated = Some((9_999, moved));
    let mut consumer = builder(&world, &controller).build().await.unwrap();
    let (seen, errors) = read_through(&mut consumer, 100).await;
    assert_eq!((seen.len(), errors), (100, vec![]));
    assert_eq!(consumer.metrics().replans, 1);
}

#[tokio::test]
async fn a_consumer_with_a_plan_reads_on_without_controllers() {
    let (world, controller, _producer) = cluster(1).await;
    for _ in 0..100 {
        world.append_object("orders", 0..1).await;
    }
    let mut consumer = builder(&world, &controller)
        .max_poll_records(10)
        .operation_timeout(Duration::from_millis(200))
        .build()
        .await
        .unwrap();
    let first = read(&mut consumer, 10).await;
    world.state.lock().unavailable = true;
    let rest = read(&mut consumer, 990).await;
    assert_eq!((offsets(&first).len(), offsets(&rest).last()), (10, Some(&999)));
    // New records are told of, but nobody says where they are: it waits, and goes on when somebody does.
    for _ in 0..5 {
        world.append_object("orders", 0..1).await;
    }
    let waited = consumer.poll(Duration::from_millis(500)).await;
    assert!(waited.is_err() || waited.unwrap().is_empty());
    world.state.lock().unavailable = false;
    let (seen, _) = read_through(&mut consumer, 50).await;
    assert_eq!(seen.last(), Some(&(0, 1_049)));
}

#[tokio::test]
async fn a_paused_partition_is_neither_fetched_nor_handed_out() {
    let (world, controller, producer) = cluster(2).await;
    for partition in 0..2 {
        fill(&producer, partition, 0..20).await;
    }
    let mut consumer = builder(&world, &controller).build().await.unwrap();
    consumer.pause([("orders", 1)]).unwrap();
    assert_eq!(consumer.paused(), [TopicPartition::new("orders", 1)]);
    assert!(read(&mut consumer, 20).await.iter().all(|record| record.partition == 0));
    assert!(consumer.poll(Duration::from_millis(100)).await.unwrap().is_empty());
    assert_eq!(consumer.metrics().buffered_bytes, 0);
    // Where it goes on may be changed meanwhile.
    consumer.seek("orders", 1, 5).unwrap();
    consumer.resume([("orders", 1)]).unwrap();
    let records = read(&mut consumer, 15).await;
    assert_eq!(offsets(&records), (5..20).collect::<Vec<_>>());
    assert!(consumer.pause([("orders", 7)]).is_err());
}
