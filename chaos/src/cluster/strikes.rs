//! What a link's rule has done: counted where it is done, so that a fault that met nothing is known to be none.

use std::fmt;
use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one link.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    held_bytes: AtomicU64,
    late_bytes: AtomicU64,
    held_connections: AtomicU64,
    reset_connections: AtomicU64,
}

/// What was done, to one link or to several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Struck {
    /// How many links that was.
    pub(crate) links: u64,
    /// Bytes that had to wait until it is over.
    pub(crate) held_bytes: u64,
    /// Bytes that came later.
    pub(crate) late_bytes: u64,
    /// Connections that led nowhere.
    pub(crate) held_connections: u64,
    /// Connections that were reset.
    pub(crate) reset_connections: u64,
}

impl Strikes {
    pub(super) fn held(&self, bytes: usize) {
        self.held_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn late(&self, bytes: usize) {
        self.late_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn held_connection(&self) {
        self.held_connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reset_connection(&self) {
        self.reset_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts, which begin anew.
    pub(super) fn take(&self) -> Struck {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let mut struck = Struck {
            links: 0,
            held_bytes: take(&self.held_bytes),
            late_bytes: take(&self.late_bytes),
            held_connections: take(&self.held_connections),
            reset_connections: take(&self.reset_connections),
        };
        struck.links = u64::from(struck.any());
        struck
    }
}

impl Struck {
    /// Anything at all.
    pub(crate) fn any(&self) -> bool {
        self.held_bytes + self.late_bytes + self.held_connections + self.reset_connections > 0
    }
}

impl Sum for Struck {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            links: sum.links + one.links,
            held_bytes: sum.held_bytes + one.held_bytes,
            late_bytes: sum.late_bytes + one.late_bytes,
            held_connections: sum.held_connections + one.held_connections,
            reset_connections: sum.reset_connections + one.reset_connections,
        })
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.held_bytes, "bytes held"),
            (self.late_bytes, "bytes late"),
            (self.held_connections, "connections held"),
            (self.reset_connections, "connections reset"),
        ];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        let told: Vec<_> = told.map(|(count, what)| format!("{count} {what}")).collect();
        match told.is_empty() {
            true => f.write_str("nothing passed there"),
            false => write!(f, "{} on {} links", told.join(", "), self.links),
        }
    }
}
