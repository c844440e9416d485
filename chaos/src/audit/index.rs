//! Pages of a partition's index, linearizable, from whichever controller answers.

use std::time::Duration;

use streamhouse_client::Cluster;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::{advice, from_status, v1};
use streamhouse_segment::ids::{ClusterId, Generation, ObjectId, SessionId};
use tonic::transport::{Channel, Endpoint};

use crate::clock;

use super::{At, AuditError, Entry};

/// How long a controller may take to answer, and for how long all are asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(2);

pub(super) struct IndexReader {
    clients: Vec<MetadataClient<Channel>>,
    cluster: ClusterId,
}

impl IndexReader {
    pub(super) fn new(controllers: &[String], cluster: &Cluster) -> Result<Self, AuditError> {
        let client = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            let endpoint = endpoint.map_err(|error| AuditError::Index {
                at: address.clone(),
                offset: 0,
                reason: error.to_string(),
                retryable: false,
            })?;
            let endpoint = endpoint.connect_timeout(CONNECT).timeout(PATIENCE);
            let channel = streamhouse_host::net::connect_lazy(&endpoint);
            Ok(MetadataClient::new(channel).max_decoding_message_size(64 << 20))
        };
        let clients = controllers.iter().map(client).collect::<Result<_, AuditError>>()?;
        Ok(Self { clients, cluster: cluster.id })
    }

    /// Entries from the one that holds `offset`; nothing once the partition is gone.
    pub(super) async fn page(
        &self,
        at: &At<'_>,
        offset: u64,
    ) -> Result<Option<Vec<Entry>>, AuditError> {
        let plan = self.ask(at, offset, 0).await?;
        if let Some(error) = plan.error {
            use v1::ErrorCode::{UnknownPartition, UnknownTopic};
            if [UnknownTopic, UnknownPartition].contains(&error.code()) {
                return Ok(None);
            }
            return Err(failed(at, offset, error.message));
        }
        let entries = plan.segments.into_iter().map(|segment| self.entry(segment));
        let entries: Option<Vec<_>> = entries.collect();
        entries.map(Some).ok_or_else(|| failed(at, offset, "an entry without an object".into()))
    }

    /// Whether the index still has this entry.
    pub(super) async fn still_names(&self, at: &At<'_>, entry: &Entry) -> Result<bool, AuditError> {
        let plan = self.ask(at, entry.last, 1).await?;
        let now = plan.segments.into_iter().next().and_then(|segment| self.entry(segment));
        Ok(now.is_some_and(|now| now.object == entry.object))
    }

    async fn ask(
        &self,
        at: &At<'_>,
        offset: u64,
        max_segments: u32,
    ) -> Result<v1::ReadPlan, AuditError> {
        let partition =
            v1::TopicPartition { topic_id: at.topic.to_bytes().to_vec(), partition: at.partition };
        let request = v1::FindSegmentsRequest {
            ranges: vec![v1::SegmentRange {
                partition: Some(partition),
                offset,
                max_segments,
                max_bytes: 0,
                from_timestamp_ms: None,
            }],
            min_applied: 0,
            linearizable: true,
        };
        let mut last = "no controller given".to_owned();
        let until = clock::now() + PATIENCE;
        loop {
            for client in &self.clients {
                let error = match client.clone().find_segments(request.clone()).await {
                    Ok(answer) => {
                        let plan = answer.into_inner().plans.into_iter().next();
                        return plan.ok_or_else(|| failed(at, offset, "an empty answer".into()));
                    }
                    Err(status) => from_status(&status),
                };
                if !advice(error.code()).retryable {
                    return Err(failed(at, offset, error.message));
                }
                last = error.message;
            }
            // An election, or all are busy.
            if self.clients.is_empty() || clock::now() >= until {
                return Err(unanswered(at, offset, last));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn entry(&self, segment: v1::Segment) -> Option<Entry> {
        let v1::segment::Source::L0(object) = segment.source?;
        let generation = object.generation?;
        let object = ObjectId {
            cluster: self.cluster,
            generation: Generation { counter: generation.counter, random: generation.random },
            session: SessionId(object.session),
            sequence: object.sequence,
        };
        Some(Entry {
            base: segment.base_offset,
            last: segment.last_offset,
            epoch: segment.lease_epoch,
            object,
            position: segment.position,
            length: segment.length,
            crc32c: segment.crc32c,
        })
    }
}

fn failed(at: &At<'_>, offset: u64, reason: String) -> AuditError {
    AuditError::Index { at: at.to_string(), offset, reason, retryable: false }
}

fn unanswered(at: &At<'_>, offset: u64, reason: String) -> AuditError {
    AuditError::Index { at: at.to_string(), offset, reason, retryable: true }
}
