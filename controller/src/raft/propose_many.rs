//! Proposing what came in one call from a follower, together.

use super::forward::Outcome;
use super::message::Forwarded;
use super::node::RaftNode;
use super::propose::late;
use super::time;

impl RaftNode {
    /// Proposes commands if this node leads; the outcomes in their order.
    pub(super) async fn propose_many(&self, proposals: Vec<Forwarded>) -> Vec<Outcome> {
        let begun = time::now();
        let (mut outcomes, mut waiting, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        for (at, Forwarded { request, body }) in proposals.into_iter().enumerate() {
            let outcome = match self.prepare(request, body) {
                Ok(proposal) => {
                    waiting.push(at);
                    ready.push(proposal);
                    late()
                }
                Err(outcome) => outcome,
            };
            outcomes.push(outcome);
        }
        if !ready.is_empty() {
            let written = self.write(ready, false).await;
            for (at, outcome) in waiting.into_iter().zip(written) {
                outcomes[at] = outcome;
            }
        }
        for outcome in &outcomes {
            self.core().options.probes.proposed(begun.elapsed(), outcome);
        }
        outcomes
    }
}
