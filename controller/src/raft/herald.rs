//! One line in the log for each change of the leader, by the one that leads
//! now, with the reason.

use super::node::Core;
use super::time;
use super::types::TypeConfig;
use openraft::{RaftMetrics, ServerState};
use std::time::Duration;

/// What was last seen of who leads.
#[derive(Debug, Default)]
pub(crate) struct Herald {
    /// Term and number of the last leader that was known here.
    known: Option<(u64, u64)>,
    /// The last term in which this node led.
    told: u64,
}

impl Herald {
    /// Tells of it if this node leads a new term.
    pub(crate) fn look(&mut self, core: &Core, metrics: &RaftMetrics<TypeConfig>) {
        let term = metrics.current_term;
        if metrics.state != ServerState::Leader || term <= self.told {
            if let Some(leader) = metrics.current_leader {
                self.known = Some((term, leader));
            }
            return;
        }
        let silent = time::now().saturating_duration_since(*core.heard.lock());
        let before = self.known.filter(|(known, _)| *known < term);
        let why = reason(before, *core.invited.lock(), metrics.id, term, silent);
        let (leader, before) = (metrics.id, before.map_or(0, |(_, leader)| leader));
        tracing::info!(leader, term, before, reason = why, "the leader changed");
        core.options.probes.leader_changes.increment(1);
        (self.told, self.known) = (term, Some((term, leader)));
    }
}

/// Why node `own` leads in `term`.
fn reason(
    before: Option<(u64, u64)>,
    invited: Option<(u64, u64)>,
    own: u64,
    term: u64,
    silent: Duration,
) -> String {
    if let Some((by_term, by)) = invited
        && (by_term + 1 == term || before.is_some_and(|(known, _)| known == by_term))
    {
        return format!("controller {by} handed over");
    }
    match before {
        Some((_, leader)) if leader == own => {
            "it had lost its majority, and was elected again".to_owned()
        }
        Some((_, leader)) => {
            format!("controller {leader} was silent for {} ms", silent.as_millis())
        }
        None => "none was known since this controller started".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_lead_has_its_reason() {
        let silent = Duration::from_millis(612);
        for (before, invited, expected) in [
            (None, None, "none was known since this controller started"),
            (Some((4, 2)), None, "controller 2 was silent for 612 ms"),
            (Some((4, 1)), None, "it had lost its majority, and was elected again"),
            (Some((4, 2)), Some((4, 2)), "controller 2 handed over"),
            // An invitation of long ago says nothing of this election.
            (Some((4, 2)), Some((2, 3)), "controller 2 was silent for 612 ms"),
        ] {
            assert_eq!(reason(before, invited, 1, 5, silent), expected);
        }
    }
}
