//! How many objects hold what was written to a topic in between: as many PUTs there were at the least.

use std::collections::HashSet;

use anyhow::Context as _;
use streamhouse_client::{Admin, TopicDescription};
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::segment::Source;
use tonic::transport::Channel;

use super::link;

/// Index entries asked for at once: the controllers' limit.
const PAGE: u32 = 1_000;

/// Counts the objects behind `before`'s high watermarks. What shares an object with another topic counts once.
pub(super) async fn committed_since(
    admin: &Admin,
    controller: &str,
    before: &TopicDescription,
) -> anyhow::Result<u64> {
    let after = admin.describe_topic(&before.topic.name).await?;
    let mut client = link::metadata(controller).await?;
    let mut objects = HashSet::new();
    for (from, to) in before.partitions.iter().zip(&after.partitions) {
        let partition = v1::TopicPartition {
            topic_id: before.topic.id.to_bytes().to_vec(),
            partition: from.partition,
        };
        let mut offset = from.high_watermark;
        while offset < to.high_watermark {
            let segments = page(&mut client, &partition, offset, after.applied).await?;
            let last = segments.last().context("the index has a gap")?;
            offset = last.last_offset + 1;
            for segment in &segments {
                if let Some(Source::L0(object)) = &segment.source {
                    objects.insert((object.session, object.sequence));
                }
            }
        }
    }
    Ok(objects.len() as u64)
}

async fn page(
    client: &mut MetadataClient<Channel>,
    partition: &v1::TopicPartition,
    offset: u64,
    applied: u64,
) -> anyhow::Result<Vec<v1::Segment>> {
    let range = v1::SegmentRange {
        partition: Some(partition.clone()),
        offset,
        max_segments: PAGE,
        max_bytes: 0,
        from_timestamp_ms: None,
    };
    let request =
        v1::FindSegmentsRequest { ranges: vec![range], min_applied: applied, linearizable: true };
    let answer = client.find_segments(request).await.context("looking segments up")?.into_inner();
    Ok(answer.plans.into_iter().flat_map(|plan| plan.segments).collect())
}
