//! Offset commits, one after another, each until it is acknowledged, at whichever controller answers.
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_tests::Stopwatch;
use tonic::transport::{Channel, Endpoint};

use super::{Background, Course, PATIENCE};

/// A call without an answer for so long is made again elsewhere.
pub(crate) const CALL: Duration = Duration::from_millis(300);
/// What a call that failed waits before it is made again.
const BACK_OFF: Duration = Duration::from_millis(10);

pub(crate) fn client(address: &str) -> MetadataClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    MetadataClient::new(endpoint.connect_timeout(CALL).connect_lazy())
}

/// Each requester commits to a group of its own; the offset is the request's number.
pub(crate) fn commit(
    requester: u8,
    partition: &v1::TopicPartition,
    number: u64,
) -> v1::CommitOffsetsRequest {
    v1::CommitOffsetsRequest {
        request: Some(v1::RequestId { requester: vec![requester; 16], number }),
        group: group(requester),
        offsets: vec![v1::OffsetCommit {
            partition: Some(partition.clone()),
            offset: number,
            metadata: String::new(),
        }],
        ..v1::CommitOffsetsRequest::default()
    }
}

fn group(requester: u8) -> String {
    format!("group-{requester}")
}

/// The offset that the requester has committed, and the index of that answer, by a linearizable read.
pub(crate) async fn committed(
    client: &mut MetadataClient<Channel>,
    requester: u8,
    partition: &v1::TopicPartition,
) -> Option<(u64, u64)> {
    let request = v1::FetchOffsetsRequest {
        group: group(requester),
        partitions: vec![partition.clone()],
        linearizable: true,
        min_applied: 0,
    };
    let answer = client.fetch_offsets(request).await.ok()?.into_inner();
    let offset = answer.offsets.first().map_or(0, |offset| offset.offset);
    Some((offset, answer.applied))
}

/// The load; it ends with the last offset that was acknowledged.
pub(crate) fn offsets(
    addresses: Vec<String>,
    requester: u8,
    partition: v1::TopicPartition,
) -> Background<u64> {
    Background::start("offset commits", move |course: Course| async move {
        let mut clients: Vec<_> = addresses.iter().map(|address| client(address)).collect();
        let (mut number, mut at) = (0, 0);
        while course.goes_on() {
            number += 1;
            let watch = Stopwatch::start();
            loop {
                let count = clients.len();
                let request = commit(requester, &partition, number);
                let call = clients[at % count].commit_offsets(request);
                if let Ok(Ok(answer)) = tokio::time::timeout(CALL, call).await {
                    let results = answer.into_inner().results;
                    let accepted =
                        |result: &v1::ErrorInfo| result.code() == v1::ErrorCode::Unspecified;
                    assert!(results.iter().all(accepted), "{results:?}");
                    break;
                }
                at += 1;
                assert!(watch.elapsed() < PATIENCE, "an offset commit fails for good");
                tokio::time::sleep(BACK_OFF).await;
            }
            course.done(1, watch.elapsed());
        }
        number
    })
}
