//! How much memory is spoken for: taken before it is used, given back when the last holder is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::buffers::Unused;

/// Counts bytes. BOUND: whoever wants more asks [`held`](Self::held) first.
#[derive(Debug, Default)]
pub(super) struct Budget {
    held: Arc<AtomicUsize>,
}

impl Budget {
    /// Takes `bytes`, whether or not there is room.
    pub(super) fn take(&self, bytes: usize) -> Hold {
        self.held.fetch_add(bytes, Relaxed);
        Hold { held: self.held.clone(), bytes }
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

/// A consumer's memory. BOUND: one half is for what is fetched, from before its GET is sent; the other for what is decoded,
/// from before it is decompressed. Each counts until it was dropped, or until poll has handed it out and the application
/// polls again.
#[derive(Debug)]
pub(super) struct Memory {
    half: usize,
    pub(super) fetched: Budget,
    pub(super) decoded: Budget,
    pub(super) unused: Unused,
}

impl Memory {
    /// Of `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            half: limit / 2,
            fetched: Budget::default(),
            decoded: Budget::default(),
            unused: Unused::default(),
        }
    }

    /// Whether so much more may be fetched; if nothing is, anything.
    pub(super) fn can_fetch(&self, bytes: usize) -> bool {
        let held = self.fetched.held();
        held == 0 || held + bytes <= self.half
    }

    /// The most that one GET for several partitions may bring: several are under way at once.
    pub(super) fn joint(&self) -> usize {
        self.half / 2
    }

    /// How much may be decoded besides what is.
    pub(super) fn room_to_decode(&self) -> usize {
        self.half.saturating_sub(self.decoded.held())
    }

    /// How much of a partition is to be planned at once, if there are so many.
    pub(super) fn share(&self, partitions: usize) -> usize {
        self.half * 2 / partitions.max(1)
    }

    pub(super) fn held(&self) -> usize {
        self.fetched.held() + self.decoded.held()
    }
}

/// Bytes that are spoken for as long as this lives.
#[derive(Debug)]
pub(super) struct Hold {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Hold {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// As many bytes of the same budget once more.
    pub(super) fn beside(&self, bytes: usize) -> Self {
        self.held.fetch_add(bytes, Relaxed);
        Self { held: self.held.clone(), bytes }
    }

    /// Sets `bytes` of these apart; what is missing is taken besides.
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let own = self.bytes.min(bytes);
        self.held.fetch_add(bytes - own, Relaxed);
        self.bytes -= own;
        Self { held: self.held.clone(), bytes }
    }

    /// Speaks for `bytes` from here on.
    pub(super) fn resize(&mut self, bytes: usize) {
        self.held.fetch_add(bytes, Relaxed);
        self.held.fetch_sub(self.bytes, Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_back_when_its_last_holder_is_gone() {
        let budget = Budget::default();
        let shared = Arc::new(budget.take(70));
        let other = shared.clone();
        let alone = budget.take(30);
        assert_eq!(budget.held(), 100);
        drop(shared);
        drop(alone);
        assert_eq!(budget.held(), 70);
        drop(other);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_part_counts_for_itself_and_may_be_more_than_there_was() {
        let budget = Budget::default();
        let mut whole = budget.take(100);
        let part = whole.split(30);
        assert_eq!((whole.bytes(), part.bytes(), budget.held()), (70, 30, 100));
        let mut more = whole.split(90);
        assert_eq!((whole.bytes(), more.bytes(), budget.held()), (0, 90, 120));
        more.resize(10);
        assert_eq!(budget.held(), 40);
        drop((whole, part, more));
        assert_eq!(budget.held(), 0);
    }
}
