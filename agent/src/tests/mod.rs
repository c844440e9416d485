//! A whole agent in this process, between a controller and a store that can misbehave.

mod controller;
mod dedup;
mod hostile;
mod seen;
mod store;

use crate::{Agent, AgentOptions, Fatal, StartError};
use bytes::Bytes;
use controller::{CLUSTER, FakeController, TOPIC};
use std::collections::BTreeMap;
use std::time::Duration;
use store::FaultyStore;
use streamhouse_proto::v1::produce_client::ProduceClient;
use streamhouse_proto::v1::{
    ErrorCode, ProduceBatch, ProduceRequest, ProduceResponse, ProduceResult, TopicPartition,
};
use streamhouse_segment::{
    BatchBuilder, ClusterId, Compression, Generation, Limits, NO_HEADERS, ObjectId, ProducerInfo,
    SessionId,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

const PARTITIONS: usize = 3;
const RECORDS: u64 = 4;

/// A test that waits longer than this has lost something.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    controller: FakeController,
    store: std::sync::Arc<FaultyStore>,
    agent: Agent,
}

impl Rig {
    async fn new(change: impl FnOnce(&mut AgentOptions)) -> Self {
        let controller = FakeController::start(PARTITIONS).await;
        let store = FaultyStore::new();
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut options =
            AgentOptions::new(vec![controller.address.clone()], listen, "memory://given");
        change(&mut options);
        let agent = Agent::start(options, Some(store.store())).await.unwrap();
        let rig = Self { controller, store, agent };
        rig.leased().await;
        rig
    }

    async fn leased(&self) {
        let leased = async {
            while self.agent.leases() < PARTITIONS {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, leased).await.is_err() {
            let agent = self.agent.session();
            self.controller.with(|state| {
                panic!("no leases: the agent's session is {agent}, the controller has {state:?}")
            });
        }
    }

    async fn producer(&self) -> Producer {
        let address = format!("http://{}", self.agent.address());
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        let mut client = ProduceClient::new(channel);
        let (requests, outbound) = mpsc::channel(64);
        let answers = client.stream(ReceiverStream::new(outbound)).await.unwrap().into_inner();
        Producer { requests, answers, sent: 0, restart: true }
    }

    async fn finish(self) {
        let controller = self.controller.clone();
        patiently(self.agent.shutdown()).await.unwrap();
        controller.stop();
    }

    /// DENSE: the accepted slices of every partition follow each other from 0.
    fn assert_dense(&self) {
        self.controller.with(|state| {
            for partition in &state.partitions {
                let mut next = 0;
                for (base, last) in &partition.slices {
                    assert_eq!(*base, next);
                    next = last + 1;
                }
                assert_eq!(partition.next_offset, next);
            }
        });
    }
}

struct Producer {
    requests: mpsc::Sender<ProduceRequest>,
    answers: Streaming<ProduceResponse>,
    sent: u64,
    /// The next batch begins a new run.
    restart: bool,
}

impl Producer {
    /// Sends one batch to the partition; its correlation.
    async fn send(&mut self, partition: usize) -> u64 {
        self.send_bytes(partition, batch(10)).await
    }

    async fn send_bytes(&mut self, partition: usize, batch: Bytes) -> u64 {
        self.sent += 1;
        let partition =
            Some(TopicPartition { topic_id: TOPIC.to_vec(), partition: partition as u32 });
        let restart = std::mem::take(&mut self.restart);
        let batch = ProduceBatch { correlation: self.sent, partition, batch, restart };
        self.requests.send(ProduceRequest { batches: vec![batch] }).await.unwrap();
        self.sent
    }

    async fn answers(&mut self, count: usize) -> BTreeMap<u64, ProduceResult> {
        let mut all = BTreeMap::new();
        while all.len() < count {
            let message = patiently(self.answers.message()).await.unwrap().expect("more answers");
            for result in message.results {
                let before = all.insert(result.correlation, result);
                assert!(before.is_none(), "answered once");
            }
        }
        all
    }

    async fn acknowledged(&mut self, count: usize) -> Vec<u64> {
        let answers = self.answers(count).await;
        answers.values().for_each(|answer| assert_eq!(answer.error, None));
        answers.values().map(|answer| answer.base_offset).collect()
    }
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

fn batch(value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    for _ in 0..RECORDS {
        builder.push(1, None, Some(&vec![7; value_bytes]), NO_HEADERS).unwrap();
    }
    builder.finish(ProducerInfo::NONE).unwrap()
}

fn offsets(count: u64) -> Vec<u64> {
    (0..count).map(|number| number * RECORDS).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_offsets_are_dense_and_in_order() {
    let rig = Rig::new(|_| {}).await;
    let mut producer = rig.producer().await;
    for _ in 0..100 {
        for partition in 0..PARTITIONS {
            producer.send(partition).await;
        }
    }
    let acknowledged = producer.acknowledged(100 * PARTITIONS).await;
    for partition in 0..PARTITIONS {
        let of_one: Vec<_> =
            acknowledged.iter().skip(partition).step_by(PARTITIONS).copied().collect();
        assert_eq!(of_one, offsets(100));
    }
    rig.assert_dense();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_repeated_and_answered_once() {
    let rig = Rig::new(|_| {}).await;
    rig.controller.with(|state| {
        state.faults.extend([controller::Fault::AnswerLost, controller::Fault::NoLeader]);
    });
    let mut producer = rig.producer().await;
    producer.send(0).await;
    assert_eq!(producer.acknowledged(1).await, [0]);
    rig.controller.with(|state| assert_eq!(state.commit_calls, 3));
    producer.send(0).await;
    assert_eq!(producer.acknowledged(1).await, [RECORDS]);
    rig.assert_dense();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_slices_are_resubmitted_in_order_under_the_raised_epoch() {
    let rig = Rig::new(|_| {}).await;
    let mut producer = rig.producer().await;
    for round in 0..20 {
        if round % 5 == 0 {
            rig.controller.with(|state| state.faults.push_back(controller::Fault::RaiseEpochs));
        }
        for _ in 0..10 {
            producer.send(1).await;
        }
    }
    assert_eq!(producer.acknowledged(200).await, offsets(200));
    rig.assert_dense();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_bytes_under_the_key_are_a_success() {
    let rig = Rig::new(|_| {}).await;
    rig.store.fail_next(store::Fault::LOST);
    rig.store.fail_next(store::Fault::ANSWER_LOST);
    let mut producer = rig.producer().await;
    producer.send(0).await;
    assert_eq!(producer.acknowledged(1).await, [0]);
    rig.controller.with(|state| assert_eq!(state.instances.len(), 1, "the same session"));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_bytes_under_the_key_end_the_session_and_the_agent_goes_on() {
    let rig = Rig::new(|_| {}).await;
    let session = rig.agent.session();
    let key = ObjectId {
        cluster: ClusterId::from_bytes(CLUSTER),
        generation: Generation { counter: 1, random: 9 },
        session: SessionId(session),
        sequence: 1,
    };
    rig.store.store().create(&key.key(), Bytes::from_static(b"not ours")).await.unwrap();
    let mut producer = rig.producer().await;
    producer.send(0).await;
    let answer = producer.answers(1).await.remove(&1).unwrap();
    assert_eq!(answer.error.unwrap().code(), ErrorCode::NotLeaseHolder);
    rig.controller.until(|state| state.instances.len() == 2).await;
    rig.controller.with(|state| assert_ne!(state.instances[0], state.instances[1]));
    patiently(async {
        while rig.agent.session() <= session || rig.agent.leases() < PARTITIONS {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // What is still on its way behind the refused batch must not be written ahead of it.
    producer.send(0).await;
    let answer = producer.answers(1).await.remove(&2).unwrap();
    assert_eq!(answer.error.unwrap().code(), ErrorCode::NotLeaseHolder);
    producer.restart = true;
    producer.send(0).await;
    assert_eq!(producer.acknowledged(1).await, [0]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_for_a_while_costs_nothing_but_time() {
    let rig = Rig::new(|_| {}).await;
    rig.store.set_down(true);
    let before = *rig.store.writes.borrow();
    let mut producer = rig.producer().await;
    for _ in 0..5 {
        producer.send(2).await;
    }
    patiently(rig.store.written(before + 3)).await;
    rig.store.set_down(false);
    assert_eq!(producer.acknowledged(5).await, offsets(5));
    rig.assert_dense();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_given_up_is_abandoned_and_its_batches_go_elsewhere() {
    let rig = Rig::new(|options| options.put_timeout = Duration::from_millis(100)).await;
    rig.store.set_down(true);
    let mut producer = rig.producer().await;
    for _ in 0..5 {
        producer.send(2).await;
    }
    // The abandonment has been committed: the epoch was raised beyond the registration's.
    patiently(rig.controller.until(|state| state.partitions[2].epoch > 1)).await;
    rig.store.set_down(false);
    assert_eq!(producer.acknowledged(5).await, offsets(5));
    rig.assert_dense();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_acknowledges_hands_over_and_ends_the_streams() {
    let rig = Rig::new(|_| {}).await;
    rig.store.hold(true);
    let before = *rig.store.writes.borrow();
    let mut producer = rig.producer().await;
    for _ in 0..3 {
        for partition in 0..PARTITIONS {
            producer.send(partition).await;
        }
    }
    patiently(rig.store.written(before + 1)).await;
    // What it refuses at once comes behind them: when that is answered, the agent has taken them all.
    let refused = producer.send(PARTITIONS).await;
    assert!(producer.answers(1).await.contains_key(&refused));
    let Rig { controller, store, agent } = rig;
    let shutdown = agent.shutdown();
    let (ended, answers) = tokio::join!(shutdown, async {
        // The leases are revoked while the first batches are still on their way to the store.
        patiently(controller.until(|state| state.drained)).await;
        store.hold(false);
        let answers = producer.answers(3 * PARTITIONS).await;
        assert!(patiently(producer.answers.message()).await.unwrap().is_none());
        answers
    });
    assert_eq!(ended, Ok(()));
    // Whoever came in time was acknowledged; whoever came late was told to look elsewhere.
    for answer in answers.values() {
        let code = answer.error.as_ref().map(|error| error.code());
        assert!(matches!(code, None | Some(ErrorCode::NotLeaseHolder)), "{answer:?}");
    }
    assert!(answers.values().any(|answer| answer.error.is_none()));
    controller.with(|state| {
        assert_eq!(state.released, PARTITIONS);
        assert!(state.closed);
    });
    controller.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_pauses_the_stream_and_fails_nothing() {
    let rig = Rig::new(|options| {
        options.buffer_bytes = 40_000;
        options.max_stream_batches = 16;
    })
    .await;
    rig.store.hold(true);
    let before = *rig.store.writes.borrow();
    let mut producer = rig.producer().await;
    let sending = async {
        for _ in 0..200 {
            producer.send_bytes(0, batch(1_000)).await;
        }
        producer
    };
    let ((), mut producer) = tokio::join!(
        async {
            patiently(rig.store.written(before + 1)).await;
            rig.store.hold(false);
        },
        sending
    );
    assert_eq!(producer.acknowledged(200).await, offsets(200));
    rig.assert_dense();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_batches_are_refused_one_by_one() {
    let rig = Rig::new(|_| {}).await;
    let mut producer = rig.producer().await;
    let mut damaged = batch(10).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = producer.send_bytes(0, damaged.into()).await;
    let unknown = producer.send(99).await;
    let good = producer.send(0).await;
    let answers = producer.answers(3).await;
    let code = |correlation: u64| answers[&correlation].error.as_ref().map(|error| error.code());
    assert_eq!(code(damaged), Some(ErrorCode::CorruptBatch));
    assert_eq!(code(unknown), Some(ErrorCode::NotLeaseHolder));
    assert_eq!(code(good), None);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_cluster_does_not_keep_an_agent_from_stopping() {
    let rig = Rig::new(|options| options.shutdown_timeout = Duration::from_millis(200)).await;
    rig.store.hold(true);
    let before = *rig.store.writes.borrow();
    let mut producer = rig.producer().await;
    producer.send(0).await;
    patiently(rig.store.written(before + 1)).await;
    rig.controller.stop();
    assert!(patiently(rig.agent.shutdown()).await.is_err());
    let answer = producer.answers(1).await.remove(&1).unwrap();
    assert_eq!(answer.error.unwrap().code(), ErrorCode::NotLeaseHolder);
}

#[tokio::test]
async fn an_agent_with_another_store_is_refused() {
    let controller = FakeController::start(1).await;
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = AgentOptions::new(vec![controller.address.clone()], listen, "memory://elsewhere");
    let refused = patiently(Agent::start(options, None)).await.unwrap_err();
    assert!(matches!(refused, StartError::Fatal(Fatal::StoreMismatch { .. })), "{refused}");
    controller.stop();
}

#[tokio::test]
async fn listening_everywhere_needs_an_address_to_advertise() {
    let listen = "0.0.0.0:0".parse().unwrap();
    let options = AgentOptions::new(vec!["127.0.0.1:1".to_owned()], listen, "memory://advertise");
    let refused = Agent::start(options, None).await.unwrap_err();
    assert!(matches!(refused, StartError::NoAdvertise { .. }), "{refused}");
}
