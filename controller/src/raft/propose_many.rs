//! Proposing what came in one call from a follower: as one message to Raft,
//! and by one task, whatever their number. Each is judged and answered for
//! itself.

use super::forward::Outcome;
use super::message::Forwarded;
use super::node::RaftNode;
use super::propose::{PATIENCE, ProposeError, Ready, refused};
use super::time;
use super::types::TypeConfig;
use futures::StreamExt;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::WriteResult;

impl RaftNode {
    /// Proposes commands if this node leads; the outcomes in their order.
    pub(super) async fn propose_many(&self, proposals: Vec<Forwarded>) -> Vec<Outcome> {
        let begun = time::now();
        let (mut outcomes, mut waiting, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        for (at, Forwarded { request, body }) in proposals.into_iter().enumerate() {
            // Until it is answered, nobody knows.
            let outcome = match self.prepare(request, body) {
                Ok(proposal) => {
                    waiting.push(at);
                    ready.push(proposal);
                    Err(ProposeError::Indeterminate("not applied in time".into()))
                }
                Err(outcome) => outcome,
            };
            outcomes.push(outcome);
        }
        if !ready.is_empty() {
            let written = self.write_many(ready).await;
            for (at, outcome) in waiting.into_iter().zip(written) {
                outcomes[at] = outcome;
            }
        }
        for outcome in &outcomes {
            self.core().options.probes.proposed(begun.elapsed(), outcome);
        }
        outcomes
    }

    /// The outcomes of the first of them, or of all.
    async fn write_many(&self, ready: Vec<Ready>) -> Vec<Outcome> {
        let core = self.core();
        let (raft, count) = (core.raft.clone(), ready.len());
        // A task of its own: what they take is due until they are applied,
        // even if the caller stops waiting.
        let write = core.tasks.spawn(async move {
            let (commands, kept): (Vec<_>, Vec<_>) =
                ready.into_iter().map(|ready| (ready.command, ready.kept)).unzip();
            let mut answers = match raft.client_write_many(commands).await {
                Ok(answers) => answers,
                Err(error) => return vec![Err(failed(error)); count],
            };
            let mut outcomes = Vec::with_capacity(count);
            for kept in kept {
                let Some(answer) = answers.next().await else { break };
                outcomes.push(outcome(answer));
                drop(kept);
            }
            outcomes
        });
        match tokio::time::timeout(PATIENCE, write).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(error)) => vec![Err(ProposeError::Indeterminate(error.to_string())); count],
            Err(_) => Vec::new(),
        }
    }
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
