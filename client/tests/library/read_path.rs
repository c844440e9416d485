//! The read path against a fake cluster: what is fetched together, kept in the cache, and made good when the store, the
//! plan or the controllers fail.
use std::time::Duration;

use crate::world::faulty::FaultyReads;
use crate::world::objects::{batch, noise};
use crate::world::reading::{self, SOON, builder, cluster, fill, offsets, read, read_through};
use crate::world::until;
use streamhouse_client::consumer::SegmentCache;
use streamhouse_client::{Record, TopicPartition};
use streamhouse_segment::batch::{BatchBuilder, Compression, Limits, ProducerInfo};

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
async fn several_partitions_are_fetched_at_once_and_before_poll() {
    let (world, controller, _producer) = cluster(4).await;
    for partition in 0..4 {
        for _ in 0..3 {
            world.append_object("orders", partition..partition + 1).await;
        }
    }
    let store = FaultyReads::new(world.objects.clone(), []);
    store.hold(true);
    let builder = builder(&world, &controller).object_store(store.store());
    let mut consumer = builder.build().await.unwrap();
    // Nobody has polled, and all twelve objects are under way, three for each partition.
    store.until(|reads| reads.objects() == 12).await;
    store.hold(false);
    store.until(|reads| reads.objects() == 0).await;
    let before = consumer.metrics();
    assert!(before.buffered_bytes > 0 && before.bytes_fetched > 0, "{before:?}");
    assert_eq!(read(&mut consumer, 120).await.len(), 120);
    let after = consumer.metrics();
    assert_eq!((after.get_requests, after.look_ups), (before.get_requests, before.look_ups));
}

#[tokio::test]
async fn records_are_slices_of_their_batch() {
    for compression in [Compression::None, Compression::Lz4] {
        let (world, controller, _producer) = cluster(1).await;
        let mut builder = BatchBuilder::new(compression, Limits::default());
        for number in 0..10 {
            let texts = [format!("k{number}"), format!("v{number}"), format!("h{number}")];
            let [key, value, header] = texts.each_ref().map(|text| Some(text.as_bytes()));
            builder.push(1, key, value, &[("n", header)]).unwrap();
        }
        let bytes = builder.finish(ProducerInfo::NONE).unwrap().to_vec();
        world.append_batches("orders", [(0, bytes)]).await;
        let mut consumer = reading::builder(&world, &controller).build().await.unwrap();
        let records = read(&mut consumer, 10).await;
        let parts: Vec<&[u8]> = records
            .iter()
            .flat_map(|record| {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                [key.unwrap(), value.unwrap(), record.headers.last("n").unwrap()]
            })
            .collect();
        // Between a key and its value lies a length, before a header its name, before the next key the rest of the
        // record: at most five bytes. No two allocations are so close.
        for (one, next) in parts.iter().zip(&parts[1..]) {
            let gap = next.as_ptr().addr().checked_sub(one.as_ptr_range().end.addr());
            assert!(gap.is_some_and(|gap| (1..=5).contains(&gap)), "{compression:?}: {gap:?}");
        }
    }
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
async fn a_batch_above_the_memory_limit_passes_alone() {
    const LIMIT: usize = 1 << 16;
    const BATCH: u64 = 10 * 30_000;
    // Half of it is worth compressing.
    let value = |number| {
        let mut value = noise(number, BATCH as usize / 20);
        value.resize(BATCH as usize / 10, b'.');
        value
    };
    // Uncompressed, the records lie in what was fetched. Decompressed, they lie in a buffer of up to an eighth more, while
    // the next batch, of little more than half the size, is fetched.
    for (compression, eighths) in [(Compression::None, 8), (Compression::Lz4, 9 + 5)] {
        let (world, controller, _producer) = cluster(4).await;
        for partition in 0..4 {
            let values = (0..10).map(value);
            world.append_batches("orders", [(partition, batch(compression, values))]).await;
        }
        let store = FaultyReads::new(world.objects.clone(), []);
        let builder = builder(&world, &controller).object_store(store.store());
        let builder = builder.fetch_memory(LIMIT).max_poll_records(1);
        let mut consumer = builder.build().await.unwrap();
        let (mut seen, mut most) = (0, 0);
        while seen < 40 {
            let record = read(&mut consumer, 1).await.remove(0);
            assert_eq!(record.value.as_deref(), Some(&*value(record.offset)));
            seen += 1;
            // At a pace at which the others could be read ahead, if they were let.
            tokio::time::sleep(Duration::from_millis(1)).await;
            most = most.max(consumer.metrics().buffered_bytes);
        }
        // BOUND: far more than the limit, and never a second batch beside it.
        let bound = BATCH / 8 * eighths + LIMIT as u64;
        assert!((BATCH..bound).contains(&most), "{compression:?}: {most}");
        assert_eq!(store.reads().most, 1, "{compression:?}");
    }
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
    const OBJECTS: u64 = 100;
    let (world, controller, _producer) = cluster(1).await;
    for object in 0..OBJECTS {
        let values = (0..10).map(|number| noise(object * 10 + number, 40));
        world.append_batches("orders", [(0, batch(Compression::None, values))]).await;
    }
    // The plan covers everything, and memory has room for a third of it: most objects are still to be fetched.
    let mut consumer = builder(&world, &controller)
        .fetch_memory(1 << 16)
        .max_poll_records(10)
        .operation_timeout(Duration::from_secs(2))
        .build()
        .await
        .unwrap();
    read(&mut consumer, 10).await;
    world.state.lock().unavailable = true;
    let before = consumer.metrics();
    assert!(before.get_requests < OBJECTS / 2, "{before:?}");
    let rest = read(&mut consumer, 10 * (OBJECTS as usize - 1)).await;
    for (offset, record) in (10..).zip(&rest) {
        assert_eq!((record.offset, record.value.as_deref()), (offset, Some(&*noise(offset, 40))));
    }
    let after = consumer.metrics();
    assert!(after.get_requests >= OBJECTS, "{after:?}");
    assert_eq!((before.look_ups, after.look_ups, world.state.lock().look_ups), (1, 1, 1));
    // New records are told of, but nobody says where they are: it waits, and goes on when somebody does.
    for _ in 0..5 {
        world.append_object("orders", 0..1).await;
    }
    let waited = consumer.poll(Duration::from_millis(500)).await;
    assert!(waited.is_err() || waited.unwrap().is_empty());
    until("a look-up", || world.state.lock().look_ups > 1).await;
    assert_eq!(consumer.position("orders", 0), Some(10 * OBJECTS));
    world.state.lock().unavailable = false;
    let (seen, _) = read_through(&mut consumer, 50).await;
    assert_eq!(seen, (1_000..1_050).map(|offset| (0, offset)).collect::<Vec<_>>());
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
