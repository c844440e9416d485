//! [`Admin`]'s part for consumer groups: who is in them, how far they are, and setting that anew.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_segment::ids::TopicId;
use uuid::Uuid;

use crate::admin::{Admin, AdminError};
use crate::consumer::Assignor;
use crate::convert;
use crate::errors::{CallError, Code, Refusal};
use crate::routing::{Client, MAX_OFFSETS};
use crate::types::TopicPartition;

/// What a group is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupState {
    /// It has no members.
    Empty,
    /// The controllers compute who is to read what.
    Assigning,
    /// Some partitions wait for their last owner to give them up.
    Reconciling,
    /// Everybody reads what it is to read.
    Stable,
    /// It is being removed.
    Deleting,
}

impl GroupState {
    /// The state in lower case, as the command line prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Assigning => "assigning",
            Self::Reconciling => "reconciling",
            Self::Stable => "stable",
            Self::Deleting => "deleting",
        }
    }

    fn of(wire: v1::GroupState) -> Self {
        match wire {
            v1::GroupState::Empty => Self::Empty,
            v1::GroupState::Assigning => Self::Assigning,
            v1::GroupState::Reconciling => Self::Reconciling,
            v1::GroupState::Stable => Self::Stable,
            v1::GroupState::Deleting => Self::Deleting,
        }
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// What it is at.
    pub state: GroupState,
    /// How many members it has.
    pub members: u32,
    /// Rises with every change of members or of who reads what.
    pub epoch: u32,
    /// How its partitions are shared out.
    pub assignor: Assignor,
}

/// A group's member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Names this membership.
    pub id: Uuid,
    /// Static membership: the instance that it is.
    pub instance: Option<String>,
    /// What it calls itself.
    pub client: String,
    /// The group's epoch as of which it is a member.
    pub epoch: u32,
    /// How long it may be silent.
    pub session_timeout: Duration,
}

/// A partition that a member reads, or that the group has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPartition {
    /// The partition.
    pub at: TopicPartition,
    /// The topic's identity.
    pub topic: TopicId,
    /// Who reads it.
    pub owner: Option<Uuid>,
    /// Who is to read it: another one than the owner while it moves.
    pub target: Option<Uuid>,
    /// The next offset to read, as committed.
    pub committed: Option<u64>,
    /// What was committed beside it.
    pub metadata: String,
    /// The first offset that is kept.
    pub log_start: u64,
    /// One past the last offset.
    pub end: u64,
}

impl GroupPartition {
    /// Records that are kept and that the group has not committed; `None` if it has committed nothing.
    pub fn lag(&self) -> Option<u64> {
        self.committed.map(|committed| self.end.saturating_sub(committed.max(self.log_start)))
    }
}

/// A group in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// What it is at.
    pub summary: GroupSummary,
    /// Its members, in the order in which they joined.
    pub members: Vec<GroupMember>,
    /// By topic name and number.
    pub partitions: Vec<GroupPartition>,
}

impl Admin {
    /// All groups, by name. Linearizable.
    pub async fn list_groups(&self) -> Result<Vec<GroupSummary>, AdminError> {
        let mut groups = Vec::new();
        loop {
            let after =
                groups.last().map_or(String::new(), |last: &GroupSummary| last.name.clone());
            let request =
                v1::ListGroupsRequest { after, limit: 0, linearizable: true, min_applied: 0 };
            let answer = self.pool().call("list groups", |mut client: Client| {
                let request = request.clone();
                async move { client.list_groups(request).await }
            });
            let answer = answer.await?;
            self.pool().observe(answer.applied);
            groups.extend(answer.groups.into_iter().map(summary));
            if !answer.more {
                return Ok(groups);
            }
        }
    }

    /// A group's members, who reads what, and how far it is. Linearizable.
    pub async fn describe_group(&self, name: &str) -> Result<GroupDescription, AdminError> {
        let request =
            v1::DescribeGroupRequest { group: name.to_owned(), linearizable: true, min_applied: 0 };
        let answer = self.pool().call("describe group", |mut client: Client| {
            let request = request.clone();
            async move { client.describe_group(request).await }
        });
        let answer = answer.await.map_err(|error| about_group(error, name))?;
        self.pool().observe(answer.applied);
        Ok(description(answer)?)
    }

    /// Sets a group's offsets. Only while it has no members: [`AdminError::GroupNotEmpty`].
    pub async fn reset_offsets(
        &self,
        name: &str,
        offsets: &[(TopicId, u32, u64)],
    ) -> Result<(), AdminError> {
        for some in offsets.chunks(MAX_OFFSETS) {
            let commit = |(topic, partition, offset): &(TopicId, u32, u64)| v1::OffsetCommit {
                partition: Some(convert::topic_partition(*topic, *partition)),
                offset: *offset,
                metadata: String::new(),
            };
            let request = v1::CommitOffsetsRequest {
                request: Some(self.next_request()),
                group: name.to_owned(),
                offsets: some.iter().map(commit).collect(),
                ..v1::CommitOffsetsRequest::default()
            };
            let answer = self.pool().call("reset offsets", |mut client: Client| {
                let request = request.clone();
                async move { client.commit_offsets(request).await }
            });
            let answer = answer.await.map_err(|error| about_group(error, name))?;
            self.pool().observe(answer.applied);
            let refused = |info: &v1::ErrorInfo| info.code() != v1::ErrorCode::Unspecified;
            if let Some(info) = answer.results.into_iter().find(refused) {
                return Err(CallError::Refused(convert::refusal(info).0).into());
            }
        }
        Ok(())
    }

    /// Removes a group and its offsets. Only while it has no members: [`AdminError::GroupNotEmpty`].
    pub async fn delete_group(&self, name: &str) -> Result<(), AdminError> {
        let request =
            v1::DeleteGroupRequest { request: Some(self.next_request()), group: name.to_owned() };
        let answer = self.pool().call("delete group", |mut client: Client| {
            let request = request.clone();
            async move { client.delete_group(request).await }
        });
        let answer = answer.await.map_err(|error| about_group(error, name))?;
        self.pool().observe(answer.applied);
        Ok(())
    }
}

fn about_group(error: CallError, name: &str) -> AdminError {
    let name = name.to_owned();
    match error {
        CallError::Refused(Refusal { code: Code::UnknownGroup, .. }) => {
            AdminError::UnknownGroup { name }
        }
        CallError::Refused(Refusal { code: Code::GroupNotEmpty, .. }) => {
            AdminError::GroupNotEmpty { name }
        }
        CallError::Refused(Refusal { code: Code::InvalidArgument, message }) => {
            AdminError::Invalid { reason: message }
        }
        other => AdminError::Call(other),
    }
}

fn summary(wire: v1::GroupSummary) -> GroupSummary {
    GroupSummary {
        state: GroupState::of(wire.state()),
        assignor: Assignor::of(wire.assignor()),
        name: wire.group,
        members: wire.members,
        epoch: wire.epoch,
    }
}

fn description(wire: v1::DescribeGroupResponse) -> Result<GroupDescription, CallError> {
    let found = wire.summary.ok_or_else(|| convert::malformed("group"))?;
    let members = wire.members.into_iter().map(|member| {
        Ok(GroupMember {
            id: member_id(&member.member_id)?.ok_or_else(|| convert::malformed("member id"))?,
            instance: (!member.instance_id.is_empty()).then_some(member.instance_id),
            client: member.client_id,
            epoch: member.epoch,
            session_timeout: Duration::from_millis(member.session_timeout_ms.into()),
        })
    });
    let members = members.collect::<Result<_, CallError>>()?;
    let mut partitions = BTreeMap::new();
    for wire in wire.partitions {
        let key = wire.partition.ok_or_else(|| convert::malformed("partition"))?;
        let at = TopicPartition::new(wire.topic, key.partition);
        let partition = GroupPartition {
            at: at.clone(),
            topic: convert::topic_id(&key.topic_id)?,
            owner: member_id(&wire.owner)?,
            target: member_id(&wire.target)?,
            committed: wire.committed,
            metadata: wire.metadata,
            log_start: wire.log_start,
            end: wire.end,
        };
        partitions.insert(at, partition);
    }
    let partitions = partitions.into_values().collect();
    Ok(GroupDescription { summary: summary(found), members, partitions })
}

fn member_id(bytes: &[u8]) -> Result<Option<Uuid>, CallError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Uuid::from_slice(bytes).map(Some).map_err(|_| convert::malformed("member id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_are_not_kept_any_more_are_no_lag() {
        let mut partition = GroupPartition {
            at: TopicPartition::new("t", 0),
            topic: TopicId::from_bytes([1; 16]),
            owner: None,
            target: None,
            committed: Some(5),
            metadata: String::new(),
            log_start: 0,
            end: 20,
        };
        assert_eq!(partition.lag(), Some(15));
        partition.log_start = 12;
        assert_eq!(partition.lag(), Some(8));
        partition.committed = None;
        assert_eq!(partition.lag(), None);
    }
}
