//! What happens because time has passed, and nothing else did.
//!
//! * A session that has heard no leader for its TTL has been ended by the controllers, or will be: it stops admitting,
//!   so that its producers look for the new holder. CLOCK: a mistake in here costs a new session, never data.
//! * A batch that has waited for the delivery timeout fails, whether or not anything is ever flushed again.

use super::{Engine, refuse_all};
use crate::partition::PartitionId;
use std::time::{Duration, Instant};
use streamhouse_proto::v1::{ErrorCode, ErrorInfo};

/// How often the buffer is searched for batches that are too old, at the least.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The times from which deadlines are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    ttl: Duration,
    /// When a leader was last heard of that knows the session.
    heard: Instant,
    /// When the buffer was last searched.
    swept: Instant,
}

impl Deadlines {
    pub(super) fn new(ttl: Duration, now: Instant) -> Self {
        Self { ttl, heard: now, swept: now }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }
}

impl Engine {
    /// The next of them.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let silence = self.deadlines.heard + self.deadlines.ttl;
        let sweep = self.deadlines.swept + self.sweep_interval();
        let waiting = self.buffer.has_batches() || self.producers.has_waiting();
        Some(if waiting { silence.min(sweep) } else { silence })
    }

    /// Does what is due.
    pub(super) fn meet_deadlines(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        if now.saturating_duration_since(self.deadlines.heard) >= self.deadlines.ttl {
            return self.end("no controller heard");
        }
        if now.saturating_duration_since(self.deadlines.swept) >= self.sweep_interval() {
            self.deadlines.swept = now;
            for (id, late) in self.buffer.expire(now, self.rules.delivery_timeout) {
                refuse_all(late, &self.too_late(id));
                self.sync(id);
            }
            for (id, late) in self.producers.expire(now, self.rules.delivery_timeout) {
                refuse_all(late, &self.too_late(id));
                self.sync(id);
            }
        }
    }

    fn sweep_interval(&self) -> Duration {
        SWEEP_INTERVAL.min(self.rules.delivery_timeout)
    }

    pub(super) fn too_late(&self, id: PartitionId) -> ErrorInfo {
        let timeout = self.rules.delivery_timeout;
        let message = format!("a batch of {id} was not stored within {timeout:?}");
        ErrorInfo::new(ErrorCode::StoreUnavailable, message)
    }
}
