//! What a partition's task does with the answers it gets.

use super::{Attempt, PROBE_AFTER, PartitionTask};
use crate::clock;
use crate::errors::{CallError, Code};
use crate::producer::error::ProduceError;
use crate::producer::outcome::{Failure, Outcome, Verdict, judge};

impl PartitionTask {
    /// Acts on how a try ended. The error says that the topic is gone.
    pub(super) async fn settle(&mut self, attempt: Attempt) -> Option<ProduceError> {
        let Attempt { batch: id, link_number, outcome } = attempt;
        self.probe_at = clock::now() + PROBE_AFTER;
        let out_of_order = matches!(
            &outcome,
            Outcome::Refused { refusal, .. } if refusal.code == Code::OutOfOrderSequence
        );
        match judge(outcome) {
            Verdict::Placed { base_offset, applied } => {
                self.shared.routes.observe(applied);
                self.backoff.reset();
                // SUBTLE: of A, B and C in flight A fails, and its link is given up; B is written all the same. That
                // proves nothing of the link that A and C go over next.
                self.proven |= link_number == self.link_number;
                if let Some(batch) = self.window.remove(id) {
                    self.placed(batch, base_offset);
                }
            }
            Verdict::Retry(failure) => {
                if out_of_order && self.window.is_first(id) {
                    // Nothing of it is missing: the cluster knows it otherwise than we do.
                    self.lose_track();
                }
                self.failed(id, &failure);
            }
            Verdict::Doubt(failure) => {
                let gone = tokio::select! {
                    () = self.shared.cancel.cancelled() => false,
                    gone = self.shared.routes.is_gone(self.topic.route.id) => gone,
                };
                if gone {
                    return Some(self.gone());
                }
                self.failed(id, &failure);
            }
            Verdict::Fail(refusal) if self.idempotence.is_some() => self.refused(id, refusal),
            Verdict::Fail(refusal) => {
                if let Some(batch) = self.window.remove(id) {
                    let error = ProduceError::Refused {
                        topic: self.topic.route.name.clone(),
                        partition: self.partition,
                        may_have_taken_effect: batch.ambiguous
                            || refusal.code.may_have_taken_effect(),
                        refusal,
                    };
                    self.give_up(batch, error);
                }
            }
        }
        None
    }

    fn failed(&mut self, id: u64, failure: &Failure) {
        let first_of_round = !self.window.is_recovering();
        if let Some(batch) = self.window.failed(id) {
            batch.note(failure);
        }
        tracing::debug!(
            topic = %self.topic.route.name, partition = self.partition,
            reason = %failure.reason, "batch failed, it will be sent again"
        );
        if first_of_round {
            self.forget_link();
            self.agent = failure.redirect.clone();
            // The first redirect is followed at once; a second in a row means that the lease is still moving.
            let at_once = self.agent.is_some() && self.backoff.is_fresh();
            let wait = self.backoff.next();
            self.hold_until = (!at_once).then(|| clock::now() + wait);
        }
    }

    pub(super) fn probed(&mut self, result: Result<(), CallError>) {
        self.probe = None;
        self.probe_at = clock::now() + PROBE_AFTER;
        let (agent, version) = self.topic.route.agent(self.partition);
        if result.is_err() || agent.is_none() || agent == self.agent || self.attempts.is_empty() {
            return;
        }
        let failure = Failure {
            reason: "its agent fell silent and lost the lease".into(),
            ambiguous: true,
            redirect: None,
        };
        self.attempts.clear();
        self.forget_link();
        self.window.fail_all_sent(|batch| batch.note(&failure));
        (self.agent, self.seen) = (agent, version);
    }
}
