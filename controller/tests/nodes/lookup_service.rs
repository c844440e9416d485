//! Look-ups of one controller in this process, asked over loopback: what one answer holds, and how much.
use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::time::Duration;
use streamhouse_controller::{Controller, ControllerOptions};
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(60);
const INSTANCE: [u8; 16] = [7; 16];
/// Objects of one commit, and commits: more entries than one plan holds.
const OBJECTS: u64 = 64;
const COMMITS: u64 = 16;
/// Entries of one plan, and of one answer.
const PLAN: usize = 1_000;
const ANSWER: usize = 10 * PLAN;

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

struct Rig {
    controller: Controller,
    sessions: SessionsClient<Channel>,
    metadata: MetadataClient<Channel>,
    session: u64,
    topic: Vec<u8>,
    _data: TempDir,
}

/// A controller that leads, an agent's session that nobody ends, and a topic of one partition.
async fn rig() -> Rig {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let data = TempDir::new().unwrap();
    let peers = BTreeMap::from([(1, address.to_string())]);
    let mut options = ControllerOptions::new(1, address, peers, data.path());
    (options.session_ttl, options.session_grace) = (PATIENCE * 10, PATIENCE * 10);
    let controller = Controller::start(options).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let mut sessions = SessionsClient::new(channel.clone());
    let request = v1::RegisterRequest {
        instance: INSTANCE.to_vec(),
        address: "agent:1".to_owned(),
        group: "default".to_owned(),
        pid: 1,
        store_url: "memory://test".to_owned(),
        ..Default::default()
    };
    let registered = patiently(async {
        loop {
            match sessions.register(request.clone()).await {
                Ok(response) => break response.into_inner(),
                // It has to be elected first.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    let session = registered.await.session;
    let mut metadata = MetadataClient::new(channel);
    let create = v1::CreateTopicRequest {
        request: Some(v1::RequestId { requester: vec![1; 16], number: 1 }),
        name: "t".to_owned(),
        partitions: 1,
        ..Default::default()
    };
    let topic = patiently(metadata.create_topic(create)).await.unwrap().into_inner().topic_id;
    Rig { controller, sessions, metadata, session, topic, _data: data }
}

impl Rig {
    fn partition(&self) -> Option<v1::TopicPartition> {
        Some(v1::TopicPartition { topic_id: self.topic.clone(), partition: 0 })
    }

    async fn lease_epoch(&mut self) -> u32 {
        let topic = v1::describe_topic_request::Topic::TopicId(self.topic.clone());
        let request = v1::DescribeTopicRequest {
            topic: Some(topic),
            linearizable: true,
            ..Default::default()
        };
        loop {
            let described = self.metadata.describe_topic(request.clone()).await.unwrap();
            let partition = described.into_inner().partitions.remove(0);
            if partition.holder == self.session {
                return partition.lease_epoch;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Fills the index: an entry of one record for each object.
    async fn fill(&mut self) {
        let lease_epoch = patiently(self.lease_epoch()).await;
        for commit in 0..COMMITS {
            let objects = (commit * OBJECTS..(commit + 1) * OBJECTS).map(|number| {
                let slice = v1::SliceCommit {
                    partition: self.partition(),
                    lease_epoch,
                    base_offset: number,
                    last_offset: number,
                    record_count: 1,
                    position: 64,
                    length: 100,
                    max_timestamp_ms: number as i64,
                    ..Default::default()
                };
                let (sequence, slices) = (number + 1, vec![slice]);
                v1::ObjectCommit { sequence, size: 1_000, slices, ..Default::default() }
            });
            let (session, instance) = (self.session, INSTANCE.to_vec());
            let request =
                v1::CommitObjectsRequest { session, objects: objects.collect(), instance };
            let answer = patiently(self.sessions.commit_objects(request)).await.unwrap();
            for result in answer.into_inner().results {
                assert!(result.error.is_none() && result.slices[0].accepted, "{result:?}");
            }
        }
    }

    async fn find(&mut self, times: &[Option<i64>]) -> Vec<v1::ReadPlan> {
        let ranges = times.iter().map(|from_timestamp_ms| v1::SegmentRange {
            partition: self.partition(),
            from_timestamp_ms: *from_timestamp_ms,
            ..Default::default()
        });
        let ranges = ranges.collect();
        let request = v1::FindSegmentsRequest { ranges, min_applied: 0, linearizable: true };
        let found = patiently(self.metadata.find_segments(request)).await.unwrap();
        found.into_inner().plans
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_full_finds_a_time_all_the_same() {
    let mut rig = rig().await;
    rig.fill().await;
    // Ten plans fill the answer; what is looked for by time is one entry more than it has room for, and twice.
    let times: Vec<_> = [None; 10].into_iter().chain([Some(700), Some(900), None]).collect();
    let plans = rig.find(&times).await;
    let held: Vec<usize> = plans.iter().map(|plan| plan.segments.len()).collect();
    assert_eq!(held[..10], [PLAN; 10], "{held:?}");
    assert_eq!(held[..10].iter().sum::<usize>(), ANSWER);
    assert_eq!(held[10..], [1, 1, 0]);
    assert_eq!((plans[10].segments[0].base_offset, plans[11].segments[0].base_offset), (700, 900));
    rig.controller.shutdown().await;
}
