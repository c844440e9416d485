//! Idempotent producers through a whole agent: what is lost on the way is written once.

use super::controller::Fault;
use super::{PARTITIONS, Producer, RECORDS, Rig, patiently};
use bytes::Bytes;
use std::time::Duration;
use streamhouse_proto::v1::ErrorCode;
use streamhouse_segment::{BatchBuilder, Compression, Limits, NO_HEADERS, ProducerInfo};

/// The number of that batch of a producer, in its first epoch.
fn batch(producer: i64, number: u64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    for record in 0..RECORDS {
        let value = format!("{producer} {number} {record}");
        builder.push(1, None, Some(value.as_bytes()), NO_HEADERS).unwrap();
    }
    let base_sequence = i32::try_from(number * RECORDS).unwrap();
    builder.finish(ProducerInfo { id: producer, epoch: 0, base_sequence }).unwrap()
}

async fn send(stream: &mut Producer, producer: i64, numbers: std::ops::Range<u64>) {
    for number in numbers {
        stream.send_bytes(0, batch(producer, number)).await;
    }
}

fn offsets(numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.map(|number| number * RECORDS).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_twice_is_written_once_even_if_the_commit_s_answer_is_lost() {
    let rig = Rig::new(|_| {}).await;
    rig.store.hold(true);
    let before = *rig.store.writes.borrow();
    let mut first = rig.producer().await;
    send(&mut first, 7, 0..3).await;
    rig.store.written(before + 1).await;
    // The producer's stream broke, it believes: it sends all of it again on another, while nothing is decided.
    let mut second = rig.producer().await;
    send(&mut second, 7, 0..5).await;
    rig.controller.with(|state| state.faults.push_back(Fault::AnswerLost));
    rig.store.hold(false);
    assert_eq!(second.acknowledged(5).await, offsets(0..5));
    assert_eq!(first.acknowledged(3).await, offsets(0..3));
    // And once more, when it is all committed.
    let mut third = rig.producer().await;
    send(&mut third, 7, 0..6).await;
    assert_eq!(third.acknowledged(6).await, offsets(0..6));
    rig.controller.with(|state| assert_eq!(state.partitions[0].next_offset, 6 * RECORDS));
    rig.assert_dense();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_producer_s_batch_refuses_its_slice_and_nobody_else_notices() {
    let rig = Rig::new(|_| {}).await;
    let mut stream = rig.producer().await;
    send(&mut stream, 7, 0..1).await;
    send(&mut stream, 8, 0..1).await;
    assert_eq!(stream.acknowledged(2).await, offsets(0..2));
    // The agent knows both. One of them is fenced while batches of both are in one object.
    rig.store.hold(true);
    let before = *rig.store.writes.borrow();
    stream.send(1).await;
    rig.store.written(before + 1).await;
    let (mut good, mut bad) = (rig.producer().await, rig.producer().await);
    send(&mut bad, 7, 1..2).await;
    send(&mut good, 8, 1..3).await;
    rig.controller.with(|state| state.producer_epochs.insert(7, 1));
    rig.store.hold(false);
    assert_eq!(stream.acknowledged(1).await.len(), 1);
    let refused = bad.answers(1).await;
    assert_eq!(refused[&1].error.as_ref().unwrap().code(), ErrorCode::ProducerFenced);
    assert_eq!(good.acknowledged(2).await, offsets(2..4));
    rig.controller.with(|state| assert_eq!(state.partitions[0].next_offset, 4 * RECORDS));
    rig.assert_dense();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_was_given_up_writes_nothing_twice() {
    let rig = Rig::new(|options| options.put_timeout = Duration::from_millis(100)).await;
    rig.store.keep_back(true);
    let mut stream = rig.producer().await;
    send(&mut stream, 7, 0..3).await;
    // The abandonment has been committed: the epoch was raised beyond the registration's.
    patiently(rig.controller.until(|state| state.partitions[0].epoch > 1)).await;
    let mut again = rig.producer().await;
    send(&mut again, 7, 0..4).await;
    rig.store.keep_back(false);
    assert_eq!(stream.acknowledged(3).await, offsets(0..3));
    assert_eq!(again.acknowledged(4).await, offsets(0..4));
    // Those that were given up land, when the batches are committed elsewhere; and all are sent once more.
    assert!(rig.store.land().await > 0);
    let mut third = rig.producer().await;
    send(&mut third, 7, 0..4).await;
    assert_eq!(third.acknowledged(4).await, offsets(0..4));
    rig.controller.with(|state| assert_eq!(state.partitions[0].next_offset, 4 * RECORDS));
    rig.assert_dense();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_knows_what_the_one_before_had_written() {
    let rig = Rig::new(|_| {}).await;
    let mut stream = rig.producer().await;
    send(&mut stream, 7, 0..3).await;
    assert_eq!(stream.acknowledged(3).await, offsets(0..3));
    let before = rig.agent.session();
    rig.controller.end_session();
    let reopened = async {
        while rig.agent.session() <= before || rig.agent.leases() < PARTITIONS {
            tokio::task::yield_now().await;
        }
    };
    patiently(reopened).await;
    let mut again = rig.producer().await;
    send(&mut again, 7, 1..5).await;
    assert_eq!(again.acknowledged(4).await, offsets(1..5));
    let mut gap = rig.producer().await;
    send(&mut gap, 7, 6..7).await;
    let refused = gap.answers(1).await;
    assert_eq!(refused[&1].error.as_ref().unwrap().code(), ErrorCode::OutOfOrderSequence);
    rig.controller.with(|state| assert_eq!(state.partitions[0].next_offset, 5 * RECORDS));
    rig.finish().await;
}
