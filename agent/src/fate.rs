//! What becomes of a batch of an idempotent producer: told to all who sent it, for it may have come twice.
//!
//! The first copy is on its way to the log and carries a [`Fate`]; a later one waits for the same fate as an *echo* and
//! shares it. Whoever keeps track of the producer learns it here, too, so that no way for a batch to end can be
//! forgotten.

use crate::ticket::Ticket;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use streamhouse_proto::v1::ErrorInfo;

/// Raised when some batch of a producer was not written as expected.
pub(crate) type Alarm = Arc<AtomicBool>;

#[derive(Debug)]
enum State {
    /// BOUND: each echo holds a place of its stream.
    Open(Vec<Ticket>),
    Written(Written),
    /// Not written, or not by this copy, or nobody knows.
    Lost,
}

/// Where a batch was written, and in which commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) base_offset: u64,
    pub(crate) applied: u64,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    state: Arc<Mutex<State>>,
    alarm: Alarm,
}

/// What is known of a fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Open,
    Written(Written),
    Lost,
}

impl Fate {
    pub(crate) fn new(alarm: &Alarm) -> Self {
        let state = Arc::new(Mutex::new(State::Open(Vec::new())));
        Self { state, alarm: Arc::clone(alarm) }
    }

    pub(crate) fn known(&self) -> Known {
        match &*self.state.lock() {
            State::Open(_) => Known::Open,
            State::Written(written) => Known::Written(*written),
            State::Lost => Known::Lost,
        }
    }

    /// Another copy of the batch came: it shares the fate. The ticket comes back if that is lost already.
    pub(crate) fn join(&self, mut ticket: Ticket) -> Option<Ticket> {
        ticket.needs_no_room();
        let written = match &mut *self.state.lock() {
            State::Open(echoes) => {
                echoes.push(ticket);
                return None;
            }
            State::Written(written) => *written,
            State::Lost => return Some(ticket),
        };
        ticket.acknowledge(written.base_offset, written.applied);
        None
    }

    pub(crate) fn written(&self, written: Written) {
        for echo in self.settle(State::Written(written)) {
            echo.acknowledge(written.base_offset, written.applied);
        }
    }

    /// An earlier copy was written, of which we knew nothing.
    pub(crate) fn had(&self, base_offset: Option<u64>, applied: u64) {
        for echo in self.settle(State::Lost) {
            echo.had(base_offset, applied);
        }
    }

    pub(crate) fn failed(&self, error: &ErrorInfo) {
        for echo in self.settle(State::Lost) {
            echo.refuse(error.clone());
        }
    }

    fn settle(&self, state: State) -> Vec<Ticket> {
        if matches!(state, State::Lost) {
            self.alarm.store(true, Ordering::Release);
        }
        // Echoes are answered without the lock.
        match std::mem::replace(&mut *self.state.lock(), state) {
            State::Open(echoes) => echoes,
            State::Written(_) | State::Lost => Vec::new(),
        }
    }
}
