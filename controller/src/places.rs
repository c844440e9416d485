//! Limits on how many of something may be open at once.

use std::sync::Arc;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::{ErrorCode, ErrorInfo};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// BOUND: so many places, and no more.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    what: &'static str,
    flag: &'static str,
    limit: usize,
    free: Arc<Semaphore>,
}

/// One of them, held until dropped.
#[derive(Debug)]
pub(crate) struct Place(#[expect(dead_code, reason = "held for its end")] OwnedSemaphorePermit);

impl Places {
    /// `what`, and the `flag` that says how many, if there is one, stand in the
    /// refusal.
    pub(crate) fn new(what: &'static str, flag: &'static str, limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { what, flag, limit, free: Arc::new(Semaphore::new(limit)) }
    }

    /// A place, if one is free.
    pub(crate) fn take(&self) -> Option<Place> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(Place)
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.limit.saturating_sub(self.free.available_permits())
    }

    /// The answer to somebody who got none; a retry may help.
    pub(crate) fn refusal(&self) -> Status {
        let Self { what, flag, limit, .. } = self;
        let flag = if flag.is_empty() { String::new() } else { format!(" ({flag})") };
        let message = format!("this controller has {limit} {what}, which is its limit{flag}");
        to_status(ErrorInfo::new(ErrorCode::Overloaded, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_once_it_is_left() {
        let places = Places::new("watch streams", "--max-watchers", 2);
        let (one, _other) = (places.take().unwrap(), places.take().unwrap());
        assert!(places.take().is_none());
        assert_eq!(places.taken(), 2);
        drop(one);
        assert!(places.take().is_some());
        let refusal = places.refusal();
        assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
        assert!(
            refusal.message().contains("2 watch streams, which is its limit (--max-watchers)"),
            "{}",
            refusal.message()
        );
    }
}
