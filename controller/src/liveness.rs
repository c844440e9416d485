//! Which agents live. Agents send heartbeats to every controller, so that a
//! new leader knows at once; only the leader acts on silence.
//!
//! CLOCK: ending a session early costs a hand-over and nothing else, because
//! commits are fenced at apply.

use crate::clock;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How one session was last heard of.
#[derive(Debug, Clone, Copy)]
struct Sign {
    /// Streams it has open here.
    streams: u32,
    /// The last heartbeat, or the moment its last stream broke.
    at: Instant,
}

/// Signs of life, by session.
pub(crate) struct Liveness {
    signs: Mutex<HashMap<u64, Sign>>,
    ttl: Duration,
    grace: Duration,
}

impl Liveness {
    pub(crate) fn new(ttl: Duration, grace: Duration) -> Self {
        Self { signs: Mutex::new(HashMap::new()), ttl, grace }
    }

    /// A heartbeat came.
    pub(crate) fn heard(&self, session: u64) {
        if let Some(sign) = self.signs.lock().get_mut(&session) {
            sign.at = clock::now();
        }
    }

    /// A stream was opened.
    pub(crate) fn attached(&self, session: u64) {
        let mut signs = self.signs.lock();
        let sign = signs.entry(session).or_insert(Sign { streams: 0, at: clock::now() });
        sign.streams += 1;
        sign.at = clock::now();
    }

    /// A stream broke. Only a leader remembers a session without one.
    pub(crate) fn detached(&self, session: u64, leads: bool) {
        let mut signs = self.signs.lock();
        let Some(sign) = signs.get_mut(&session) else { return };
        sign.streams = sign.streams.saturating_sub(1);
        sign.at = clock::now();
        if sign.streams == 0 && !leads {
            signs.remove(&session);
        }
    }

    /// This controller could not have heard anything for a while (it was
    /// stopped, or it begins to lead): nobody is judged by that time.
    ///
    /// A session with a stream here keeps its TTL from now; any other gets
    /// the short grace only, so that repeated elections cannot keep a dead
    /// agent's leases alive.
    pub(crate) fn begin(&self, live: &[u64]) {
        let now = clock::now();
        let mut signs = self.signs.lock();
        signs.retain(|session, sign| sign.streams > 0 || live.contains(session));
        for session in live {
            let sign = signs.entry(*session).or_insert(Sign { streams: 0, at: now });
            sign.at = now;
        }
    }

    /// A session was registered; it has a TTL to open its stream.
    pub(crate) fn opened(&self, session: u64) {
        let later = clock::now() + self.ttl.saturating_sub(self.grace);
        self.signs.lock().entry(session).or_insert(Sign { streams: 0, at: later });
    }

    /// A session ended.
    pub(crate) fn forget(&self, session: u64) {
        self.signs.lock().remove(&session);
    }

    /// The sessions whose time is over.
    pub(crate) fn expired(&self) -> Vec<u64> {
        let now = clock::now();
        let signs = self.signs.lock();
        let expired = signs.iter().filter(|(_, sign)| {
            let patience = if sign.streams > 0 { self.ttl } else { self.grace };
            now.saturating_duration_since(sign.at) > patience
        });
        expired.map(|(session, _)| *session).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_stream_expires_after_the_grace_and_a_silent_one_after_the_ttl() {
        let liveness = Liveness::new(Duration::from_secs(3_600), Duration::ZERO);
        liveness.attached(1);
        liveness.attached(2);
        liveness.detached(2, true);
        while liveness.expired().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(liveness.expired(), [2]);
    }

    #[test]
    fn a_session_with_two_streams_lives_on_when_one_breaks() {
        let liveness = Liveness::new(Duration::from_secs(3_600), Duration::ZERO);
        liveness.attached(1);
        liveness.attached(1);
        liveness.detached(1, true);
        assert!(liveness.expired().is_empty());
    }
}
