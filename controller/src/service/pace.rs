//! How often one stream may give a sign of life.

use crate::clock;
use std::time::{Duration, Instant};
use streamhouse_proto::v1::ErrorCode;

/// BOUND: signs of life of a stream in a second. One every 300 ms is usual.
const PER_SECOND: u32 = 1_000;
/// So many may come at once: those that waited while the controller was
/// paused.
const BURST: u32 = 1_000;

/// A limit on a rate: the generic cell rate algorithm, as in ITU-T I.371.
///
/// What comes too fast ends its stream. Were it only read more slowly, it would
/// wait in the stream's window, and a sign of life that is read when it is old
/// says nothing.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the next sign would come at the highest rate.
    due: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { due: clock::now() }
    }

    /// Counts one sign. `Some` if they come too fast: why the stream ends.
    ///
    /// A stream that always has something to read lets others run in between:
    /// neither tonic nor h2 does that by itself.
    pub(super) async fn next(&mut self) -> Option<(ErrorCode, String)> {
        tokio::task::coop::consume_budget().await;
        if self.allows(clock::now()) {
            return None;
        }
        let message = format!("more than {PER_SECOND} signs of life a second from one stream");
        Some((ErrorCode::Overloaded, message))
    }

    fn allows(&mut self, now: Instant) -> bool {
        let every = Duration::from_secs(1) / PER_SECOND;
        self.due = self.due.max(now) + every;
        self.due <= now + every * BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let start = clock::now();
        let mut pace = Pace { due: start };
        assert!((0..BURST).all(|_| pace.allows(start)));
        assert!(!pace.allows(start));
        let mut pace = Pace { due: start };
        let at = |n: u32| start + Duration::from_millis(n.into());
        assert!((0..10 * BURST).all(|n| pace.allows(at(n))));
    }

    #[tokio::test]
    async fn what_comes_too_fast_is_told_so() {
        let mut pace = Pace::new();
        let mut counted = 0;
        let (code, message) = loop {
            match pace.next().await {
                None => counted += 1,
                Some(end) => break end,
            }
        };
        assert!(counted >= BURST, "{counted}");
        assert_eq!(code, ErrorCode::Overloaded);
        assert_eq!(message, "more than 1000 signs of life a second from one stream");
    }
}
