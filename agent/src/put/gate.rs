//! How many PUTs may be under way: fewer while the store asks to slow down, and again more as it takes them.
//!
//! Additive increase, multiplicative decrease, as TCP does (RFC 5681): asked to slow down, the limit is halved, at
//! most once per [`SETTLING`], since all requests under way then are answered alike; with every limit's worth of
//! successes it grows by one.

use parking_lot::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What was under way when the limit was lowered says nothing of the lowered limit.
const SETTLING: Duration = Duration::from_millis(500);

/// The rule, without waiting.
#[derive(Debug)]
struct Limit {
    most: usize,
    allowed: usize,
    /// Since the limit last changed.
    successes: usize,
    lowered: Option<Instant>,
    taken: usize,
}

impl Limit {
    fn throttled(&mut self, now: Instant) {
        if self.lowered.is_some_and(|at| now.saturating_duration_since(at) < SETTLING) {
            return;
        }
        self.lowered = Some(now);
        self.allowed = (self.allowed / 2).max(1);
        self.successes = 0;
    }

    fn succeeded(&mut self) {
        self.successes += 1;
        if self.successes >= self.allowed && self.allowed < self.most {
            self.allowed += 1;
            self.successes = 0;
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Gate {
    limit: Mutex<Limit>,
    room: Notify,
}

/// The right to have one request under way.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Gate);

impl Gate {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        let limit = Limit { most, allowed: most, successes: 0, lowered: None, taken: 0 };
        Self { limit: Mutex::new(limit), room: Notify::new() }
    }

    /// Waits for a place.
    pub(crate) async fn enter(&self) -> Place<'_> {
        loop {
            if self.take() {
                // A permit of `room` may stand for several places.
                self.room.notify_one();
                return Place(self);
            }
            self.room.notified().await;
        }
    }

    fn take(&self) -> bool {
        let mut limit = self.limit.lock();
        let free = limit.taken < limit.allowed;
        limit.taken += usize::from(free);
        free
    }

    /// The store asks for fewer requests.
    pub(crate) fn throttled(&self, now: Instant) {
        self.limit.lock().throttled(now);
    }

    /// The store took one.
    pub(crate) fn succeeded(&self) {
        self.limit.lock().succeeded();
        self.room.notify_one();
    }

    /// Requests under way, and how many there may be.
    pub(crate) fn taken(&self) -> (usize, usize) {
        let limit = self.limit.lock();
        (limit.taken, limit.allowed)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.limit.lock().taken -= 1;
        self.0.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use futures::poll;
    use std::pin::pin;

    #[test]
    fn a_throttled_store_is_asked_half_as_much_and_recovers_step_by_step() {
        let gate = Gate::new(8);
        let now = clock::now();
        gate.throttled(now);
        gate.throttled(now);
        assert_eq!(gate.taken(), (0, 4), "answers to what was under way count once");
        gate.throttled(now + SETTLING);
        gate.throttled(now + SETTLING * 2);
        gate.throttled(now + SETTLING * 3);
        assert_eq!(gate.taken(), (0, 1), "one is always allowed");
        (0..1 + 2 + 3 + 4 + 5 + 6 + 7).for_each(|_| gate.succeeded());
        assert_eq!(gate.taken(), (0, 8));
        (0..100).for_each(|_| gate.succeeded());
        assert_eq!(gate.taken(), (0, 8));
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_until_one_is_given_back() {
        let gate = Gate::new(2);
        let (first, second) = (gate.enter().await, gate.enter().await);
        let (mut third, mut fourth) = (pin!(gate.enter()), pin!(gate.enter()));
        assert!(poll!(&mut third).is_pending() && poll!(&mut fourth).is_pending());
        // Both are given back before anybody looks.
        drop((first, second));
        let _third = third.await;
        let _fourth = fourth.await;
        assert_eq!(gate.taken(), (2, 2));
    }
}
