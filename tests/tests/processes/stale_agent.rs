//! FENCE, seen from outside: an agent that was stopped (SIGSTOP) until its partitions had moved, and then goes on as if
//! nothing had been, cannot make one record visible or acknowledged.
//!
//! It is stopped in the middle of a flood, so that when it goes on it has records at every stage: in its sockets, in its
//! buffers, in uploads, and in commits on their way to the controllers.
use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use streamhouse_proto::v1::produce_client::ProduceClient;
use streamhouse_proto::v1::{
    ProduceBatch, ProduceRequest, ProduceResponse, ProduceResult, TopicPartition,
};
use streamhouse_segment::{BatchBuilder, Compression, Limits, NO_HEADERS, ProducerInfo};
use streamhouse_tests::{LocalCluster, until};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

const PATIENCE: Duration = Duration::from_secs(60);
/// What floods an agent: so many batches of one record of so many bytes.
const FLOOD_BATCHES: u64 = 400;
const FLOOD_RECORD_BYTES: usize = 64 << 10;
/// Rounds that prove something, of at most four times as many: the agent may be stopped when all is done already.
const ROUNDS: usize = 4;

/// A produce stream to one agent, without any of the client library's routing or retries.
struct RawStream {
    requests: mpsc::Sender<ProduceRequest>,
    answers: tonic::Streaming<ProduceResponse>,
}

impl RawStream {
    async fn open(agent: SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{agent}")).unwrap().connect().await;
        let mut client = ProduceClient::new(channel.unwrap());
        let (requests, outgoing) = mpsc::channel(16);
        let answers = client.stream(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, answers }
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

/// Sends the whole flood, or as much of it as the agent takes before it ends the stream.
async fn flood(requests: mpsc::Sender<ProduceRequest>, partition: TopicPartition, round: usize) {
    for correlation in 0..FLOOD_BATCHES {
        let value = flood_value(round, correlation);
        let mut builder = BatchBuilder::new(Compression::None, Limits::default());
        builder.push(0, None, Some(value.as_bytes()), NO_HEADERS).unwrap();
        let batch = builder.finish(ProducerInfo::NONE).unwrap().to_vec();
        let batch = ProduceBatch {
            correlation,
            partition: Some(partition.clone()),
            batch: batch.into(),
            restart: correlation == 0,
        };
        if requests.send(ProduceRequest { batches: vec![batch] }).await.is_err() {
            break;
        }
    }
}

fn flood_value(round: usize, number: u64) -> String {
    format!("{round}-{number}-{}", "x".repeat(FLOOD_RECORD_BYTES))
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

fn visible(cluster: &LocalCluster) -> Vec<Vec<u8>> {
    cluster.run(&["consume", "t", "--to-end"]).ok().lines()
}

#[test]
fn it_makes_no_record_visible_or_acknowledged() {
    let cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let partition = TopicPartition { topic_id: topic_id(&cluster), partition: 0 };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut proved = 0;
    for round in 0..4 * ROUNDS {
        if proved == ROUNDS {
            break;
        }
        let (stale, epoch) = until("an agent holds the partition", PATIENCE, || holder(&cluster));
        let mut stream = runtime.block_on(RawStream::open(cluster.agent_address(stale)));
        let flooding = runtime.spawn(flood(stream.requests.clone(), partition.clone(), round));
        let mut answers = runtime.block_on(stream.answers(1));
        assert!(answers.iter().all(|answer| answer.error.is_none()), "{answers:?}");
        cluster.stop_agent(stale);

        until("the partition has moved", PATIENCE, || {
            holder(&cluster).filter(|(agent, now)| *agent != stale && *now > epoch)
        });
        // FENCE: from here on the old epoch can add nothing.
        let mut expected = visible(&cluster);
        cluster.continue_agent(stale);
        // The new holder takes records meanwhile.
        let value = format!("meanwhile-{round}");
        cluster.run_with_input(&["produce", "t"], value.as_bytes()).ok();
        expected.push(value.into_bytes());

        let unanswered = FLOOD_BATCHES - answers.len() as u64;
        answers.extend(runtime.block_on(stream.answers(unanswered)));
        drop(stream);
        runtime.block_on(flooding).unwrap();
        // It comes back with a new session; whatever it had under way has been decided by then.
        cluster.wait_until_whole();
        assert!(visible(&cluster) == expected, "round {round}: other records became visible");

        // What was acknowledged, before or after, was in the log when the partition moved.
        let seen: HashSet<&[u8]> = expected.iter().map(Vec::as_slice).collect();
        let (good, failed): (Vec<_>, Vec<_>) =
            answers.iter().partition(|answer| answer.error.is_none());
        for answer in &good {
            let value = flood_value(round, answer.correlation);
            assert!(seen.contains(value.as_bytes()), "round {round}: not in the log: {answer:?}");
        }
        let reasons: BTreeSet<&str> =
            failed.iter().flat_map(|answer| &answer.error).map(|e| e.message.as_str()).collect();
        println!(
            "round {round}: {} acknowledged, {} failed: {reasons:?}",
            good.len(),
            failed.len()
        );
        proved += usize::from(!failed.is_empty());
    }
    assert_eq!(proved, ROUNDS, "the agent was stopped too late to prove anything in the others");
}
