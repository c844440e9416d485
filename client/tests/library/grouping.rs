//! A member of a consumer group, against a coordinator that says what the test wants.
use std::time::Duration;

use crate::world::World;
use crate::world::reading::cluster;
use streamhouse_client::consumer::{ConsumeError, RebalanceListener};
use streamhouse_client::{Consumer, OffsetReset, Producer, Record, TopicPartition};

/// Long enough for whatever is to come; what is not to come is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes what it hears into the coordinator's list, so that the order of all shows.
struct Listener(World);

impl Listener {
    fn note(&self, what: &str, partitions: &[TopicPartition]) {
        let numbers: Vec<_> = partitions.iter().map(|at| at.partition.to_string()).collect();
        self.0.state.lock().groups.asked.push(format!("{what} {}", numbers.join(" ")));
    }
}

impl RebalanceListener for Listener {
    fn assigned(&self, partitions: &[TopicPartition]) {
        self.note("assigned", partitions);
    }
    fn revoked(&self, partitions: &[TopicPartition]) {
        self.note("revoked", partitions);
    }
    fn lost(&self, partitions: &[TopicPartition]) {
        self.note("lost", partitions);
    }
}

struct Setting {
    world: World,
    consumer: Consumer,
    producer: Producer,
}

impl Setting {
    async fn new(partitions: usize, max_poll_interval: Duration) -> Self {
        let (world, controller, producer) = cluster(partitions).await;
        let consumer = Consumer::builder()
            .controllers([&*controller])
            .object_store(world.store())
            .group_id("g")
            .topics(["orders"])
            .offset_reset(OffsetReset::Earliest)
            .auto_commit_interval(Duration::MAX)
            .session_timeout(Duration::from_millis(600))
            .heartbeat_interval(Duration::from_millis(50))
            .max_poll_interval(max_poll_interval)
            .metadata_refresh(Duration::from_millis(50))
            .rebalance_listener(Listener(world.clone()))
            .build()
            .await
            .unwrap();
        Self { world, consumer, producer }
    }

    async fn send(&self, partition: u32) {
        let record = Record::to("orders").partition(partition).value("v");
        self.producer.send(record).await.unwrap().await.unwrap();
    }

    fn order(&self, change: impl FnOnce(&mut crate::world::Coordinator)) {
        change(&mut self.world.state.lock().groups);
        self.world.announce();
    }

    /// Polls until that was asked or heard; what came is returned.
    async fn poll_until(&mut self, what: &str) -> usize {
        let mut records = 0;
        let until = tokio::time::Instant::now() + PATIENCE;
        while !self.asked().iter().any(|asked| asked == what) {
            assert!(tokio::time::Instant::now() < until, "no {what}: {:?}", self.asked());
            records += self.consumer.poll(Duration::from_millis(20)).await.unwrap().len();
        }
        records
    }

    fn asked(&self) -> Vec<String> {
        self.world.state.lock().groups.asked.clone()
    }
}

#[tokio::test]
async fn what_is_asked_for_is_revoked_committed_and_only_then_released() {
    let mut setting = Setting::new(2, PATIENCE).await;
    assert_eq!(setting.asked(), ["join", "assigned 0 1"]);
    setting.send(1).await;
    while setting.consumer.position("orders", 1) != Some(1) {
        setting.consumer.poll(PATIENCE).await.unwrap();
    }
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false), (1, 1, true)]));
    setting.poll_until("release 1@1").await;
    let expected = ["join", "assigned 0 1", "revoked 1", "commit 1", "release 1@1"];
    assert_eq!(setting.asked()[..5], expected);
    assert_eq!(setting.consumer.assignment(), [TopicPartition::new("orders", 0)]);
    let commit = setting.world.state.lock().commits[0].clone();
    // As the member that it is, of the epoch that it has heard of.
    assert_eq!((commit.member_id.len(), commit.member_epoch), (16, 1));
    // It goes on reading what stays.
    setting.send(0).await;
    while setting.consumer.position("orders", 0) != Some(1) {
        setting.consumer.poll(PATIENCE).await.unwrap();
    }
    setting.consumer.close().await.unwrap();
    let asked = setting.world.state.lock().groups.asked.clone();
    assert_eq!(asked[asked.len() - 3..], ["revoked 0", "commit 0", "leave"]);
}

#[tokio::test]
async fn a_member_past_its_session_timeout_hands_out_nothing_more() {
    let mut setting = Setting::new(1, PATIENCE).await;
    setting.order(|groups| groups.deaf = true);
    // Records come, but nobody confirms that the member lives.
    tokio::time::sleep(Duration::from_millis(700)).await;
    setting.send(0).await;
    let records = setting.poll_until("lost 0").await;
    assert_eq!(records, 0);
    assert!(setting.consumer.assignment().is_empty());
    // What was lost is not committed.
    assert!(setting.world.state.lock().commits.is_empty());
    setting.order(|groups| groups.deaf = false);
    let until = tokio::time::Instant::now() + PATIENCE;
    while setting.consumer.poll(Duration::from_millis(50)).await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < until, "{:?}", setting.asked());
    }
}

#[tokio::test]
async fn a_fenced_member_loses_everything_and_joins_as_another() {
    let mut setting = Setting::new(1, PATIENCE).await;
    let first = setting.world.state.lock().groups.members[0].0.clone();
    setting.order(|groups| groups.members.clear());
    setting.poll_until("lost 0").await;
    let until = tokio::time::Instant::now() + PATIENCE;
    while setting.consumer.assignment().is_empty() {
        assert!(tokio::time::Instant::now() < until, "{:?}", setting.asked());
        setting.consumer.poll(Duration::from_millis(20)).await.unwrap();
    }
    // The task joins again at once, poll hears of the loss when it comes to it; but first.
    let heard: Vec<_> = setting.asked().into_iter().filter(|asked| asked != "join").collect();
    assert_eq!(heard, ["assigned 0", "lost 0", "assigned 0"]);
    assert_ne!(setting.world.state.lock().groups.members[0].0, first);
}

#[tokio::test]
async fn a_member_that_does_not_poll_leaves_and_joins_again_when_it_does() {
    let mut setting = Setting::new(1, Duration::from_secs(1)).await;
    let until = tokio::time::Instant::now() + PATIENCE;
    while !setting.asked().contains(&"leave".to_owned()) {
        assert!(tokio::time::Instant::now() < until, "{:?}", setting.asked());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    setting.send(0).await;
    let until = tokio::time::Instant::now() + PATIENCE;
    while setting.consumer.poll(Duration::from_millis(50)).await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < until, "{:?}", setting.asked());
    }
    let asked = setting.asked();
    let at = |what: &str| asked.iter().rposition(|asked| asked == what);
    assert!(at("leave") < at("join") && at("lost 0") < at("assigned 0"), "{asked:?}");
}

#[tokio::test]
async fn an_unknown_topic_is_told_when_joining() {
    let (world, controller, _producer) = cluster(1).await;
    let builder = Consumer::builder().controllers([&*controller]).object_store(world.store());
    let error = builder.group_id("g").topics(["none"]).build().await.unwrap_err();
    assert!(matches!(error, ConsumeError::UnknownTopic { .. }), "{error}");
}

#[tokio::test]
async fn a_commit_goes_out_in_the_name_of_the_member_that_asked_for_it() {
    let mut setting = Setting::new(1, PATIENCE).await;
    setting.send(0).await;
    while setting.consumer.position("orders", 0) != Some(1) {
        setting.consumer.poll(PATIENCE).await.unwrap();
    }
    let first = setting.world.state.lock().groups.members[0].0.clone();
    // One is on its way and is not answered, the other waits behind it.
    setting.world.commits_held.send_replace(true);
    let pending = [(); 2].map(|()| setting.consumer.commit_async().unwrap());
    setting.order(|groups| groups.members.clear());
    setting.poll_until("lost 0").await;
    let until = tokio::time::Instant::now() + PATIENCE;
    while setting.consumer.assignment().is_empty() {
        assert!(tokio::time::Instant::now() < until, "{:?}", setting.asked());
        setting.consumer.poll(Duration::from_millis(20)).await.unwrap();
    }
    assert_ne!(setting.world.state.lock().groups.members[0].0, first);
    setting.world.commits_held.send_replace(false);
    for commit in pending {
        // What the controllers make of it is theirs to say: it is of a member that is no more (GROUP).
        let _ = commit.await;
    }
    let commits = setting.world.state.lock().commits.clone();
    assert!(commits.len() >= 2);
    assert!(commits.iter().all(|commit| commit.member_id == first), "{commits:?}");
}

#[tokio::test]
async fn a_subscription_that_was_not_taken_is_said_again() {
    let mut setting = Setting::new(1, PATIENCE).await;
    let agent = setting.world.state.lock().topics["orders"].1[0].agent.clone();
    setting.world.add_topic("audit", 1, &agent);
    setting.order(|groups| groups.refuse_joins = 1);
    setting.consumer.subscribe(["orders", "audit"]).await.unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut refused = 0;
    while setting.consumer.assignment().len() < 2 {
        assert!(tokio::time::Instant::now() < until, "{:?}", setting.asked());
        setting.world.announce();
        refused += usize::from(setting.consumer.poll(Duration::from_millis(20)).await.is_err());
    }
    assert_eq!(refused, 1, "told once");
}

#[tokio::test]
async fn a_member_attends_at_a_controller_that_took_another_s_place() {
    let mut setting = Setting::new(1, PATIENCE).await;
    let new = setting.world.add_controller().await;
    // As many as before, and one of them is another.
    setting.order(|groups| groups.controllers = vec![new.clone()]);
    let until = tokio::time::Instant::now() + PATIENCE;
    while !setting.world.state.lock().groups.attended.contains(&new) {
        assert!(tokio::time::Instant::now() < until, "nobody attends at {new}");
        setting.consumer.poll(Duration::from_millis(20)).await.unwrap();
    }
}
