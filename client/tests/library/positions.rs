//! Where a consumer stands in the log, and where that begins and ends: positions, seeks, offsets by time.

use std::time::Duration;

use crate::world::reading::{
    SOON, at, builder, cluster, fill, idle, offsets, read, read_through, with_objects,
};
use streamhouse_client::consumer::{ConsumeError, OffsetAndTimestamp};
use streamhouse_client::{Consumer, OffsetReset, Producer, Record};

#[tokio::test]
async fn seek_position_and_commit_go_together() {
    let (world, controller, producer) = cluster(2).await;
    fill(&producer, 0, 0..40).await;
    let group = || builder(&world, &controller).group_id("g").auto_commit(false);
    let mut consumer = group().build().await.unwrap();
    assert!(consumer.committed().await.unwrap().is_empty());
    read(&mut consumer, 40).await;
    consumer.seek("orders", 0, 33).unwrap();
    assert_eq!(consumer.position("orders", 0), Some(33));
    assert_eq!(offsets(&read(&mut consumer, 7).await), (33..40).collect::<Vec<_>>());
    consumer.seek("orders", 0, 12).unwrap();
    consumer.commit().await.unwrap();
    assert_eq!(consumer.committed().await.unwrap()[&at("orders", 0)], 12);
    assert!(consumer.seek("orders", 9, 0).is_err());
    consumer.close().await.unwrap();

    // A successor goes on where the group stands; commits are numbered in order.
    let mut next = group().build().await.unwrap();
    assert_eq!(offsets(&read(&mut next, 28).await)[0], 12);
    next.seek_to_beginning().await.unwrap();
    assert_eq!(next.position("orders", 0), Some(0));
    next.seek_to_end().await.unwrap();
    next.commit().await.unwrap();
    next.commit().await.unwrap();
    let commits = world.state.lock().commits.clone();
    let numbers: Vec<u64> =
        commits.iter().map(|commit| commit.request.as_ref().unwrap().number).collect();
    assert_eq!(numbers, [1, 1, 2]);
}

#[tokio::test]
async fn at_the_end_only_what_comes_from_now_on_is_read() {
    let (world, controller, producer) = cluster(2).await;
    fill(&producer, 0, 0..40).await;
    let mut consumer = builder(&world, &controller).max_poll_records(5).build().await.unwrap();
    // What was read ahead of these is not handed out any more.
    assert_eq!(offsets(&read(&mut consumer, 5).await), (0..5).collect::<Vec<_>>());
    consumer.seek_to_end().await.unwrap();
    assert_eq!(consumer.position("orders", 0), Some(40));
    assert_eq!(consumer.position("orders", 1), Some(0));
    assert!(consumer.poll(Duration::from_millis(50)).await.unwrap().is_empty());
    fill(&producer, 0, 40..45).await;
    assert_eq!(offsets(&read(&mut consumer, 5).await), (40..45).collect::<Vec<_>>());
    assert_eq!(consumer.position("orders", 0), Some(45));
}

#[tokio::test]
async fn the_beginning_moves_with_the_start_of_the_log() {
    let (world, controller) = with_objects(3).await;
    let mut consumer = builder(&world, &controller).build().await.unwrap();
    let beginnings = async |consumer: &Consumer| {
        let all = consumer.beginning_offsets().await.unwrap();
        [all[&at("orders", 0)], all[&at("orders", 1)]]
    };
    assert_eq!(beginnings(&consumer).await, [0, 0]);
    assert_eq!(read(&mut consumer, 60).await.len(), 60);
    world.trim("orders", 0);
    assert_eq!(beginnings(&consumer).await, [10, 0]);
    // The end stays, and so does whoever has read beyond the new start.
    assert_eq!(consumer.end_offsets().await.unwrap(), consumer.positions());
    consumer.seek_to_beginning().await.unwrap();
    assert_eq!(consumer.position("orders", 0), Some(10));
    let again = read(&mut consumer, 50).await;
    let first = again.iter().find(|record| record.partition == 0).unwrap();
    assert_eq!(first.offset, 10);
}

#[tokio::test]
async fn the_reset_policy_decides_where_there_is_no_offset() {
    let (world, controller, producer) = cluster(1).await;
    fill(&producer, 0, 0..10).await;
    let reset = |reset| builder(&world, &controller).group_id("g").offset_reset(reset);
    let mut none = reset(OffsetReset::None).build().await.unwrap();
    let error = none.poll(SOON).await.unwrap_err();
    assert_eq!(error.to_string(), "orders/0 has no committed offset, and offset_reset is none");
    none.seek("orders", 0, 99).unwrap();
    let error = none.poll(SOON).await.unwrap_err().to_string();
    assert!(
        error.starts_with("offset 99 of orders/0 is out of range: the log reaches from 0 to 10"),
        "{error}"
    );
    none.seek("orders", 0, 9).unwrap();
    assert_eq!(offsets(&read(&mut none, 1).await), [9]);

    let mut latest = reset(OffsetReset::Latest).build().await.unwrap();
    assert_eq!(latest.position("orders", 0), Some(10));
    fill(&producer, 0, 10..11).await;
    assert_eq!(offsets(&read(&mut latest, 1).await), [10]);

    // What the log no longer has is read from its start.
    world.trim("orders", 0);
    let start = world.state.lock().topics["orders"].1[0].log_start;
    let mut earliest = builder(&world, &controller).build().await.unwrap();
    earliest.seek("orders", 0, 0).unwrap();
    assert_eq!(read(&mut earliest, 1).await[0].offset, start);
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
async fn a_partition_whose_beginning_cannot_be_found_keeps_no_other_from_being_read() {
    let (world, controller, _producer) = cluster(2).await;
    for partition in 0..2 {
        world.append_object("orders", partition..partition + 1).await;
    }
    // Partition 0 has no commit, and what the search would look into is gone.
    let missing = world.get(&world.key(1)).await;
    world.delete(&world.key(1)).await;
    let since = OffsetReset::Since(Duration::from_secs(100 * 365 * 24 * 3_600));
    let builder = builder(&world, &controller).group_id("g").offset_reset(since);
    let mut consumer = builder.build().await.unwrap();
    let (seen, _) = read_through(&mut consumer, 10).await;
    assert!(seen.iter().all(|(partition, _)| *partition == 1), "{seen:?}");
    assert_eq!(consumer.position("orders", 0), None);
    // It is told as often as it is searched again, between the others' records.
    for _ in 0..2 {
        let error = consumer.poll(SOON).await.unwrap_err();
        assert!(matches!(error, ConsumeError::MissingObject { .. }), "{error}");
    }
    world.append_object("orders", 1..2).await;
    assert_eq!(read_through(&mut consumer, 10).await.0[0], (1, 10));
    // Also after a pause.
    consumer.pause([("orders", 0)]).unwrap();
    world.put(&world.key(1), missing).await;
    consumer.resume([("orders", 0)]).unwrap();
    assert_eq!(read_through(&mut consumer, 10).await.0[0], (0, 0));
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
