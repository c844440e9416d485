//! Three controllers, and topics all of whose partitions one agent holds.

use super::controllers::{Agent, Controllers, create_topic, slice};
use std::collections::BTreeMap;
use std::ops::Range;

/// A topic's id, and a partition of it.
pub type Key = (Vec<u8>, u32);

/// See the module. Nobody ends the agent's session.
pub struct Rig {
    pub controllers: Controllers,
    pub agent: Agent,
    pub topics: Vec<Vec<u8>>,
    pub partitions: Vec<Key>,
    lease_epochs: Vec<u32>,
    /// One past the last record of each partition.
    ends: Vec<u64>,
    pub leader: u64,
    /// The two that do not lead.
    pub followers: [u64; 2],
}

impl Rig {
    pub async fn start(topics: u64, partitions_each: u32) -> Self {
        let controllers = Controllers::start(3).await;
        let leader = controllers.leader().await;
        let agent = Agent::register(controllers.endpoint(leader).connect_lazy()).await;
        let mut metadata = controllers.metadata(leader);
        let (mut ids, mut partitions, mut lease_epochs) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=topics {
            let topic = create_topic(&mut metadata, number, partitions_each).await;
            partitions.extend((0..partitions_each).map(|partition| (topic.clone(), partition)));
            lease_epochs.extend(agent.lease_epochs(&mut metadata, &topic).await);
            ids.push(topic);
        }
        let ends = vec![0; partitions.len()];
        let followers = [1 + leader % 3, 1 + (leader + 1) % 3];
        Self { controllers, agent, topics: ids, partitions, lease_epochs, ends, leader, followers }
    }

    /// Appends a record to each of these partitions, in one object; the index of its commit.
    pub async fn append(&mut self, numbers: Range<usize>) -> u64 {
        let slices = numbers.map(|number| {
            let (topic, partition) = &self.partitions[number];
            let offset = self.ends[number];
            self.ends[number] += 1;
            slice(topic, *partition, self.lease_epochs[number], offset)
        });
        let slices = slices.collect();
        self.agent.commit([slices]).await
    }

    /// What is to be seen.
    pub fn ends(&self) -> BTreeMap<Key, u64> {
        self.partitions.iter().cloned().zip(self.ends.iter().copied()).collect()
    }
}
