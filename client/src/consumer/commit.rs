//! Committing a group's offsets.

use std::sync::Arc;

use streamhouse_proto::v1;
use streamhouse_segment::ids::TopicId;

use super::error::ConsumeError;
use crate::convert;
use crate::errors::{CallError, Code};
use crate::routing::{Client, MAX_OFFSETS, Metadata, Requester};
use crate::types::TopicPartition;

/// One partition's offset to commit: the next one to read.
#[derive(Clone, Debug)]
pub(super) struct Offset {
    pub(super) at: Arc<TopicPartition>,
    pub(super) topic: TopicId,
    pub(super) offset: u64,
}

/// Commits for one group.
#[derive(Clone, Debug)]
pub(super) struct Committer {
    pub(super) group: Arc<str>,
    pub(super) metadata: Metadata,
    pub(super) requester: Arc<Requester>,
}

impl Committer {
    /// GROUP: the controllers apply one requester's commits in the order of their numbers, so the caller has at most
    /// one under way.
    pub(super) async fn commit(self, offsets: Vec<Offset>) -> Result<(), ConsumeError> {
        for some in offsets.chunks(MAX_OFFSETS) {
            self.commit_some(some).await?;
        }
        Ok(())
    }

    async fn commit_some(&self, offsets: &[Offset]) -> Result<(), ConsumeError> {
        let request = v1::CommitOffsetsRequest {
            request: Some(self.requester.next()),
            group: self.group.to_string(),
            offsets: offsets.iter().map(wire).collect(),
            ..v1::CommitOffsetsRequest::default()
        };
        let answer = self
            .metadata
            .pool
            .call("commit offsets", |mut client: Client| {
                let request = request.clone();
                async move { client.commit_offsets(request).await }
            })
            .await
            .map_err(|error| self.failed(error))?;
        self.metadata.pool.observe(answer.applied);
        for (offset, info) in offsets.iter().zip(answer.results) {
            // An entry without a code says that this offset was taken.
            if info.code() != v1::ErrorCode::Unspecified {
                let (refusal, _) = convert::refusal(info);
                let (group, at) = (self.group.clone(), (*offset.at).clone());
                return Err(match refusal.code {
                    Code::UnknownTopic => {
                        ConsumeError::TopicDeleted { topic: offset.at.topic.clone() }
                    }
                    _ => ConsumeError::CommitRefused { group, at, refusal },
                });
            }
        }
        Ok(())
    }

    fn failed(&self, error: CallError) -> ConsumeError {
        ConsumeError::Commit { group: self.group.clone(), error }
    }
}

fn wire(offset: &Offset) -> v1::OffsetCommit {
    v1::OffsetCommit {
        partition: Some(convert::topic_partition(offset.topic, offset.at.partition)),
        offset: offset.offset,
        metadata: String::new(),
    }
}
