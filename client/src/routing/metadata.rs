//! The calls that several parts of the client make, with plain types in and out.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamhouse_proto::to_status;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use streamhouse_segment::ids::TopicId;

use super::channel::Client;
use super::controllers::{ControllerPool, PoolConfig};
use crate::consumer::CommittedOffset;
use crate::convert;
use crate::errors::{CallError, ConfigError};
use crate::types::{Cluster, TopicDescription};

/// BOUND: offsets that one call commits or fetches, which is the controllers' limit.
pub(crate) const MAX_OFFSETS: usize = 4_096;

const OF_NO_CLUSTER: &str = "it belongs to no cluster yet: not all controllers of a new one have met, or it is still to \
                             be added; its log says what it waits for";

/// The controllers, as questions and answers.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) pool: Arc<ControllerPool>,
}

impl Metadata {
    pub(crate) fn new(config: PoolConfig) -> Result<Self, ConfigError> {
        Ok(Self { pool: ControllerPool::new(config)? })
    }

    /// The cluster; its controllers are known from then on.
    pub(crate) async fn cluster(&self) -> Result<Cluster, CallError> {
        let answer = self
            .pool
            .call("get cluster", |mut client: Client| async move {
                let answer = client.get_cluster(v1::GetClusterRequest {}).await?;
                match answer.get_ref().cluster_id.is_empty() {
                    // Another one may belong to it already.
                    true => Err(to_status(ErrorInfo::new(ErrorCode::NoLeader, OF_NO_CLUSTER))),
                    false => Ok(answer),
                }
            })
            .await?;
        self.pool.observe(answer.applied);
        let cluster = convert::cluster(answer)?;
        self.pool.learn(cluster.controllers.iter().map(|member| &*member.address));
        self.pool.follow();
        Ok(cluster)
    }

    pub(crate) async fn describe(
        &self,
        name: &str,
        linearizable: bool,
    ) -> Result<TopicDescription, CallError> {
        let topic = v1::describe_topic_request::Topic::Name(name.to_owned());
        self.describe_by(topic, linearizable).await
    }

    pub(crate) async fn describe_id(
        &self,
        id: TopicId,
        linearizable: bool,
    ) -> Result<TopicDescription, CallError> {
        let topic = v1::describe_topic_request::Topic::TopicId(id.to_bytes().to_vec());
        self.describe_by(topic, linearizable).await
    }

    async fn describe_by(
        &self,
        topic: v1::describe_topic_request::Topic,
        linearizable: bool,
    ) -> Result<TopicDescription, CallError> {
        let request = v1::DescribeTopicRequest {
            topic: Some(topic),
            linearizable,
            min_applied: self.pool.applied(),
        };
        let answer = self
            .pool
            .call("describe topic", |mut client: Client| {
                let request = request.clone();
                async move { client.describe_topic(request).await }
            })
            .await?;
        self.pool.observe(answer.applied);
        convert::description(answer)
    }

    /// The offsets that `group` has committed, of all acknowledged commits; those without one are absent.
    pub(crate) async fn fetch_offsets(
        &self,
        group: &str,
        partitions: &[(TopicId, u32)],
    ) -> Result<BTreeMap<(TopicId, u32), CommittedOffset>, CallError> {
        let mut offsets = BTreeMap::new();
        for some in partitions.chunks(MAX_OFFSETS) {
            self.fetch_some_offsets(group, some, &mut offsets).await?;
        }
        Ok(offsets)
    }

    async fn fetch_some_offsets(
        &self,
        group: &str,
        partitions: &[(TopicId, u32)],
        offsets: &mut BTreeMap<(TopicId, u32), CommittedOffset>,
    ) -> Result<(), CallError> {
        let partitions = partitions.iter();
        let request = v1::FetchOffsetsRequest {
            group: group.to_owned(),
            partitions: partitions
                .map(|(topic, partition)| convert::topic_partition(*topic, *partition))
                .collect(),
            linearizable: true,
            min_applied: self.pool.applied(),
        };
        let answer = self
            .pool
            .call("fetch offsets", |mut client: Client| {
                let request = request.clone();
                async move { client.fetch_offsets(request).await }
            })
            .await?;
        self.pool.observe(answer.applied);
        for committed in answer.offsets {
            let key = committed.partition.ok_or_else(|| convert::malformed("partition"))?;
            let key = (convert::topic_id(&key.topic_id)?, key.partition);
            let (offset, metadata) = (committed.offset, committed.metadata);
            offsets.insert(key, CommittedOffset { offset, metadata });
        }
        Ok(())
    }
}
