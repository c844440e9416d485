//! Look-ups of one controller in this process, asked over loopback: what one answer holds, and how much.
use crate::raft_support::controllers::{
    Agent, Controllers, create_topic, partition_of, patiently, slice,
};
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use tonic::transport::Channel;

/// Objects of one commit, and commits: more entries than one plan holds.
const OBJECTS: u64 = 64;
const COMMITS: u64 = 16;
/// Entries of one plan, and of one answer.
const PLAN: usize = 1_000;
const ANSWER: usize = 10 * PLAN;

struct Rig {
    controllers: Controllers,
    agent: Agent,
    metadata: MetadataClient<Channel>,
    topic: Vec<u8>,
}

/// A controller that leads, an agent's session that nobody ends, and a topic of one partition.
async fn rig() -> Rig {
    let controllers = Controllers::start(1).await;
    let agent = Agent::register(controllers.endpoint(1).connect_lazy()).await;
    let mut metadata = controllers.metadata(1);
    let topic = create_topic(&mut metadata, 1, 1).await;
    Rig { controllers, agent, metadata, topic }
}

impl Rig {
    /// Fills the index: an entry of one record for each object.
    async fn fill(&mut self) {
        let lease_epoch = self.agent.lease_epochs(&mut self.metadata, &self.topic).await[0];
        for commit in 0..COMMITS {
            let objects = commit * OBJECTS..(commit + 1) * OBJECTS;
            let object = |number| vec![slice(&self.topic, 0, lease_epoch, number)];
            self.agent.commit(objects.map(object)).await;
        }
    }

    async fn find(&mut self, times: &[Option<i64>]) -> Vec<v1::ReadPlan> {
        let ranges = times.iter().map(|from_timestamp_ms| v1::SegmentRange {
            partition: Some(partition_of(&self.topic, 0)),
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
    rig.controllers.shutdown().await;
}
