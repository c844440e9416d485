//! What a member of a group asks of its coordinator: the topics it wants, how they are shared out, and to be let go.

use std::time::Duration;

use crate::world::member::Setting;
use crate::world::reading::{SOON, read};
use streamhouse_client::consumer::{Assignor, ConsumeError, ConsumerBuilder};
use streamhouse_client::{OffsetReset, Record, TopicPartition};
use streamhouse_proto::v1;

#[tokio::test]
async fn a_member_gets_what_its_pattern_matches_also_when_it_is_created_later() {
    let mut setting = Setting::with(1, |builder| builder).await;
    let agent = setting.world.state.lock().topics["orders"].1[0].agent.clone();
    setting.world.add_topic("log-a", 1, &agent);
    setting.consumer.subscribe_pattern("log-.*").await.unwrap();
    assert_eq!(setting.asked(), ["join", "assigned 0"]);
    assert_eq!(setting.consumer.assignment(), [TopicPartition::new("log-a", 0)]);

    setting.world.add_topic("log-b", 2, &agent);
    setting.world.add_topic("other", 1, &agent);
    let record = Record::to("log-b").partition(0).value("first");
    setting.producer.send(record).await.unwrap().await.unwrap();
    let record = read(&mut setting.consumer, 1).await.remove(0);
    assert_eq!((&*record.topic, record.value.as_deref()), ("log-b", Some(&b"first"[..])));
    // It stayed the member that it was, and keeps what it had.
    assert_eq!(setting.asked(), ["join", "assigned 0", "join", "assigned 0 1"]);
    let (ids, wanted) = {
        let state = setting.world.state.lock();
        let ids = ["log-a", "log-b"].map(|topic| state.topics[topic].0.to_vec());
        (ids, state.groups.joins.clone())
    };
    assert_eq!(wanted[1].topic_ids, ids);
    assert!(wanted[1].is_member && wanted[1].member_id == wanted[0].member_id);
}

#[tokio::test]
async fn what_is_created_after_the_subscription_is_read_from_its_beginning() {
    let latest = |builder: ConsumerBuilder| builder.offset_reset(OffsetReset::Latest);
    let mut setting = Setting::with(1, latest).await;
    let agent = setting.world.state.lock().topics["orders"].1[0].agent.clone();
    setting.world.add_topic("log-a", 1, &agent);
    let (world, producer) = (setting.world.clone(), setting.producer.clone());
    let send = async |topic: &'static str, value: &'static str| {
        producer.send(Record::to(topic).partition(0).value(value)).await.unwrap().await.unwrap();
    };
    send("log-a", "old").await;
    setting.consumer.subscribe_pattern("log-.*").await.unwrap();
    world.add_topic("log-b", 1, &agent);
    // There before the member knows of the topic: nothing of it is old.
    send("log-b", "new").await;
    let record = read(&mut setting.consumer, 1).await.remove(0);
    assert_eq!((&*record.topic, record.value.as_deref()), ("log-b", Some(&b"new"[..])));
    // Of the other one only what comes from now on.
    send("log-a", "newer").await;
    let record = read(&mut setting.consumer, 1).await.remove(0);
    assert_eq!((&*record.topic, record.value.as_deref()), ("log-a", Some(&b"newer"[..])));
}

#[tokio::test]
async fn a_member_that_unsubscribes_commits_what_was_taken_and_leaves_at_once() {
    let mut setting = Setting::new(2).await;
    setting.send(1).await;
    setting.read_to(1, 1).await;
    // The poll after the record says that it was taken.
    let none = setting.consumer.poll(Duration::from_millis(20)).await.unwrap();
    assert!(none.is_empty());
    setting.consumer.unsubscribe().await.unwrap();
    let expected = ["join", "assigned 0 1", "revoked 0 1", "commit 0", "commit 1", "leave"];
    assert_eq!(setting.asked(), expected);
    assert!(setting.consumer.assignment().is_empty());
    assert!(matches!(setting.consumer.poll(SOON).await, Err(ConsumeError::NotSubscribed)));
    let commit = setting.world.state.lock().commits[0].clone();
    let committed: Vec<u64> = commit.offsets.iter().map(|one| one.offset).collect();
    assert_eq!((committed, commit.member_id.len()), (vec![0, 1], 16));

    // Subscribed again it is another member, and goes on where the group stands.
    setting.consumer.subscribe(["orders"]).await.unwrap();
    assert_eq!(setting.consumer.position("orders", 1), Some(1));
    assert_ne!(setting.member(), commit.member_id);
}

#[tokio::test]
async fn what_the_builder_says_of_a_member_reaches_the_coordinator() {
    let assignors = [
        (Assignor::Sticky, v1::GroupAssignor::Sticky),
        (Assignor::Range, v1::GroupAssignor::Range),
        (Assignor::RoundRobin, v1::GroupAssignor::RoundRobin),
    ];
    for (assignor, wire) in assignors {
        let options = |builder: ConsumerBuilder| {
            let builder = builder.topics(["orders"]).assignor(assignor).client_id("billing-7");
            builder.session_timeout(Duration::from_millis(7_600))
        };
        let setting = Setting::with(1, options).await;
        let join = setting.world.state.lock().groups.joins[0].clone();
        assert_eq!((join.group.as_str(), join.assignor()), ("g", wire));
        assert_eq!((join.client_id.as_str(), join.session_timeout_ms), ("billing-7", 7_600));
        assert_eq!((join.instance_id.as_str(), join.is_member), ("", false));
    }
    // Nothing said, it is the sticky one.
    let setting = Setting::new(1).await;
    let join = setting.world.state.lock().groups.joins[0].clone();
    assert_eq!(join.assignor(), v1::GroupAssignor::Sticky);
}

#[tokio::test]
async fn a_static_member_that_closes_commits_and_does_not_leave() {
    let instance =
        |builder: ConsumerBuilder| builder.topics(["orders"]).group_instance_id("pump-1");
    let mut setting = Setting::with(1, instance).await;
    setting.send(0).await;
    read(&mut setting.consumer, 1).await;
    let member = setting.member();
    setting.consumer.close().await.unwrap();
    let state = setting.world.state.lock();
    assert_eq!(state.groups.asked, ["join", "assigned 0", "revoked 0", "commit 0"]);
    assert_eq!(state.commits[0].offsets[0].offset, 1);
    // Its place is kept for the instance until the session timeout.
    assert_eq!(state.groups.members[0].0, member);
    assert_eq!(state.groups.joins[0].instance_id, "pump-1");
}
