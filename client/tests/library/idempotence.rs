//! An idempotent producer against fake controllers and agents: every record once, in order, at its promised offset,
//! whatever was lost on the way.
use std::time::Duration;

use crate::world::sending::{self, offsets, one_agent, send, texts};
use crate::world::{Action, World};
use futures::future::join_all;
use streamhouse_client::Record;
use streamhouse_client::producer::{ProduceError, ProducerBuilder};
use streamhouse_proto::v1::{ErrorCode, ErrorInfo};

/// Long enough for a batch to be sent, and for a producer to ask where its silent agent's lease is, which it does after
/// each second; short enough to wait for.
const SOON: Duration = Duration::from_millis(2_500);

/// Each record in a batch of its own.
fn builder(controller: &str) -> ProducerBuilder {
    sending::builder(controller).batch_size(1)
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_in_the_log_once_at_its_offset() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::WriteAndCut]);
    let producer = builder(&controller).build().await.unwrap();
    assert_eq!(offsets(send(&producer, [0]).await).await, [0]);
    assert_eq!(world.values("orders", 0).await, ["0"]);
    let metrics = producer.metrics();
    assert_eq!((metrics.retries, metrics.ambiguous_records), (1, 0), "nothing may stand twice");
}

#[tokio::test]
async fn every_record_is_there_once_and_in_order_through_lost_answers_and_moved_leases() {
    let (world, controller, agent) = one_agent(1).await;
    let other = world.add_agent().await;
    let faults = || {
        [
            Action::Accept,
            Action::WriteAndCut,
            Action::Accept,
            Action::Accept,
            Action::Cut,
            Action::Cut,
            Action::Accept,
            Action::WriteAndCut,
            Action::Refuse(ErrorInfo::new(ErrorCode::OutcomeUnknown, "who knows")),
        ]
    };
    world.script(&agent, faults());
    world.script(&other, faults());
    let producer = builder(&controller).max_in_flight(64).build().await.unwrap();
    let mut deliveries = send(&producer, 0..60).await;
    world.move_partition("orders", 0, &other);
    deliveries.extend(send(&producer, 60..120).await);
    assert_eq!(offsets(deliveries).await, (0..120).collect::<Vec<_>>());
    assert_eq!(world.values("orders", 0).await, texts(0..120));
}

#[tokio::test]
async fn a_batch_that_is_given_up_is_certainly_not_written_even_if_it_lands_late() {
    let (world, controller, agent) = one_agent(1).await;
    // The first batch reaches the agent and is held there, with all that follow it on its stream.
    world.script(&agent, [Action::Hold]);
    let producer = builder(&controller).delivery_timeout(SOON).build().await.unwrap();
    let late = send(&producer, [0]).await.pop().unwrap().await.unwrap_err();
    assert!(matches!(late, ProduceError::TimedOut { .. }), "{late}");
    assert!(!late.may_have_taken_effect(), "it is known: {late}");
    // The producer goes on elsewhere, under its next epoch.
    let other = world.add_agent().await;
    world.move_partition("orders", 0, &other);
    assert_eq!(offsets(send(&producer, 1..5).await).await, [0, 1, 2, 3]);
    // Now the one that was given up is written, or would be: the lease is where it was sent to.
    world.move_partition("orders", 0, &agent);
    world.gate.add_permits(1);
    assert_eq!(offsets(send(&producer, 5..6).await).await, [4]);
    assert_eq!(world.values("orders", 0).await, texts(1..6));
}

#[tokio::test]
async fn a_batch_that_was_written_is_acknowledged_although_no_answer_ever_came() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::Accept, Action::WriteAndForget]);
    let producer = builder(&controller).delivery_timeout(SOON).build().await.unwrap();
    assert_eq!(offsets(send(&producer, 0..2).await).await, [0, 1]);
    assert_eq!(offsets(send(&producer, 2..4).await).await, [2, 3]);
    assert_eq!(world.values("orders", 0).await, texts(0..4));
    assert_eq!(producer.metrics().failed_records, 0);
}

#[tokio::test]
async fn a_batch_refused_for_good_leaves_no_gap() {
    let (world, controller, agent) = one_agent(1).await;
    let corrupt = ErrorInfo::new(ErrorCode::CorruptBatch, "bad crc");
    world.script(&agent, [Action::Accept, Action::Refuse(corrupt)]);
    let producer = builder(&controller).build().await.unwrap();
    let deliveries = send(&producer, 0..6).await;
    let results = join_all(deliveries).await;
    let refused = results[1].as_ref().unwrap_err();
    assert!(matches!(refused, ProduceError::Refused { .. }), "{refused}");
    assert!(!refused.may_have_taken_effect());
    let placed: Vec<_> = results.iter().flatten().map(|placed| placed.offset).collect();
    assert_eq!(placed, [0, 1, 2, 3, 4]);
    assert_eq!(world.values("orders", 0).await, texts([0, 2, 3, 4, 5]));
}

#[tokio::test]
async fn one_partition_s_new_epoch_leaves_the_others_whole() {
    let (world, controller) = World::new().await;
    let (slow, quick) = (world.add_agent().await, world.add_agent().await);
    world.add_topic("orders", 2, &quick);
    world.move_partition("orders", 0, &slow);
    // The second's outcome is open when the other partition's batch is refused for good, and raises the epoch.
    world.script(&quick, [Action::Accept, Action::WriteAndForget]);
    let corrupt = ErrorInfo::new(ErrorCode::CorruptBatch, "bad crc");
    world.script(&slow, [Action::Refuse(corrupt)]);
    let producer = builder(&controller).build().await.unwrap();
    let to =
        |partition, value: u32| Record::to("orders").partition(partition).value(value.to_string());
    let mut others = Vec::new();
    for value in 0..4 {
        others.push(producer.send(to(1, value)).await.unwrap());
    }
    let doomed = producer.send(to(0, 0)).await.unwrap();
    assert!(doomed.await.is_err());
    assert_eq!(offsets(others).await, [0, 1, 2, 3]);
    assert_eq!(world.values("orders", 1).await, texts(0..4));
}

#[tokio::test]
async fn who_takes_over_a_name_fences_its_predecessor_with_batches_on_their_way() {
    let (world, controller, agent) = one_agent(1).await;
    let first = builder(&controller).producer_name("loader").build().await.unwrap();
    assert_eq!(offsets(send(&first, [0]).await).await, [0]);
    world.script(&agent, [Action::Hold]);
    let held = send(&first, [1, 2]).await;

    let second = builder(&controller).producer_name("loader").build().await.unwrap();
    world.gate.add_permits(1);
    for delivery in held {
        let error = delivery.await.unwrap_err();
        assert!(matches!(error, ProduceError::Fenced { .. }), "{error}");
        assert!(!error.retryable() && !error.may_have_taken_effect(), "{error}");
    }
    let error = first.send(Record::to("orders").value("3")).await.unwrap_err();
    assert!(matches!(error, ProduceError::Fenced { .. }), "{error}");
    assert_eq!(offsets(send(&second, 4..6).await).await, [1, 2]);
    assert_eq!(world.values("orders", 0).await, texts([0, 4, 5]));
}

#[tokio::test]
async fn a_lost_answer_to_a_call_for_the_next_epoch_fences_nobody() {
    let (world, controller, agent) = one_agent(1).await;
    world.state.lock().producers.lose_answers = 1;
    let producer = builder(&controller).build().await.unwrap();
    assert_eq!(offsets(send(&producer, [0]).await).await, [0]);
    let corrupt = ErrorInfo::new(ErrorCode::CorruptBatch, "bad crc");
    world.script(&agent, [Action::Refuse(corrupt)]);
    world.state.lock().producers.lose_answers = 2;
    assert!(send(&producer, [1]).await.pop().unwrap().await.is_err());
    assert_eq!(offsets(send(&producer, 2..4).await).await, [1, 2]);
    assert_eq!(world.state.lock().producers.epochs, [1], "one producer, one epoch more");
}

#[tokio::test]
async fn without_controllers_a_given_up_batch_is_in_doubt_and_the_producer_goes_on_when_they_return()
 {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::Accept, Action::WriteAndForget]);
    let producer = builder(&controller)
        .delivery_timeout(SOON)
        .operation_timeout(Duration::from_secs(1))
        .build()
        .await
        .unwrap();
    assert_eq!(offsets(send(&producer, [0]).await).await, [0]);
    world.state.lock().producers.unavailable = true;
    let doubtful = send(&producer, [1]).await.pop().unwrap().await.unwrap_err();
    assert!(doubtful.may_have_taken_effect(), "{doubtful}");
    world.state.lock().producers.unavailable = false;
    assert_eq!(offsets(send(&producer, 2..4).await).await, [2, 3]);
    assert_eq!(world.values("orders", 0).await, texts(0..4));
}

#[tokio::test]
async fn a_lost_answer_of_a_producer_that_was_taken_over_is_in_doubt() {
    let (world, controller, agent) = one_agent(1).await;
    let named = || builder(&controller).producer_name("loader");
    let first = named().build().await.unwrap();
    assert_eq!(offsets(send(&first, [0]).await).await, [0]);
    world.script(&agent, [Action::WriteAndForget]);
    let lost = send(&first, [1]).await.pop().unwrap();
    while world.values("orders", 0).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    // The one that takes over writes before the first asks: of its epoch nothing is kept any more.
    let second = named().build().await.unwrap();
    assert_eq!(offsets(send(&second, [4]).await).await, [2]);
    // The next batch tells the first that it is fenced.
    let late = send(&first, [2]).await.pop().unwrap();
    let error = lost.await.unwrap_err();
    assert!(error.may_have_taken_effect(), "it is in the log: {error}");
    assert!(late.await.is_err());
    assert_eq!(world.values("orders", 0).await, texts([0, 1, 4]));
}
