//! Passing proposals on to the leader.
//!
//! A follower with many clients would make a call to the leader for each of
//! their commands. Instead, whatever has queued up while the last calls were
//! under way goes as one: a lone command leaves at once, a crowd shares.

use super::message::{self, Envelope, ForwardAnswer};
use super::node::RaftNode;
use super::peers::{Lane, never_sent};
use super::propose::ProposeError;
use super::types::ControllerNode;
use crate::codec;
use crate::state::reply::Reply;
use bytes::Bytes;
use std::sync::Arc;
use streamhouse_proto::v1::Payload;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// BOUND on proposals that wait for a call.
pub(super) const QUEUE: usize = 1_024;
/// Calls under way at once.
const CALLS: usize = 4;
/// Proposals of one call.
const BATCH: usize = 256;
/// Bytes of one call, which its last proposal may exceed.
const BATCH_BYTES: usize = 1 << 20;

pub(crate) type Outcome = Result<(u64, Reply), ProposeError>;

/// A proposal on its way to the leader.
pub(crate) struct Waiting {
    /// A [`message::Forwarded`].
    pub(crate) message: Vec<u8>,
    pub(crate) answer: oneshot::Sender<Outcome>,
}

/// Sends what is queued until the node stops.
pub(crate) async fn run(node: RaftNode, mut queue: mpsc::Receiver<Waiting>) {
    let core = node.core();
    let calls = Arc::new(Semaphore::new(CALLS));
    loop {
        let next = async {
            let first = queue.recv().await?;
            let permit = calls.clone().acquire_owned().await.ok()?;
            Some((first, permit))
        };
        let next = tokio::select! {
            next = next => next,
            () = core.cancel.cancelled() => None,
        };
        let Some((first, permit)) = next else { return };
        let mut bytes = first.message.len();
        let mut batch = vec![first];
        while batch.len() < BATCH
            && bytes < BATCH_BYTES
            && let Ok(waiting) = queue.try_recv()
        {
            bytes += waiting.message.len();
            batch.push(waiting);
        }
        // Whoever has stopped waiting was told that the outcome is unknown.
        batch.retain(|waiting| !waiting.answer.is_closed());
        if !batch.is_empty() {
            core.tasks.spawn(send(node.clone(), batch, permit));
        }
    }
}

async fn send(node: RaftNode, batch: Vec<Waiting>, permit: OwnedSemaphorePermit) {
    let cancelled = node.core().cancel.cancelled();
    let messages = batch.iter().map(|waiting| waiting.message.as_slice());
    let outcomes = match node.leader_node() {
        Some(leader) => {
            // A leader that hangs must not keep from the next one what comes
            // after it is replaced.
            let mut leadership = node.leadership();
            let replaced = leadership.wait_for(|now| now.leader != Some(leader.0));
            tokio::select! {
                outcomes = call(&node, &leader, messages) => outcomes,
                _ = replaced => Err(ProposeError::Indeterminate("the leader was replaced".into())),
                () = cancelled => Err(ProposeError::Indeterminate("shutting down".into())),
            }
        }
        None => Err(ProposeError::NoLeader { leader: None }),
    };
    drop(permit);
    let mut outcomes = match outcomes {
        Ok(outcomes) => outcomes.into_iter(),
        Err(error) => vec![Err(error); batch.len()].into_iter(),
    };
    for waiting in batch {
        let missing = || Err(ProposeError::Indeterminate("an answer is missing".into()));
        let _ = waiting.answer.send(outcomes.next().unwrap_or_else(missing));
    }
}

/// A message for the leader: for this disk, in this cluster.
pub(super) fn payload(
    node: &RaftNode,
    leader: u64,
    member: &ControllerNode,
    write: impl FnOnce(&mut Vec<u8>),
) -> Payload {
    let core = node.core();
    let envelope =
        Envelope { from: core.options.node_id, from_disk: core.disk, to_disk: member.disk };
    Payload {
        cluster_id: core.applied.cluster.read().map_or(Vec::new(), |id| id.to_vec()),
        target: leader,
        body: envelope.seal(write),
    }
}

/// One call; the caller's own time limit ends it.
async fn call<'a>(
    node: &RaftNode,
    (leader, member): &(u64, ControllerNode),
    messages: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<Outcome>, ProposeError> {
    let core = node.core();
    let leader = *leader;
    let no_leader = || ProposeError::NoLeader { leader: Some(leader) };
    let payload = payload(node, leader, member, |out| message::encode_many(messages, out));
    let address = core.peers.address(leader, member);
    let client = core.peers.client(leader, Lane::Forward, address);
    let mut client = client.map_err(|_| no_leader())?;
    let status = match tokio::time::timeout(super::propose::PATIENCE, client.propose(payload)).await
    {
        Ok(Ok(answer)) => return answers(leader, answer.into_inner().body),
        Ok(Err(status)) => status,
        Err(_) => return Err(ProposeError::Indeterminate("the leader did not answer".into())),
    };
    match status.code() {
        _ if never_sent(&status) => Err(no_leader()),
        // The service refuses so before it looks at the commands.
        tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied => Err(no_leader()),
        _ => Err(ProposeError::Indeterminate(status.message().to_owned())),
    }
}

fn answers(leader: u64, body: Bytes) -> Result<Vec<Outcome>, ProposeError> {
    let unreadable = |error: String| ProposeError::Indeterminate(error);
    let parts = message::decode_many(body).map_err(|e| unreadable(e.to_string()))?;
    let outcome = |part: Bytes| match codec::decode(&part) {
        Ok(answer) => outcome(leader, answer),
        Err(error) => Err(unreadable(error.to_string())),
    };
    Ok(parts.into_iter().map(outcome).collect())
}

fn outcome(leader: u64, answer: ForwardAnswer) -> Outcome {
    match answer {
        ForwardAnswer::Applied(index, reply) => Ok((index, reply)),
        ForwardAnswer::NotLeader => Err(ProposeError::NoLeader { leader: Some(leader) }),
        ForwardAnswer::TooLarge { bytes, limit } => {
            Err(ProposeError::TooLarge { bytes: bytes as usize, limit: limit as usize })
        }
        ForwardAnswer::Overloaded => {
            Err(ProposeError::Overloaded("too many commands wait to be applied".into()))
        }
        ForwardAnswer::FeatureLevel { needs, level, why } => {
            Err(ProposeError::FeatureLevel { needs, level, why })
        }
        ForwardAnswer::Shed(what) => Err(ProposeError::Overloaded(what)),
        ForwardAnswer::Indeterminate(what) => Err(ProposeError::Indeterminate(what)),
        ForwardAnswer::ShuttingDown => Err(ProposeError::ShuttingDown),
    }
}
