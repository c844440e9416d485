//! A load of group offsets, and what was promised of it.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::CALL;

pub(super) const PARTITIONS: u32 = 32;
/// The requester's and the topic's id and the offset: no entry of the log that commits one is smaller.
pub(super) const ENTRY_BYTES: u64 = 40;

/// What a writer did: by partition, the last offset that was acknowledged; and the last one that it tried.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    pub(super) acknowledged: BTreeMap<u32, u64>,
    pub(super) tried: u64,
}

/// Commits one offset after another, over the partitions in turn, each until it is acknowledged by whoever answers.
pub(super) struct Writer {
    pub(super) clients: Vec<MetadataClient<Channel>>,
    pub(super) topic: Vec<u8>,
    pub(super) number: usize,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) go: watch::Receiver<bool>,
}

impl Writer {
    /// Until nobody holds the other end of `go` any more.
    pub(super) async fn run(mut self) {
        // As a client's back-off does; what ends the loop is the answer.
        const PAUSE: Duration = Duration::from_millis(10);
        let mut at = self.number;
        for offset in 1.. {
            self.ledger.lock().unwrap().tried = offset;
            let request = self.request(offset);
            loop {
                if self.go.wait_for(|go| *go).await.is_err() {
                    return;
                }
                let count = self.clients.len();
                let call = self.clients[at % count].commit_offsets(request.clone());
                if let Ok(Ok(answer)) = tokio::time::timeout(CALL, call).await {
                    let results = answer.into_inner().results;
                    let taken = results.iter().all(|r| r.code() == v1::ErrorCode::Unspecified);
                    assert!(taken, "{results:?}");
                    break;
                }
                at += 1;
                tokio::time::sleep(PAUSE).await;
            }
            self.ledger.lock().unwrap().acknowledged.insert(partition_of(offset), offset);
        }
    }

    fn request(&self, offset: u64) -> v1::CommitOffsetsRequest {
        let partition = partition_of(offset);
        let partition = v1::TopicPartition { topic_id: self.topic.clone(), partition };
        let requester = vec![self.number as u8; 16];
        v1::CommitOffsetsRequest {
            request: Some(v1::RequestId { requester, number: offset }),
            group: group(self.number),
            offsets: vec![v1::OffsetCommit {
                partition: Some(partition),
                offset,
                metadata: String::new(),
            }],
            ..v1::CommitOffsetsRequest::default()
        }
    }
}

fn partition_of(offset: u64) -> u32 {
    (offset % u64::from(PARTITIONS)) as u32
}

pub(super) fn group(writer: usize) -> String {
    format!("g-{writer}")
}
