//! The read path over a store that fails: what comes is right, or the error names object and range (READ).
use crate::world::faulty::{FaultyReads, ReadFault};
use crate::world::reading::{SOON, builder, cluster, fill, read, read_through};
use futures::future::join_all;
use streamhouse_client::consumer::ConsumeError;
use streamhouse_store::GetError;

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
    assert_eq!(faulty.left(), 0, "every fault has happened");
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
    use ReadFault::{Flipped, SlowDown, TimedOut, Truncated};
    // Each is tried for a while: all at once.
    join_all([Flipped, SlowDown, TimedOut, Truncated].map(stays_broken)).await;
}

async fn stays_broken(fault: ReadFault) {
    let (world, controller, _producer) = cluster(1).await;
    for _ in 0..2 {
        world.append_object("orders", 0..1).await;
    }
    let length = world.state.lock().topics["orders"].1[0].segments[0].length;
    let faulty = FaultyReads::lasting(world.objects.clone(), fault);
    let mut consumer =
        builder(&world, &controller).object_store(faulty.store()).build().await.unwrap();
    let error = consumer.poll(SOON).await.unwrap_err();
    let as_it_is = match (&error, fault) {
        (ConsumeError::Corrupt { .. }, ReadFault::Flipped) => true,
        (ConsumeError::Store { error, .. }, _) => matches!(
            (error, fault),
            (GetError::Throttled { .. }, ReadFault::SlowDown)
                | (GetError::Unavailable { .. }, ReadFault::TimedOut)
                | (GetError::Short { .. }, ReadFault::Truncated)
        ),
        _ => false,
    };
    let text = error.to_string();
    assert!(as_it_is, "{fault:?}: {text}");
    let named = text.contains(&format!("bytes 0..{length}")) && text.contains(&world.key(1));
    assert!(named, "{fault:?}: {text}");
    // READ: nothing was skipped.
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
