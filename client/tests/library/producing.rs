//! The producer against fake controllers and agents: redirects, lost connections, order, limits.
use std::time::Duration;

use crate::world::sending::{builder, offsets, one_agent, send, texts};
use crate::world::{Action, World};
use futures::FutureExt;
use futures::future::join_all;
use streamhouse_client::producer::ProduceError;
use streamhouse_client::{CallError, Producer, Record};
use streamhouse_proto::v1::{ErrorCode, ErrorInfo};

fn first_appearances(values: &[String]) -> Vec<String> {
    let mut first: Vec<String> = Vec::new();
    for value in values {
        if !first.contains(value) {
            first.push(value.clone());
        }
    }
    first
}

#[tokio::test]
async fn a_delivery_tells_the_real_offset() {
    let (world, controller, agent) = one_agent(1).await;
    world.add_topic("events", 4, &agent);
    let producer = builder(&controller).batch_size(10).build().await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..100 {
        let record = Record::to("events").partition(2).value(format!("{number}")).timestamp(number);
        deliveries.push(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    for (number, delivery) in deliveries.into_iter().enumerate() {
        let placed = delivery.await.unwrap();
        assert_eq!(
            (placed.partition, placed.offset, placed.timestamp),
            (2, number as u64, number as i64)
        );
        assert_eq!(&*placed.topic, "events");
    }
    assert_eq!(world.values("events", 2).await.len(), 100);
    let metrics = producer.metrics();
    assert_eq!((metrics.records, metrics.retries, metrics.failed_records), (100, 0, 0));
    producer.close().await.unwrap();
    let after = producer.send(Record::to("events").value("late")).await;
    assert!(matches!(after, Err(ProduceError::Closed { may_have_taken_effect: false })));
}

#[tokio::test]
async fn a_redirect_is_followed_without_ambiguity() {
    let (world, controller, agent) = one_agent(1).await;
    let producer = builder(&controller).build().await.unwrap();
    producer.partitions("orders").await.unwrap();
    // The lease moves after the producer has learnt the route.
    let other = world.add_agent().await;
    world.move_partition("orders", 0, &other);
    assert_ne!(agent, other);
    offsets(send(&producer, 0..20).await).await;
    assert_eq!(world.values("orders", 0).await, texts(0..20));
    let metrics = producer.metrics();
    assert!(metrics.retries >= 1 && metrics.ambiguous_retries == 0, "{metrics:?}");
}

#[tokio::test]
async fn an_agent_that_is_gone_is_replaced_by_the_one_the_controllers_name() {
    let (world, controller) = World::new().await;
    // Nobody listens there.
    world.add_topic("orders", 1, "127.0.0.1:1");
    let agent = world.add_agent().await;
    let producer = builder(&controller).build().await.unwrap();
    let delivery = producer.send(Record::to("orders").value("x")).await.unwrap();
    world.move_partition("orders", 0, &agent);
    assert_eq!(delivery.await.unwrap().offset, 0);
    assert_eq!(producer.metrics().ambiguous_retries, 0);
}

/// Found by the simulation (seed 32): the agent lives and keeps its lease, and a connection to it is dead without a word
/// from any kernel. Only its keep-alive tells.
#[tokio::test]
async fn a_connection_that_leads_nowhere_holds_nothing_up_for_longer_than_its_keep_alive() {
    let (world, controller) = World::new().await;
    let (agent, dead) = world.add_agent_behind_relay().await;
    world.add_topic("orders", 1, &agent);
    let producer = builder(&controller).build().await.unwrap();
    offsets(send(&producer, 0..1).await).await;
    dead.send_replace(1);
    let deliveries = send(&producer, 1..2).await;
    let placed = tokio::time::timeout(Duration::from_secs(8), offsets(deliveries)).await;
    assert_eq!(placed.expect("by another connection"), [1]);
    assert_eq!(world.values("orders", 0).await, texts(0..2));
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_sent_again_and_counted() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::WriteAndCut]);
    let producer = builder(&controller).enable_idempotence(false).build().await.unwrap();
    let delivery = producer.send(Record::to("orders").value("r0")).await.unwrap();
    // The second copy is the one that was acknowledged.
    assert_eq!(delivery.await.unwrap().offset, 1);
    assert_eq!(world.values("orders", 0).await, ["r0", "r0"]);
    let metrics = producer.metrics();
    assert_eq!((metrics.ambiguous_retries, metrics.ambiguous_records), (1, 1));
}

#[tokio::test]
async fn first_appearances_keep_their_order_through_retries() {
    let (world, controller, agent) = one_agent(1).await;
    // Streams that break before and after writing, with several batches behind in flight.
    world.script(
        &agent,
        [
            Action::Accept,
            Action::WriteAndCut,
            Action::Accept,
            Action::Accept,
            Action::Cut,
            Action::Cut,
            Action::Accept,
            Action::WriteAndCut,
            Action::Accept,
        ],
    );
    let builder = builder(&controller).batch_size(1).max_in_flight(5);
    let producer = builder.enable_idempotence(false).build().await.unwrap();
    offsets(send(&producer, 0..60).await).await;
    let values = world.values("orders", 0).await;
    assert_eq!(first_appearances(&values), texts(0..60));
    assert!(producer.metrics().ambiguous_retries >= 4, "{:?}", producer.metrics());
}

#[tokio::test]
async fn a_retryable_refusal_is_retried_in_order() {
    let (world, controller, agent) = one_agent(1).await;
    // Only the first try is refused, as by an agent that is about to get the lease.
    let early = ErrorInfo::new(ErrorCode::TopicNotReady, "no lease yet");
    world.script(&agent, [Action::Refuse(early)]);
    let producer = builder(&controller).batch_size(1).max_in_flight(5).build().await.unwrap();
    offsets(send(&producer, 0..5).await).await;
    assert_eq!(world.values("orders", 0).await, texts(0..5));
    assert_eq!(producer.metrics().ambiguous_retries, 0);
}

#[tokio::test]
async fn a_refusal_for_good_fails_its_batch_alone() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::Refuse(ErrorInfo::new(ErrorCode::CorruptBatch, "bad crc"))]);
    let producer = builder(&controller).batch_size(1).build().await.unwrap();
    let deliveries = send(&producer, 0..3).await;
    let results = join_all(deliveries).await;
    let error = results[0].clone().unwrap_err();
    assert_eq!(error.to_string(), "orders/0: bad crc");
    assert!(!error.retryable() && !error.may_have_taken_effect());
    assert!(results[1].is_ok() && results[2].is_ok());
    let flushed = producer.flush().await.unwrap_err();
    assert_eq!(flushed.failed, 1);
    // Each failure is reported by one flush.
    producer.flush().await.unwrap();
}

#[tokio::test]
async fn a_record_over_the_limit_fails_alone_and_at_once() {
    let (world, controller, _) = one_agent(1).await;
    let producer = builder(&controller).build().await.unwrap();
    let before = producer.send(Record::to("orders").value("a")).await.unwrap();
    let error = producer.send(Record::to("orders").value(vec![0; 2 << 20])).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("is over the limit of 1048576") && text.contains("2097"), "{text}");
    let after = producer.send(Record::to("orders").value("b")).await.unwrap();
    assert_eq!((before.await.unwrap().offset, after.await.unwrap().offset), (0, 1));
    assert_eq!(world.values("orders", 0).await, ["a", "b"]);
}

#[tokio::test]
async fn a_full_buffer_makes_send_wait_until_there_is_room() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::Hold, Action::Hold]);
    let producer = builder(&controller)
        .batch_bytes(1024)
        .max_record_bytes(4096)
        .buffer_memory(10_000)
        .compression(streamhouse_client::Compression::None)
        .build()
        .await
        .unwrap();
    let record = || Record::to("orders").value(vec![1; 2500]);
    let first = producer.send(record()).await.unwrap();
    let second = producer.send(record()).await.unwrap();
    let refused = producer.try_send(record()).unwrap_err();
    assert_eq!(refused, ProduceError::BufferFull { limit: 10_000, waited: Duration::ZERO });
    let mut third = Box::pin(producer.send(record()));
    assert!(third.as_mut().now_or_never().is_none());
    // An acknowledgement makes room.
    world.gate.add_permits(1);
    first.await.unwrap();
    let third = third.await.unwrap();
    world.gate.add_permits(1);
    assert_eq!((second.await.unwrap().offset, third.await.unwrap().offset), (1, 2));
}

#[tokio::test]
async fn an_unknown_topic_or_partition_is_named() {
    let (world, controller, _) = one_agent(1).await;
    let producer = builder(&controller).build().await.unwrap();
    let error = producer.send(Record::to("nope").value("x")).await.unwrap_err();
    assert_eq!(error.to_string(), "unknown topic nope");
    let error = producer.send(Record::to("orders").partition(7).value("x")).await.unwrap_err();
    assert_eq!(error.to_string(), "topic orders has no partition 7, only 0 to 0");
    // The refused record gave its room back, and the topic still works.
    producer.send(Record::to("orders").value("x")).await.unwrap().await.unwrap();
    // Deleted while in use: records fail by name, and a topic created again is found.
    let agent = world.state.lock().topics["orders"].1[0].agent.clone();
    world.state.lock().topics.remove("orders");
    let delivery = producer.send(Record::to("orders").value("x")).await.unwrap();
    assert_eq!(delivery.await.unwrap_err().to_string(), "unknown topic orders");
    world.add_topic("other", 1, &agent);
    world.add_topic("orders", 1, &agent);
    producer.send(Record::to("orders").value("y")).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_says_nothing_runs_into_the_delivery_timeout() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::Hold]);
    let timeout = Duration::from_secs(2);
    let builder = builder(&controller).delivery_timeout(timeout);
    let producer = builder.enable_idempotence(false).build().await.unwrap();
    let delivery = producer.send(Record::to("orders").value("x")).await.unwrap();
    let error = delivery.await.unwrap_err();
    assert!(error.retryable() && error.may_have_taken_effect(), "{error}");
    assert!(error.to_string().starts_with("orders/0 not acknowledged within 2s"), "{error}");
    assert_eq!(producer.metrics().failed_records, 1);
}

/// The agent is silent, so that the controllers are asked where the lease is; before they answer the agent does, with a
/// failure. The batch then waits for a route: it must not wait for a question that nobody attends to any more.
#[tokio::test]
async fn an_agent_that_answers_while_the_controllers_are_asked_costs_no_more_than_their_answer() {
    let (world, controller, agent) = one_agent(1).await;
    let early = ErrorInfo::new(ErrorCode::TopicNotReady, "no lease yet");
    world.script(&agent, [Action::HoldAndRefuse(early)]);
    let producer = builder(&controller).enable_idempotence(false).build().await.unwrap();
    producer.partitions("orders").await.unwrap();
    world.silence.send_replace(1);
    let delivery = producer.send(Record::to("orders").value("x")).await.unwrap();
    // The controllers were asked, and the question has its place in a controller that says nothing.
    world.silence.subscribe().wait_for(|left| *left == 0).await.unwrap();
    world.gate.add_permits(1);
    let placed = tokio::time::timeout(Duration::from_secs(25), delivery).await;
    assert_eq!(placed.expect("the next try is answered").unwrap().offset, 0);
    assert_eq!(world.values("orders", 0).await, ["x"]);
}

#[tokio::test]
async fn dropping_a_delivery_cancels_nothing_and_dropping_the_producer_fails_the_rest() {
    let (world, controller, agent) = one_agent(1).await;
    let producer = builder(&controller).build().await.unwrap();
    drop(producer.send(Record::to("orders").value("a")).await.unwrap());
    producer.flush().await.unwrap();
    assert_eq!(world.values("orders", 0).await, ["a"]);
    world.script(&agent, [Action::Hold]);
    let delivery = producer.send(Record::to("orders").value("b")).await.unwrap();
    drop(producer);
    assert!(matches!(delivery.await, Err(ProduceError::Closed { .. })));
}

#[tokio::test]
async fn timeouts_may_be_for_ever() {
    let (_world, controller, _) = one_agent(1).await;
    let producer = builder(&controller)
        .linger(Duration::MAX)
        .delivery_timeout(Duration::MAX)
        .request_timeout(Duration::MAX)
        .operation_timeout(Duration::MAX)
        .build()
        .await
        .unwrap();
    let delivery = producer.send(Record::to("orders").value("x")).await.unwrap();
    producer.flush().await.unwrap();
    assert_eq!(delivery.await.unwrap().offset, 0);
}

#[tokio::test]
async fn a_flush_covers_the_records_of_a_deleted_topic() {
    let (world, controller, agent) = one_agent(1).await;
    world.script(&agent, [Action::Hold]);
    let producer = builder(&controller).batch_size(1).max_in_flight(1).build().await.unwrap();
    world.add_topic("short", 2, &agent);
    let record = |partition| Record::to("short").partition(partition).value("x");
    let deliveries =
        (producer.send(record(0)).await.unwrap(), producer.send(record(1)).await.unwrap());
    world.state.lock().topics.remove("short");
    world.gate.add_permits(1);
    // As soon as one partition's task finds out, the topic is gone; the other's record is lost as well, and told.
    futures::future::select(deliveries.0, deliveries.1).await;
    let error = producer.flush().await.unwrap_err();
    assert_eq!(error.failed, 2);
    producer.close().await.unwrap();
}

#[tokio::test]
async fn very_small_batches_count_for_what_they_really_take() {
    let (world, controller, agent) = one_agent(1).await;
    world.add_topic("wide", 5_000, &agent);
    world.script(&agent, vec![Action::Hold; 5_000]);
    let memory = 2 << 20;
    let producer = builder(&controller)
        .linger(Duration::from_secs(60))
        .batch_bytes(1024)
        .max_record_bytes(4096)
        .buffer_memory(memory)
        .build()
        .await
        .unwrap();
    producer.partitions("wide").await.unwrap();
    let mut taken = 0;
    while producer.try_send(Record::to("wide").partition(taken).value("x")).is_ok() {
        taken += 1;
    }
    // Each opened a batch of its own, with all that belongs to one.
    assert!((100..2_000).contains(&taken), "{taken} batches in {memory} bytes");
}

#[tokio::test]
async fn a_dead_controller_is_passed_over_and_all_dead_are_named() {
    let (_world, controller, _) = one_agent(1).await;
    let producer =
        Producer::builder().controllers(["127.0.0.1:1", &controller]).build().await.unwrap();
    producer.send(Record::to("orders").value("x")).await.unwrap().await.unwrap();
    let none = Producer::builder()
        .controllers(["127.0.0.1:1", "127.0.0.1:2"])
        .operation_timeout(Duration::from_millis(100));
    let Err(ProduceError::Metadata { error: CallError::Unreachable { tried, .. }, .. }) =
        none.build().await
    else {
        panic!("nobody listens there")
    };
    assert_eq!(tried, ["127.0.0.1:1", "127.0.0.1:2"]);
}
