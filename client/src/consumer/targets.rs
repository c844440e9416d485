//! Where the application wants to read: set by the consumer, followed by the fetcher.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// From which offset a partition is to be read; `None`: not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Counts the seeks, so that what was read for an earlier target is told apart.
    pub(super) version: u64,
    pub(super) offset: Option<u64>,
}

/// One target per slot, and the bell that wakes the fetcher.
#[derive(Debug)]
pub(super) struct Targets {
    all: Mutex<Vec<Target>>,
    bell: Notify,
}

impl Targets {
    pub(super) fn new(offsets: impl Iterator<Item = Option<u64>>) -> Self {
        let all = offsets.map(|offset| Target { version: 1, offset }).collect();
        Self { all: Mutex::new(all), bell: Notify::new() }
    }

    pub(super) fn version(&self, slot: usize) -> u64 {
        self.all.lock()[slot].version
    }

    pub(super) fn get(&self, slot: usize) -> Target {
        self.all.lock()[slot]
    }

    /// Reads the partition from there. What was fetched for it before is dropped.
    pub(super) fn set(&self, slot: usize, offset: Option<u64>) {
        let mut all = self.all.lock();
        all[slot].version += 1;
        all[slot].offset = offset;
        drop(all);
        self.ring();
    }

    /// Something was taken or moved: the fetcher should look.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }
}
