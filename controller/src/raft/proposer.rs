//! Group commit of proposals: what comes while the leader's last entries are
//! under way goes to Raft together.
//!
//! A lone proposal leaves at once. A crowd shares: each batch is one message
//! to Raft, one append to each follower, one synced write of each log, and
//! applied by one write. The number of batches under way is bounded, which is
//! what makes the next one wait and grow. Every proposal is judged and
//! answered for itself.

use super::forward::Outcome;
use super::node::RaftNode;
use super::propose::{Kept, ProposeError, Ready, refused};
use super::types::{EncodedCommand, TypeConfig};
use futures::StreamExt;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::WriteResult;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// BOUND on callers that wait for a batch; the bytes of what they propose are
/// bounded by what [`Kept`] holds.
pub(super) const QUEUE: usize = 4_096;
/// Batches that are not applied yet: while one is synced and sent, the next
/// is read and written.
const UNDER_WAY: usize = 2;
/// Proposals of one batch, which its last caller may exceed.
const BATCH: usize = 1_024;
/// Bytes of one batch, which its last caller may exceed.
const BATCH_BYTES: usize = 4 << 20;

/// What one caller proposes at once.
pub(crate) struct Proposed {
    pub(super) ready: Vec<Ready>,
    /// In which they were judged. In another one they are not proposed: their time, and what was
    /// thought of those whom they are about, may be out of date.
    pub(super) term: u64,
    /// As many outcomes, in their order.
    pub(super) answer: oneshot::Sender<Vec<Outcome>>,
}

impl Proposed {
    fn bytes(&self) -> usize {
        self.ready.iter().map(|ready| ready.command.0.len()).sum()
    }
}

/// Proposes what is queued until the node stops.
pub(crate) async fn run(node: RaftNode, mut queue: mpsc::Receiver<Proposed>) {
    let core = node.core();
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    loop {
        let next = async {
            let first = queue.recv().await?;
            let permit = under_way.clone().acquire_owned().await.ok()?;
            Some((first, permit))
        };
        let next = tokio::select! {
            next = next => next,
            () = core.cancel.cancelled() => None,
        };
        let Some((first, permit)) = next else { return };
        let (mut count, mut bytes) = (first.ready.len(), first.bytes());
        let mut batch = vec![first];
        while count < BATCH
            && bytes < BATCH_BYTES
            && let Ok(proposed) = queue.try_recv()
        {
            (count, bytes) = (count + proposed.ready.len(), bytes + proposed.bytes());
            batch.push(proposed);
        }
        let term = node.with_metrics(|m| m.current_term);
        let (batch, stale): (Vec<_>, Vec<_>) = batch
            .into_iter()
            // Whoever has stopped waiting was told that the outcome is unknown.
            .filter(|proposed| !proposed.answer.is_closed())
            .partition(|proposed| proposed.term == term);
        for Proposed { ready, answer, .. } in stale {
            let leader = node.leader();
            let _ = answer.send(vec![Err(ProposeError::NoLeader { leader }); ready.len()]);
        }
        if !batch.is_empty() {
            // What they take is due until they are applied, even if all of
            // them stop waiting.
            core.tasks.spawn(write(node.clone(), batch, Some(permit)));
        }
    }
}

/// Proposes a batch at once, and answers it when it is applied.
pub(super) async fn write(
    node: RaftNode,
    batch: Vec<Proposed>,
    permit: Option<OwnedSemaphorePermit>,
) {
    let mut commands = Vec::new();
    let mut waiting = Vec::with_capacity(batch.len());
    for Proposed { ready, answer, .. } in batch {
        let (some, kept) = split(ready);
        commands.extend(some);
        waiting.push((kept, answer));
    }
    let mut answers = match node.core().raft.client_write_many(commands).await {
        Ok(answers) => answers.fuse(),
        Err(error) => {
            for (kept, answer) in waiting {
                let _ = answer.send(vec![Err(failed(error.clone())); kept.len()]);
            }
            return;
        }
    };
    for (kept, answer) in waiting {
        let mut outcomes = Vec::with_capacity(kept.len());
        for _ in &kept {
            outcomes.push(answers.next().await.map_or_else(unanswered, outcome));
        }
        drop(kept);
        let _ = answer.send(outcomes);
    }
    drop(permit);
}

fn split(ready: Vec<Ready>) -> (Vec<EncodedCommand>, Vec<Kept>) {
    ready.into_iter().map(|ready| (ready.command, ready.kept)).unzip()
}

fn unanswered() -> Outcome {
    Err(ProposeError::Indeterminate("raft did not answer".into()))
}

fn outcome(answer: Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>) -> Outcome {
    match answer {
        Ok(Ok(applied)) => Ok((applied.response.index, applied.response.reply)),
        Ok(Err(error)) => Err(refused(RaftError::APIError(error))),
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: Fatal<TypeConfig>) -> ProposeError {
    refused(RaftError::Fatal(error))
}
