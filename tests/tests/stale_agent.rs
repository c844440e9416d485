//! FENCE, seen from outside: an agent that was stopped (SIGSTOP) until its partitions had moved, and then goes on as if
//! nothing had been, cannot make one record visible or acknowledged.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use streamhouse_proto::v1::produce_client::ProduceClient;
use streamhouse_proto::v1::{ProduceBatch, ProduceRequest, ProduceResult, TopicPartition};
use streamhouse_segment::{BatchBuilder, Compression, Limits, NO_HEADERS, ProducerInfo};
use streamhouse_tests::{LocalCluster, until};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

const PATIENCE: Duration = Duration::from_secs(60);
/// How many batches the stopped agent finds when it wakes up.
const STALE_BATCHES: u64 = 20;
const ROUNDS: usize = 3;

/// A produce stream to one agent, without any of the client library's routing or retries.
struct RawStream {
    requests: mpsc::Sender<ProduceRequest>,
    answers: tonic::Streaming<streamhouse_proto::v1::ProduceResponse>,
    partition: TopicPartition,
    sent: u64,
}

impl RawStream {
    async fn open(agent: SocketAddr, partition: TopicPartition) -> Self {
        let mut client = ProduceClient::connect(format!("http://{agent}")).await.unwrap();
        let (requests, outgoing) = mpsc::channel(64);
        let answers = client.stream(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, answers, partition, sent: 0 }
    }

    /// Sends one batch of one record; returns its correlation.
    async fn send(&mut self, value: &str) -> u64 {
        let mut builder = BatchBuilder::new(Compression::None, Limits::default());
        builder.push(0, None, Some(value.as_bytes()), NO_HEADERS).unwrap();
        let batch: Bytes = builder.finish(ProducerInfo::NONE).unwrap();
        self.sent += 1;
        let batch = ProduceBatch {
            correlation: self.sent,
            partition: Some(self.partition.clone()),
            batch: batch.to_vec().into(),
        };
        self.requests.send(ProduceRequest { batches: vec![batch] }).await.unwrap();
        self.sent
    }

    /// The next `count` answers, or those before the agent ended the stream.
    async fn answers(&mut self, count: u64) -> Vec<ProduceResult> {
        let mut results = Vec::new();
        while (results.len() as u64) < count {
            let next = tokio::time::timeout(PATIENCE, self.answers.next()).await;
            match next.expect("the agent answers or hangs up") {
                Some(Ok(response)) => results.extend(response.results),
                Some(Err(_)) | None => break,
            }
        }
        results
    }
}

/// The agent that holds partition 0, and the lease's epoch.
fn holder(cluster: &LocalCluster) -> Option<(usize, u64)> {
    let partition = cluster.partitions("t").into_iter().next()?;
    let agent = cluster.agent_at(partition["address"].as_str()?)?;
    Some((agent, partition["lease_epoch"].as_u64()?))
}

fn topic_id(cluster: &LocalCluster) -> Vec<u8> {
    let description = cluster.run(&["topic", "describe", "t", "--output", "json"]).ok().json();
    let id: String = description["id"].as_str().unwrap().chars().filter(|c| *c != '-').collect();
    (0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn it_makes_no_record_visible_or_acknowledged() {
    let cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let topic_id = topic_id(&cluster);
    let partition = TopicPartition { topic_id: topic_id.into(), partition: 0 };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut expected = Vec::new();
    for round in 0..ROUNDS {
        let (stale, epoch) = until("an agent holds the partition", PATIENCE, || holder(&cluster));
        let mut stream =
            runtime.block_on(RawStream::open(cluster.agent_address(stale), partition.clone()));
        // The way is open: a record sent like the others below is acknowledged and visible.
        let value = format!("good-{round}");
        let good = runtime.block_on(async {
            stream.send(&value).await;
            stream.answers(1).await
        });
        assert_eq!(good.len(), 1);
        assert_eq!(good[0].error, None);
        expected.push(value);

        cluster.stop_agent(stale);
        // These wait in the stopped agent's sockets. When it wakes up it finds them before it can know of anything.
        runtime.block_on(async {
            for n in 0..STALE_BATCHES {
                stream.send(&format!("stale-{round}-{n}")).await;
            }
        });
        until("the partition has moved", PATIENCE, || {
            holder(&cluster).filter(|(agent, now)| *agent != stale && *now > epoch)
        });
        // The new holder takes records meanwhile.
        let value = format!("meanwhile-{round}");
        cluster.run_with_input(&["produce", "t"], value.as_bytes()).ok();
        expected.push(value);

        cluster.continue_agent(stale);
        let answers = runtime.block_on(stream.answers(STALE_BATCHES));
        for answer in &answers {
            assert!(answer.error.is_some(), "round {round}: acknowledged: {answer:?}");
        }
        // It comes back with a new session, and whatever it still had under way has been decided.
        cluster.wait_until_whole();
    }
    let value = "after".to_owned();
    cluster.run_with_input(&["produce", "t"], value.as_bytes()).ok();
    expected.push(value);
    let visible = cluster.run(&["consume", "t", "--to-end"]).ok().lines();
    let visible: Vec<String> = visible.into_iter().map(|v| String::from_utf8(v).unwrap()).collect();
    assert_eq!(visible, expected);
}
