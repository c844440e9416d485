//! What tests of a group's member begin with.

use std::time::Duration;

use streamhouse_client::consumer::{ConsumerBuilder, RebalanceListener};
use streamhouse_client::{Consumer, OffsetReset, Producer, Record, TopicPartition};

use super::reading::{SOON, cluster};
use super::{Coordinator, World};

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

/// A consumer of group `g`, a cluster whose coordinator says what the test wants, and a producer.
pub struct Setting {
    pub world: World,
    pub consumer: Consumer,
    pub producer: Producer,
}

impl Setting {
    /// A member that reads `orders`.
    pub async fn new(partitions: usize) -> Self {
        Self::with(partitions, |builder| builder.topics(["orders"])).await
    }

    /// One with these options, which say what it reads.
    pub async fn with(
        partitions: usize,
        options: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder,
    ) -> Self {
        let (world, controller, producer) = cluster(partitions).await;
        let builder = Consumer::builder()
            .controllers([&*controller])
            .object_store(world.store())
            .group_id("g")
            .offset_reset(OffsetReset::Earliest)
            .auto_commit_interval(Duration::MAX)
            // However long the machine stands still: who is to lose what it has says so.
            .session_timeout(SOON)
            .heartbeat_interval(Duration::from_millis(50))
            .metadata_refresh(Duration::from_millis(50))
            .rebalance_listener(Listener(world.clone()));
        let consumer = options(builder).build().await.unwrap();
        Self { world, consumer, producer }
    }

    pub async fn send(&self, partition: u32) {
        let record = Record::to("orders").partition(partition).value("v");
        self.producer.send(record).await.unwrap().await.unwrap();
    }

    pub fn order(&self, change: impl FnOnce(&mut Coordinator)) {
        change(&mut self.world.state.lock().groups);
        self.world.announce();
    }

    /// Polls while that is so; how many records came.
    pub async fn poll_while(&mut self, more: impl Fn(&Self) -> bool) -> usize {
        let mut records = 0;
        let until = tokio::time::Instant::now() + SOON;
        while more(self) {
            assert!(tokio::time::Instant::now() < until, "{:?}", self.asked());
            records += self.consumer.poll(Duration::from_millis(20)).await.unwrap().len();
        }
        records
    }

    /// Polls until that was asked or heard; how many records came.
    pub async fn poll_until(&mut self, what: &str) -> usize {
        self.poll_while(|setting| !setting.asked().iter().any(|asked| asked == what)).await
    }

    /// Polls until the coordinator has answered so many more signs of life.
    pub async fn poll_answers(&mut self, more: u64) {
        let answers = self.world.state.lock().groups.answers + more;
        self.poll_while(|all| all.world.state.lock().groups.answers < answers).await;
    }

    /// Polls until the partition of `orders` is read up to there.
    pub async fn read_to(&mut self, partition: u32, position: u64) {
        let there = Some(position);
        self.poll_while(|all| all.consumer.position("orders", partition) != there).await;
    }

    /// What was asked of the coordinator and what the listener heard.
    pub fn asked(&self) -> Vec<String> {
        self.world.state.lock().groups.asked.clone()
    }

    /// The id of the only member.
    pub fn member(&self) -> Vec<u8> {
        self.world.state.lock().groups.members[0].0.clone()
    }
}
