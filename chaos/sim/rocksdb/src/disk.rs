//! What a machine's disk holds, and what a power cut leaves of it.

use imbl::OrdMap;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) type Bytes = Arc<[u8]>;
pub(crate) type Family = OrdMap<Vec<u8>, Bytes>;
pub(crate) type Families = Vec<Family>;

/// What a path holds.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) names: Vec<String>,
    /// As the last sync left it.
    pub(crate) durable: Families,
    /// Each write since then.
    pub(crate) unsynced: Vec<Written>,
    pub(crate) open: bool,
}

/// What one write left.
pub(crate) struct Written {
    pub(crate) after: Families,
    /// Which families it changed.
    pub(crate) changed: Vec<bool>,
}

impl Disk {
    pub(crate) fn now(&self) -> &Families {
        self.unsynced.last().map_or(&self.durable, |last| &last.after)
    }

    /// What was written is durable.
    pub(crate) fn sync(&mut self) {
        if let Some(last) = self.unsynced.pop() {
            self.durable = last.after;
            self.unsynced.clear();
        }
    }
}

thread_local! {
    pub(crate) static DISKS: RefCell<BTreeMap<PathBuf, Disk>> = const { RefCell::new(BTreeMap::new()) };
}

/// The power was cut under the database at `path`: of the writes that were not synced the first `keep(n)` of all `n` are on
/// the disk. For each column family, how many writes of the others had changed it; nothing where there is no database.
///
/// # Panics
/// If it is open: a machine without power has no process.
pub fn power_cut(
    path: impl AsRef<Path>,
    keep: impl FnOnce(usize) -> usize,
) -> BTreeMap<String, u64> {
    DISKS.with_borrow_mut(|disks| {
        let Some(disk) = disks.get_mut(path.as_ref()) else { return BTreeMap::new() };
        assert!(!disk.open, "{} is open, and its machine has no power", path.as_ref().display());
        let lost = disk.unsynced.split_off(keep(disk.unsynced.len()).min(disk.unsynced.len()));
        disk.sync();
        let of = |family: usize| lost.iter().filter(|write| write.changed[family]).count() as u64;
        disk.names.iter().enumerate().map(|(at, name)| (name.clone(), of(at))).collect()
    })
}

/// Forgets all databases of this thread.
pub fn forget_all() {
    DISKS.with_borrow_mut(BTreeMap::clear);
}
