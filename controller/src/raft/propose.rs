//! Proposing commands: at the leader, or through it.

use super::forward::{Outcome, Waiting};
use super::message::{ForwardAnswer, Forwarded};
use super::node::RaftNode;
use super::proposer::{self, Proposed};
use super::time;
use super::types::{EncodedCommand, TypeConfig};
use crate::codec;
use crate::limits::{Gate, Room, Shut};
use crate::state::collector::{CollectorReply, CollectorStep};
use crate::state::command::{Command, CommandBody, RequestKey};
use crate::state::kv::KvError;
use crate::state::reply::{Refusal, Reply};
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Without an answer for so long, what became of a proposal is unknown.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What a proposal takes of it at least, which bounds their number too.
const MIN_PERMITS: usize = 4 << 10;

/// A proposal without an answer of the state machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// There is no leader that could be reached. It was certainly not applied.
    #[error("there is no leader to propose to")]
    NoLeader {
        /// Who leads, as far as is known, if this node does not.
        leader: Option<u64>,
    },
    /// The command is larger than an entry may be. Never applied.
    #[error(
        "command of {bytes} bytes exceeds the limit of {limit} bytes an entry (--max-entry-bytes)"
    )]
    TooLarge {
        /// Encoded.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too much is waiting to be applied. Not applied; may be retried.
    #[error("{0}")]
    Overloaded(String),
    /// Not every controller can read the command yet. Not applied; may be
    /// retried.
    #[error("feature level {needs} is needed, the cluster is at {level}: {why}")]
    FeatureLevel {
        /// The command's.
        needs: u32,
        /// The cluster's.
        level: u32,
        /// Who is waited for.
        why: String,
    },
    /// It may have been applied, or may yet be.
    #[error("outcome of the proposal is unknown: {0}")]
    Indeterminate(String),
    /// This node, or the leader, is stopping. Not applied.
    #[error("the controller is shutting down")]
    ShuttingDown,
}

/// A command that may be proposed now.
pub(super) struct Ready {
    pub(super) command: EncodedCommand,
    pub(super) kept: Kept,
}

/// BOUND: what a command takes until it is applied.
pub(super) struct Kept {
    _permits: Option<OwnedSemaphorePermit>,
    _room: Option<Room>,
}

impl RaftNode {
    /// Proposes a command and waits until it is applied; returns its index
    /// and the state machine's answer. A follower passes it on to the leader,
    /// once; the leader stamps the time.
    pub async fn propose(
        &self,
        request: Option<RequestKey>,
        body: CommandBody,
    ) -> Result<(u64, Reply), ProposeError> {
        if self.leads() {
            return self.propose_local(request, body).await;
        }
        self.forward(request, body).await
    }

    /// [`RaftNode::propose`], but only if this node leads.
    pub async fn propose_local(
        &self,
        request: Option<RequestKey>,
        body: CommandBody,
    ) -> Result<(u64, Reply), ProposeError> {
        let begun = time::now();
        let outcome = self.propose_here(request, body).await;
        self.core().options.probes.proposed(begun.elapsed(), &outcome);
        outcome
    }

    async fn propose_here(
        &self,
        request: Option<RequestKey>,
        body: CommandBody,
    ) -> Result<(u64, Reply), ProposeError> {
        let own = is_own(&body);
        match self.prepare(request, body) {
            Ok(ready) => self.write(vec![ready], own).await.pop().unwrap_or_else(late),
            Err(outcome) => outcome,
        }
    }

    /// The outcomes of proposals in their order, if they come in time. `own`: they pass those that
    /// clients wait for.
    pub(super) async fn write(&self, ready: Vec<Ready>, own: bool) -> Vec<Outcome> {
        let core = self.core();
        let (answer, outcomes) = oneshot::channel();
        let proposed = Proposed { ready, term: self.with_metrics(|m| m.current_term), answer };
        let written = async {
            match own {
                true => drop(core.tasks.spawn(proposer::write(self.clone(), vec![proposed], None))),
                false => core.batches.send(proposed).await.ok()?,
            }
            outcomes.await.ok()
        };
        tokio::time::timeout(PATIENCE, written).await.ok().flatten().unwrap_or_default()
    }

    /// What is proposed, unless it is answered without.
    pub(super) fn prepare(
        &self,
        request: Option<RequestKey>,
        body: CommandBody,
    ) -> Result<Ready, Outcome> {
        let core = self.core();
        if core.cancel.is_cancelled() {
            return Err(Err(ProposeError::ShuttingDown));
        }
        if !self.leads() {
            return Err(Err(ProposeError::NoLeader { leader: self.leader() }));
        }
        self.check_level(&body).map_err(Err)?;
        let room = match self.room(request.as_ref(), &body).map_err(Err)? {
            Ok(room) => room,
            Err(refusal) => {
                return Err(Ok((*core.applied.index.borrow(), Reply::Refused(refusal))));
            }
        };
        if let Some(apart) = allows_deletion(&body).then(|| core.clock.apart()).flatten() {
            // CLOCK: what a grace means is in doubt.
            tracing::debug!(?apart, "cluster time and wall time are far apart: nothing is deleted");
            let index = *core.applied.index.borrow();
            return Err(Ok((index, Reply::Collector(CollectorReply::ClockApart))));
        }
        let own = is_own(&body);
        let command = Command { time_ms: core.clock.stamp_ms(), request, body };
        let bytes = codec::encode(&command);
        let permits = match own {
            true => None,
            false => Some(self.take_permits(bytes.len()).map_err(Err)?),
        };
        let kept = Kept { _permits: permits, _room: room };
        Ok(Ready { command: EncodedCommand(bytes.into()), kept })
    }

    /// Whether every controller can read the command.
    fn check_level(&self, body: &CommandBody) -> Result<(), ProposeError> {
        let (needs, level) = (body.min_level(), self.core().applied.level());
        match needs > level {
            true => Err(ProposeError::FeatureLevel { needs, level, why: self.level_waits() }),
            false => Ok(()),
        }
    }

    /// BOUND: room for what the command adds to the state, or why it has none.
    fn room(
        &self,
        request: Option<&RequestKey>,
        body: &CommandBody,
    ) -> Result<Result<Option<Room>, Refusal>, ProposeError> {
        let core = self.core();
        if let Err(message) = core.gate.check_batch(body) {
            return Ok(Err(Refusal::Limit(message)));
        }
        if !Gate::counts(body) {
            return Ok(Ok(None));
        }
        // One whose state is not current yet cannot count.
        let now = *core.leadership.borrow();
        if !now.is_leader {
            return Err(ProposeError::NoLeader { leader: now.leader });
        }
        let unread = |error: KvError| ProposeError::Overloaded(error.to_string());
        match core.gate.admit(|| self.try_view(), request, body).map_err(unread)? {
            Ok(room) => Ok(Ok(Some(room))),
            Err(Shut::Limit(message)) => Ok(Err(Refusal::Limit(message))),
            Err(Shut::Busy(message)) => Err(ProposeError::Overloaded(message)),
        }
    }

    /// CLOCK: how far cluster time is from wall time, if this node leads and it
    /// is too far.
    pub(crate) fn clock_apart(&self) -> Option<Duration> {
        self.leads().then(|| self.core().clock.apart()).flatten()
    }

    /// BOUND on the bytes of proposals that are not applied yet, here.
    fn take_permits(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ProposeError> {
        let core = self.core();
        let limits = core.gate.limits();
        if bytes > limits.entry_bytes {
            return Err(ProposeError::TooLarge { bytes, limit: limits.entry_bytes });
        }
        let permits = bytes.max(MIN_PERMITS).min(limits.in_flight_bytes) as u32;
        let permits = core.proposals.clone().try_acquire_many_owned(permits);
        permits.map_err(|_| {
            let limit = limits.in_flight_bytes;
            ProposeError::Overloaded(format!(
                "no room for {bytes} more bytes of commands that wait to be applied; the limit is \
                 {limit} (--max-in-flight-bytes)"
            ))
        })
    }

    async fn forward(
        &self,
        request: Option<RequestKey>,
        body: CommandBody,
    ) -> Result<(u64, Reply), ProposeError> {
        let core = self.core();
        if core.cancel.is_cancelled() {
            return Err(ProposeError::ShuttingDown);
        }
        if self.leader_node().is_none() {
            return Err(ProposeError::NoLeader { leader: None });
        }
        // A leader of an older release could not even read it.
        self.check_level(&body)?;
        let message = codec::encode(&Forwarded { request, body });
        let _permits = self.take_permits(message.len())?;
        let (answer, outcome) = oneshot::channel();
        let queued = core.forwards.try_send(Waiting { message, answer });
        queued.map_err(|_| {
            ProposeError::Overloaded("too many commands wait for the leader".into())
        })?;
        match tokio::time::timeout(PATIENCE, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ProposeError::Indeterminate("shutting down".into())),
            Err(_) => Err(ProposeError::Indeterminate("the leader did not answer".into())),
        }
    }
}

/// GC: whether objects are deleted once it is applied.
fn allows_deletion(body: &CommandBody) -> bool {
    matches!(body, CommandBody::Collect(CollectorStep::Allow { .. }))
}

/// What a leader proposes of itself: small, one at a time, and never kept back
/// by what clients want.
fn is_own(body: &CommandBody) -> bool {
    matches!(
        body,
        CommandBody::InitCluster { .. }
            | CommandBody::EndSession { .. }
            | CommandBody::Continue
            | CommandBody::LeaveGroup { expired: true, .. }
            | CommandBody::ExpireGroups { .. }
            | CommandBody::MarkDisks(_)
            | CommandBody::RaiseFeatureLevel { .. }
    )
}

/// Without an answer, nobody knows.
pub(super) fn late() -> Outcome {
    Err(ProposeError::Indeterminate("not applied in time".into()))
}

pub(super) fn refused(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            ProposeError::NoLeader { leader: to.leader_id }
        }
        RaftError::APIError(
            error @ (ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_)),
        ) => ProposeError::Indeterminate(error.to_string()),
        RaftError::Fatal(error @ (Fatal::StorageError(_) | Fatal::Panicked | Fatal::Stopped)) => {
            ProposeError::Indeterminate(error.to_string())
        }
    }
}

impl From<Result<(u64, Reply), ProposeError>> for ForwardAnswer {
    fn from(outcome: Result<(u64, Reply), ProposeError>) -> Self {
        match outcome {
            Ok((index, reply)) => Self::Applied(index, reply),
            Err(ProposeError::NoLeader { .. }) => Self::NotLeader,
            Err(ProposeError::TooLarge { bytes, limit }) => {
                Self::TooLarge { bytes: bytes as u64, limit: limit as u64 }
            }
            Err(ProposeError::Overloaded(what)) => Self::Shed(what),
            Err(ProposeError::FeatureLevel { needs, level, why }) => {
                Self::FeatureLevel { needs, level, why }
            }
            Err(ProposeError::Indeterminate(what)) => Self::Indeterminate(what),
            Err(ProposeError::ShuttingDown) => Self::ShuttingDown,
        }
    }
}
