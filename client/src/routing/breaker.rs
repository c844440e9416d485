//! Circuit breakers: an agent that failed several times in a row is left alone for a while, so that what is meant for it
//! fails at once and its routes are looked up again, instead of waiting for one more connection that will not come.
//!
//! ```text
//!   closed ──`failures` in a row──▶ open ──`pause` over──▶ one try ──fails──▶ open
//!     ▲                                                       │
//!     └──────────────── anything was answered ────────────────┘
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// When an agent is left alone, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakerRule {
    /// So many failures in a row; 0: never.
    pub(crate) failures: u32,
    pub(crate) pause: Duration,
}

impl Default for BreakerRule {
    fn default() -> Self {
        Self { failures: 5, pause: Duration::from_millis(500) }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

/// One for each agent that failed and was not heard of since.
#[derive(Debug)]
pub(crate) struct Breakers {
    rule: BreakerRule,
    failing: Mutex<HashMap<Arc<str>, Breaker>>,
}

/// BOUND: agents that are remembered at once.
const MAX_AGENTS: usize = 1_024;

impl Breakers {
    pub(crate) fn new(rule: BreakerRule) -> Self {
        Self { rule, failing: Mutex::default() }
    }

    /// Why that agent is to be left alone now, if it is. Once the pause is over one caller is let through, and the
    /// others wait for what it finds, for another pause.
    pub(crate) fn refusal(&self, agent: &str, now: Instant) -> Option<String> {
        let mut failing = self.failing.lock();
        let breaker = failing.get_mut(agent)?;
        let until = breaker.open_until?;
        if until <= now {
            breaker.open_until = now.checked_add(self.rule.pause);
            return None;
        }
        Some(format!(
            "left alone for {:?} after {} failures in a row",
            self.rule.pause, breaker.failures
        ))
    }

    /// It answered.
    pub(crate) fn succeeded(&self, agent: &str) {
        self.failing.lock().remove(agent);
    }

    /// It could not be reached, or its stream ended without an answer.
    pub(crate) fn failed(&self, agent: &Arc<str>, now: Instant) {
        if self.rule.failures == 0 {
            return;
        }
        let mut failing = self.failing.lock();
        if failing.len() >= MAX_AGENTS && !failing.contains_key(agent) {
            return;
        }
        let breaker = failing.entry(agent.clone()).or_default();
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures >= self.rule.failures {
            breaker.open_until = now.checked_add(self.rule.pause);
        }
    }

    /// How many agents are left alone.
    pub(crate) fn open(&self) -> usize {
        self.failing.lock().values().filter(|breaker| breaker.open_until.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const PAUSE: Duration = Duration::from_secs(1);

    fn breakers(failures: u32) -> Breakers {
        Breakers::new(BreakerRule { failures, pause: PAUSE })
    }

    #[test]
    fn so_many_failures_in_a_row_open_the_circuit() {
        let (breakers, now, agent) = (breakers(2), clock::now(), Arc::from("a:1"));
        breakers.failed(&agent, now);
        assert_eq!((breakers.refusal("a:1", now), breakers.open()), (None, 0));
        breakers.failed(&agent, now);
        assert!(breakers.refusal("a:1", now).unwrap().contains("2 failures in a row"));
        assert_eq!((breakers.refusal("b:2", now), breakers.open()), (None, 1));
    }

    #[test]
    fn after_the_pause_one_is_let_through() {
        let (breakers, now, agent) = (breakers(1), clock::now(), Arc::from("a:1"));
        breakers.failed(&agent, now);
        let later = now + PAUSE;
        assert_eq!(breakers.refusal("a:1", later), None);
        assert!(breakers.refusal("a:1", later).is_some(), "one is on its way to see");
        // It failed, too: another pause.
        breakers.failed(&agent, later);
        assert!(breakers.refusal("a:1", later + PAUSE / 2).is_some());
        assert_eq!(breakers.refusal("a:1", later + PAUSE), None);
    }

    #[test]
    fn an_answer_closes_the_circuit_and_forgets_the_failures() {
        let (breakers, now, agent) = (breakers(2), clock::now(), Arc::from("a:1"));
        breakers.failed(&agent, now);
        breakers.succeeded("a:1");
        breakers.failed(&agent, now);
        assert_eq!(breakers.refusal("a:1", now), None, "not two in a row");
    }

    #[test]
    fn a_breaker_that_is_switched_off_never_opens() {
        let (breakers, now, agent) = (breakers(0), clock::now(), Arc::from("a:1"));
        (0..100).for_each(|_| breakers.failed(&agent, now));
        assert_eq!((breakers.refusal("a:1", now), breakers.open()), (None, 0));
    }
}
