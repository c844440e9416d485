//! When a GET that is slow is sent a second time. Pure: durations in, durations out.
//!
//! The wait follows what GETs usually take, as a TCP retransmission timer does (RFC 6298: smoothed mean plus four
//! deviations), so that few are sent twice; and a budget keeps a store that is slow as a whole from getting twice the
//! work ("hedged requests": J. Dean and L. Barroso, *The Tail at Scale*, 2013).

use std::time::Duration;

/// Never before this, and never later than that.
const LEAST: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(5);
/// While too little is known.
const FIRST: Duration = Duration::from_millis(500);
const ENOUGH: u32 = 8;
/// A GET of nothing counts as lost after this, one of more after a second for each MB; or after so many usual waits.
const LOST: Duration = Duration::from_secs(2);
const USUAL: u32 = 4;
/// One GET in ten may be sent twice, in the long run; at once as many as this.
const SHARE: f64 = 0.1;
const BURST: f64 = 4.0;

#[derive(Clone, Debug)]
pub(super) struct Hedge {
    samples: u32,
    mean: f64,
    deviation: f64,
    tokens: f64,
}

impl Default for Hedge {
    fn default() -> Self {
        Self { samples: 0, mean: 0.0, deviation: 0.0, tokens: BURST }
    }
}

impl Hedge {
    /// How long to wait for an answer before asking again.
    pub(super) fn wait(&self) -> Duration {
        if self.samples < ENOUGH {
            return FIRST;
        }
        Duration::from_secs_f64(self.mean + 4.0 * self.deviation).clamp(LEAST, MOST)
    }

    /// How long a GET of so many bytes, and the one that was sent after it, may take at its `attempt`th try, from 1. A link
    /// may really be slow: what is allowed for the bytes doubles with each try, what is allowed for the answer only once.
    pub(super) fn patience(&self, bytes: u64, attempt: u32) -> Duration {
        let before = attempt.saturating_sub(1).min(16);
        let slowly = if before < 2 { 1 } else { 2 };
        let size = Duration::from_micros(bytes).saturating_mul(1 << before);
        (LOST * slowly).saturating_add(size).max(self.wait() * USUAL * slowly)
    }

    /// A GET was answered after `took`.
    pub(super) fn answered(&mut self, took: Duration) {
        let took = took.as_secs_f64().min(MOST.as_secs_f64());
        if self.samples == 0 {
            (self.mean, self.deviation) = (took, took / 2.0);
        } else {
            self.deviation += ((took - self.mean).abs() - self.deviation) / 4.0;
            self.mean += (took - self.mean) / 8.0;
        }
        self.samples = self.samples.saturating_add(1);
        self.tokens = (self.tokens + SHARE).min(BURST);
    }

    /// Whether one more GET may be sent twice; it then counts as sent.
    pub(super) fn spend(&mut self) -> bool {
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_what_gets_take() {
        let mut hedge = Hedge::default();
        assert_eq!(hedge.wait(), FIRST);
        for _ in 0..100 {
            hedge.answered(Duration::from_millis(100));
        }
        let wait = hedge.wait();
        assert!(
            wait >= Duration::from_millis(100) && wait < Duration::from_millis(150),
            "{wait:?}"
        );
        for _ in 0..100 {
            hedge.answered(Duration::from_micros(10));
        }
        assert_eq!(hedge.wait(), LEAST);
    }

    #[test]
    fn an_answer_that_never_comes_is_waited_for_twice_and_then_twice_as_long() {
        let hedge = Hedge::default();
        let seconds: Vec<_> = (1..=5).map(|attempt| hedge.patience(0, attempt).as_secs()).collect();
        assert_eq!(seconds, [2, 2, 4, 4, 4]);
        assert_eq!(hedge.patience(4_000_000, 1).as_secs(), 6);
        assert_eq!(hedge.patience(4_000_000, 3).as_secs(), 20);
    }

    #[test]
    fn a_store_that_is_slow_as_a_whole_does_not_get_twice_the_work() {
        let mut hedge = Hedge::default();
        let mut sent_twice = 0;
        for _ in 0..1_000 {
            sent_twice += u32::from(hedge.spend());
            hedge.answered(MOST * 2);
        }
        assert!((100..=110).contains(&sent_twice), "{sent_twice}");
        assert_eq!(hedge.wait(), MOST);
    }
}
