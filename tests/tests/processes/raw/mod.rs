//! A produce stream to one agent, without any of the client library's routing or retries.

use std::net::SocketAddr;
use std::time::Duration;

use streamhouse_proto::v1::produce_client::ProduceClient;
use streamhouse_proto::v1::{
    ProduceBatch, ProduceRequest, ProduceResponse, ProduceResult, TopicPartition,
};
use streamhouse_segment::{BatchBuilder, Compression, Limits, NO_HEADERS, ProducerInfo};
use streamhouse_tests::LocalCluster;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct RawStream {
    pub(crate) requests: mpsc::Sender<ProduceRequest>,
    pub(crate) answers: tonic::Streaming<ProduceResponse>,
    sent: u64,
}

impl RawStream {
    /// A connection of its own, and a stream on it.
    pub(crate) async fn open(agent: SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{agent}")).unwrap().connect().await;
        let mut client = ProduceClient::new(channel.unwrap());
        let (requests, outgoing) = mpsc::channel(16);
        let answers = client.stream(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, answers, sent: 0 }
    }

    /// Sends a batch, whatever it is; its correlation, or none if the agent has ended the stream.
    pub(crate) async fn send(&mut self, partition: &TopicPartition, batch: Vec<u8>) -> Option<u64> {
        let correlation = self.sent;
        self.sent += 1;
        let batch = ProduceBatch {
            correlation,
            partition: Some(partition.clone()),
            batch: batch.into(),
            restart: true,
        };
        let request = ProduceRequest { batches: vec![batch] };
        self.requests.send(request).await.ok().map(|()| correlation)
    }

    /// The next `count` answers, or those before the agent ended the stream.
    pub(crate) async fn answers(&mut self, count: usize) -> Vec<ProduceResult> {
        let mut results = Vec::new();
        while results.len() < count {
            let next = tokio::time::timeout(PATIENCE, self.answers.next()).await;
            match next.expect("the agent answers or hangs up") {
                Some(Ok(response)) => results.extend(response.results),
                Some(Err(_)) | None => break,
            }
        }
        results
    }
}

/// A batch of one record.
pub(crate) fn batch(value: &[u8], compression: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, Limits::default());
    builder.push(0, None, Some(value), NO_HEADERS).unwrap();
    builder.finish(ProducerInfo::NONE).unwrap().to_vec()
}

/// Partition 0 of a topic.
pub(crate) fn partition(cluster: &LocalCluster, topic: &str) -> TopicPartition {
    let described = cluster.run(&["topic", "describe", topic, "--output", "json"]).ok().json();
    let id: String = described["id"].as_str().unwrap().chars().filter(|c| *c != '-').collect();
    let byte = |at: usize| u8::from_str_radix(&id[at..at + 2], 16).unwrap();
    let topic_id = (0..id.len()).step_by(2).map(byte).collect();
    TopicPartition { topic_id, partition: 0 }
}
