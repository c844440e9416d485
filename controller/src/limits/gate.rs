//! What the leader asks before it proposes a command: whether the cluster's
//! limits leave room for it.

use super::Limits;
use super::room::{self, Coming, Room};
use crate::state::command::{CommandBody, GroupJoin, RequestKey};
use crate::state::kv::{KvError, KvRead};
use crate::state::names::shown;
use crate::state::{groups, offsets, producers, requests, sessions, topics};
use parking_lot::Mutex;
use std::sync::Arc;

/// Asks, at the leader, whether a command keeps the limits.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(super) limits: Limits,
    pub(super) coming: Mutex<Coming>,
}

/// Why a command is not proposed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shut {
    /// It breaks a limit; says which.
    Limit(String),
    /// It might break one, if all that is being proposed is accepted.
    Busy(String),
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, coming: Mutex::default() }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether [`Gate::admit`] has to be asked: only a leader whose state is
    /// current can answer.
    pub(crate) fn counts(body: &CommandBody) -> bool {
        matches!(
            body,
            CommandBody::CreateTopic { .. }
                | CommandBody::RegisterSession(_)
                | CommandBody::InitProducer(_)
                | CommandBody::JoinGroup(_)
                | CommandBody::CommitOffsets { .. }
        )
    }

    /// Keeps room for what the command adds.
    ///
    /// RETRY: one that was answered before goes through, to be answered again;
    /// so does one that adds nothing or is refused for another reason. One
    /// whose first attempt is still on its way counts twice, which is `Busy`,
    /// never `Limit`.
    pub(crate) fn admit<K: KvRead>(
        self: &Arc<Self>,
        view: impl FnOnce() -> Result<K, KvError>,
        request: Option<&RequestKey>,
        body: &CommandBody,
    ) -> Result<Result<Room, Shut>, KvError> {
        // SUBTLE: the view is taken under the lock. A command gives up its
        // room after it was applied, so each shows there, or is still coming.
        let mut coming = self.coming.lock();
        let kv = &view()?;
        let answered = match request {
            Some(request) => requests::answered(kv, request)?.is_some(),
            None => false,
        };
        let taken = match body {
            CommandBody::CreateTopic { name, partitions, .. } if !answered => {
                if topics::topic_id(kv, name)?.is_some() {
                    Coming::default()
                } else if *partitions as usize > self.limits.topic_partitions {
                    let limit = self.limits.topic_partitions;
                    return Ok(Err(Shut::Limit(format!(
                        "topic '{}' cannot have {partitions} partitions; allowed are 1 to {limit} \
                         (--max-topic-partitions)",
                        shown(name)
                    ))));
                } else {
                    let partitions = u64::from(*partitions);
                    Coming { topics: 1, partitions, ..Coming::default() }
                }
            }
            CommandBody::RegisterSession(new) if sessions::adds_one(kv, new)? => {
                Coming { sessions: 1, ..Coming::default() }
            }
            CommandBody::InitProducer(asked) if !answered && producers::adds_one(kv, asked)? => {
                Coming { producers: 1, ..Coming::default() }
            }
            CommandBody::CommitOffsets { group, .. } if !answered => {
                let new = offsets::group(kv, group)?.is_none();
                Coming { groups: u64::from(new), ..Coming::default() }
            }
            CommandBody::JoinGroup(join) if !answered => match self.joins(kv, &coming, join)? {
                Ok(taken) => taken,
                Err(shut) => return Ok(Err(shut)),
            },
            _ => Coming::default(),
        };
        if let Err(shut) = room::fits(&self.limits, kv, &coming, &taken)? {
            return Ok(Err(shut));
        }
        coming.add(&taken);
        Ok(Ok(Room::new(self, taken)))
    }

    /// What a member adds, unless its group has no room for it.
    fn joins(
        &self,
        kv: &dyn KvRead,
        coming: &Coming,
        join: &GroupJoin,
    ) -> Result<Result<Coming, Shut>, KvError> {
        let partitions = groups::partitions_with(kv, &join.group, &join.topics)?;
        let limit = self.limits.group_partitions;
        if partitions > limit as u64 {
            return Ok(Err(Shut::Limit(format!(
                "the topics of group '{}' would have {partitions} partitions, allowed are {limit} \
                 (--max-group-partitions)",
                shown(&join.group)
            ))));
        }
        let new = offsets::group(kv, &join.group)?.is_none();
        let taken = Coming { groups: u64::from(new), members: 1, ..Coming::default() };
        if !groups::adds_one(kv, join)? {
            return Ok(Ok(Coming { members: 0, ..taken }));
        }
        let there = groups::membership(kv, &join.group)?.map_or(0, |shared| shared.members);
        let limit = self.limits.group_members;
        let fits = room::within(
            "members in the group",
            "--max-group-members",
            limit,
            there.into(),
            (coming.members, 1),
        );
        Ok(fits.map(|()| taken))
    }
}
