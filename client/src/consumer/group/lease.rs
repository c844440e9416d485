//! What poll and the membership's task share: who the member is, for how long it may hand out records, and when the
//! application last polled.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock;

/// One membership: random.
pub(in crate::consumer) type MemberId = [u8; 16];

/// The application is in poll. A poll that is dropped half-way ends, too.
#[derive(Debug)]
pub(in crate::consumer) struct Polling(Arc<Lease>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.polling(false);
    }
}

/// See the module.
#[derive(Debug)]
pub(in crate::consumer) struct Lease {
    state: Mutex<State>,
    polled: Notify,
}

#[derive(Debug)]
struct State {
    /// The membership that the task has.
    current: Option<MemberId>,
    /// By this machine's monotonic clock: until then no other member can have got what this one owns.
    until: Instant,
    /// The membership that poll has heard of, and the group epoch that came with the last change it followed.
    followed: Option<MemberId>,
    epoch: u32,
    polled: Instant,
    polling: bool,
}

impl Lease {
    pub(in crate::consumer) fn new() -> Self {
        let now = clock::now();
        let state = State {
            current: None,
            until: now,
            followed: None,
            epoch: 0,
            polled: now,
            polling: false,
        };
        Self { state: Mutex::new(state), polled: Notify::new() }
    }

    /// A membership begins.
    pub(super) fn begin(&self, member: MemberId, until: Instant) {
        let mut state = self.state.lock();
        (state.current, state.until) = (Some(member), until);
    }

    /// The leader has confirmed a sign of life: everything up to `until` is safe.
    pub(super) fn extend(&self, until: Instant) {
        let mut state = self.state.lock();
        state.until = state.until.max(until);
    }

    /// The membership is over.
    pub(super) fn end(&self) {
        self.state.lock().current = None;
    }

    pub(super) fn until(&self) -> Instant {
        self.state.lock().until
    }

    /// Poll has followed a change as of that epoch, of that membership.
    pub(super) fn follow(&self, member: MemberId, epoch: u32) {
        let mut state = self.state.lock();
        (state.followed, state.epoch) = (Some(member), epoch);
    }

    /// The consumer reads as no member any more.
    pub(super) fn unfollow(&self) {
        let mut state = self.state.lock();
        (state.followed, state.epoch) = (None, 0);
    }

    /// Who commits, if a member, and the group epoch that it has heard of.
    pub(in crate::consumer) fn identity(&self) -> (Option<MemberId>, u32) {
        let state = self.state.lock();
        (state.followed, state.epoch)
    }

    /// Whether records may be handed out: what poll reads is of the membership that there is, and its time is not over.
    pub(in crate::consumer) fn holds(&self) -> bool {
        let state = self.state.lock();
        state.current.is_some() && state.current == state.followed && clock::now() < state.until
    }

    /// The application polls, until the guard is dropped.
    pub(in crate::consumer) fn poll(self: &Arc<Self>) -> Polling {
        self.polling(true);
        Polling(self.clone())
    }

    fn polling(&self, polling: bool) {
        let mut state = self.state.lock();
        (state.polling, state.polled) = (polling, clock::now());
        drop(state);
        if polling {
            self.polled.notify_one();
        }
    }

    /// Waits until the application polls.
    pub(super) async fn polled(&self) {
        while self.idle_since().is_some() {
            self.polled.notified().await;
        }
    }

    /// Since when the application has not polled; nothing while it does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        (!state.polling).then_some(state.polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn nothing_is_handed_out_past_the_lease_or_of_an_earlier_membership() {
        let lease = Lease::new();
        assert!(!lease.holds());
        let (now, later) = (clock::now(), clock::now() + Duration::from_secs(3_600));
        lease.begin([1; 16], later);
        assert!(!lease.holds(), "poll has not heard of it yet");
        lease.follow([1; 16], 5);
        assert!(lease.holds());
        lease.begin([2; 16], later);
        assert!(!lease.holds(), "what poll reads is of the membership before");
        assert_eq!(lease.identity(), (Some([1; 16]), 5));
        lease.follow([2; 16], 7);
        assert!(lease.holds());
        lease.begin([2; 16], now);
        assert!(!lease.holds());
        lease.extend(later);
        lease.extend(now);
        assert!(lease.holds());
        lease.end();
        assert!(!lease.holds());
    }
}
