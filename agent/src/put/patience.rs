//! How long one attempt to PUT may take before it counts as lost and another is made. Pure.
//!
//! Commits go out in the order of their numbers, so one answer that never comes holds back everything behind it; and
//! an answer that has not come after seconds seldom comes at all. Dropping an attempt is safe: should it still write, it
//! writes the same bytes under the same key (ONCE). A link may really be slow, though: what is allowed for an object's size
//! doubles with each attempt, and the last has what is left of the put deadline. What is allowed for the answer alone
//! doubles once, for several answers may be lost in a row.

use std::time::Duration;

/// For an object of no size, on a store of which nothing is known.
const FIRST: Duration = Duration::from_secs(2);
/// The most that is allowed for the answer alone: a store that loses all of them for a while is written to again so soon
/// after.
const LONGEST_ANSWER: Duration = Duration::from_secs(4);
/// No link is taken to be slower than a byte a microsecond (8 Mbit/s), at first.
const MICROSECONDS_PER_BYTE: u64 = 1;
/// What so many usual PUTs take is not long.
const USUAL: u32 = 4;
/// More attempts are made; none has longer.
const MOST_DOUBLED: u32 = 16;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Patience {
    size: Duration,
    usual: Duration,
    attempts: u32,
}

impl Patience {
    /// For an object of so many bytes; `usual` is what PUTs take, as far as that is known.
    pub(super) fn new(bytes: u64, usual: Option<Duration>) -> Self {
        let size = Duration::from_micros(bytes.saturating_mul(MICROSECONDS_PER_BYTE));
        Self { size, usual: usual.unwrap_or_default().saturating_mul(USUAL), attempts: 0 }
    }

    /// How long the next attempt may take.
    pub(super) fn next(&mut self) -> Duration {
        let attempt = self.attempts.min(MOST_DOUBLED);
        self.attempts += 1;
        let (slowly, fast) = (1 << (attempt / 2), 1 << attempt);
        let answer = FIRST.saturating_mul(slowly).min(LONGEST_ANSWER);
        let first = answer.saturating_add(self.size.saturating_mul(fast));
        first.max(self.usual.saturating_mul(slowly))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(patience: &mut Patience, count: usize) -> Vec<u64> {
        (0..count).map(|_| patience.next().as_secs()).collect()
    }

    #[test]
    fn an_answer_that_never_comes_is_waited_for_twice_and_then_twice_as_long() {
        assert_eq!(seconds(&mut Patience::new(0, None), 6), [2, 2, 4, 4, 4, 4]);
    }

    #[test]
    fn a_large_object_and_a_slow_store_have_longer() {
        assert_eq!(seconds(&mut Patience::new(8_000_000, None), 4), [10, 18, 36, 68]);
        let slow = Some(Duration::from_secs(3));
        assert_eq!(seconds(&mut Patience::new(1_000, slow), 3), [12, 12, 24]);
    }
}
