//! How much memory is spoken for: taken before it is used, given back when the last holder is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

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

/// Bytes that are in use for as long as this lives.
#[derive(Debug)]
pub(super) struct Hold {
    held: Arc<AtomicUsize>,
    bytes: usize,
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
}
