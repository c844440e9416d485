//! Whole controllers in this process, called over loopback as agents and clients call them.

use super::{PATIENCE, free_address, poll};
use std::collections::BTreeMap;
use std::future::Future;
use streamhouse_controller::{Controller, ControllerOptions};
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use streamhouse_proto::{advice, from_status};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// The one agent's.
pub const INSTANCE: [u8; 16] = [7; 16];
pub const AGENT: &str = "agent:1";

pub async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// Calls until there is an answer, as long as a retry may help: the same call may be repeated (RETRY).
pub async fn insist<T>(mut call: impl AsyncFnMut() -> Result<Response<T>, Status>) -> T {
    let answered = async {
        loop {
            match call().await {
                Ok(answer) => return answer.into_inner(),
                Err(status) => {
                    assert!(advice(from_status(&status).code()).retryable, "{status:?}");
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    patiently(answered).await
}

/// A cluster of them, with the disks and addresses.
pub struct Controllers {
    pub running: BTreeMap<u64, Controller>,
    addresses: BTreeMap<u64, String>,
    _data: Vec<TempDir>,
}

impl Controllers {
    /// Starts so many. Of their agents nothing is heard, and no session ends for it.
    pub async fn start(count: u64) -> Self {
        let addresses: BTreeMap<_, _> = (1..=count).map(|id| (id, free_address())).collect();
        let (mut running, mut data) = (BTreeMap::new(), Vec::new());
        for (id, address) in &addresses {
            let disk = TempDir::new().unwrap();
            let listen = address.parse().unwrap();
            let mut options = ControllerOptions::new(*id, listen, addresses.clone(), disk.path());
            (options.session_ttl, options.session_grace) = (PATIENCE * 10, PATIENCE * 10);
            running.insert(*id, Controller::start(options).await.unwrap());
            data.push(disk);
        }
        Self { running, addresses, _data: data }
    }

    /// How controller `id` is reached.
    pub fn endpoint(&self, id: u64) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.addresses[&id])).unwrap()
    }

    /// A client of controller `id`, with a connection of its own.
    pub fn metadata(&self, id: u64) -> MetadataClient<Channel> {
        MetadataClient::new(self.endpoint(id).connect_lazy())
    }

    /// Waits until all agree on who leads.
    pub async fn leader(&self) -> u64 {
        let leader_of = |controller: &Controller| controller.raft().leadership().borrow().leader;
        poll("a leader", || {
            let leader = self.running.values().find_map(leader_of)?;
            let agreed = self.running.values().all(|one| leader_of(one) == Some(leader));
            agreed.then_some(leader)
        })
        .await
    }

    /// Stops these as a crash would: nobody takes over from them.
    pub async fn crash(&mut self, ids: impl IntoIterator<Item = u64>) {
        let dying: Vec<_> = ids.into_iter().map(|id| self.running.remove(&id).unwrap()).collect();
        futures::future::join_all(dying.iter().map(|one| one.raft().abort())).await;
        futures::future::join_all(dying.into_iter().map(Controller::shutdown)).await;
    }

    pub async fn shutdown(self) {
        for (_, controller) in self.running {
            controller.shutdown().await;
        }
    }
}

/// Creates a topic that is called after its `number`; its id.
pub async fn create_topic(
    metadata: &mut MetadataClient<Channel>,
    number: u64,
    partitions: u32,
) -> Vec<u8> {
    let create = v1::CreateTopicRequest {
        request: Some(v1::RequestId { requester: vec![1; 16], number }),
        name: format!("topic-{number}"),
        partitions,
        ..Default::default()
    };
    insist(async || metadata.create_topic(create.clone()).await).await.topic_id
}

pub fn partition_of(topic: &[u8], partition: u32) -> v1::TopicPartition {
    v1::TopicPartition { topic_id: topic.to_vec(), partition }
}

/// An agent's session; of its objects there are the commits alone.
pub struct Agent {
    pub client: SessionsClient<Channel>,
    pub session: u64,
    /// Of its last object.
    sequence: u64,
}

impl Agent {
    /// Registers one as soon as somebody leads.
    pub async fn register(channel: Channel) -> Self {
        let mut client = SessionsClient::new(channel);
        let request = v1::RegisterRequest {
            instance: INSTANCE.to_vec(),
            address: AGENT.to_owned(),
            group: "default".to_owned(),
            pid: 1,
            store_url: "memory://test".to_owned(),
            ..Default::default()
        };
        let session = insist(async || client.register(request.clone()).await).await.session;
        Self { client, session, sequence: 0 }
    }

    /// The lease epochs of all of a topic's partitions, once it holds them.
    pub async fn lease_epochs(
        &self,
        metadata: &mut MetadataClient<Channel>,
        topic: &[u8],
    ) -> Vec<u32> {
        let asked = v1::describe_topic_request::Topic::TopicId(topic.to_vec());
        let request = v1::DescribeTopicRequest {
            topic: Some(asked),
            linearizable: true,
            ..Default::default()
        };
        let held = |partition: &v1::Partition| partition.holder == self.session;
        loop {
            let described = insist(async || metadata.describe_topic(request.clone()).await).await;
            let (topic, partitions) = (described.topic.unwrap(), described.partitions);
            if partitions.len() == topic.partitions as usize && partitions.iter().all(held) {
                return partitions.iter().map(|partition| partition.lease_epoch).collect();
            }
        }
    }

    /// Commits objects of these slices, all of which are to be accepted; the index at which they are.
    pub async fn commit(&mut self, objects: impl IntoIterator<Item = Vec<v1::SliceCommit>>) -> u64 {
        let objects = objects.into_iter().map(|slices| {
            self.sequence += 1;
            v1::ObjectCommit { sequence: self.sequence, size: 1_000, slices, ..Default::default() }
        });
        let objects = objects.collect();
        let (session, instance) = (self.session, INSTANCE.to_vec());
        let request = v1::CommitObjectsRequest { session, objects, instance };
        let answer = insist(async || self.client.commit_objects(request.clone()).await).await;
        for result in answer.results {
            let accepted = result.slices.iter().all(|slice| slice.accepted);
            assert!(result.error.is_none() && accepted, "{result:?}");
        }
        answer.applied
    }
}

/// A slice of one record, `offset`, which is also its timestamp.
pub fn slice(topic: &[u8], partition: u32, lease_epoch: u32, offset: u64) -> v1::SliceCommit {
    v1::SliceCommit {
        partition: Some(partition_of(topic, partition)),
        lease_epoch,
        base_offset: offset,
        last_offset: offset,
        record_count: 1,
        position: 64,
        length: 100,
        max_timestamp_ms: offset as i64,
        ..Default::default()
    }
}
