//! Which partitions this session may write, under which epoch, and at which offset it goes on.
//!
//! Lease news reach the agent on two ways, from the leader's stream and in answers to commits, and in any order
//! between the two. What must hold: a partition's epoch never goes back here, and within one epoch the next offset is
//! counted by us alone, so that no offset is given out twice (ONCE). Whether a lease is still ours is decided where
//! commits are applied (FENCE); a mistake in here costs a retry, never data.

use crate::partition::PartitionId;
use std::collections::{BTreeMap, BTreeSet};
use streamhouse_proto::v1::{AttachResponse, ErrorCode, ErrorInfo, Lease};

#[derive(Debug, Default)]
struct Entry {
    /// The newest epoch that was ours, where it began, and where we go on in it.
    epoch: u32,
    epoch_start_offset: u64,
    next_offset: u64,
    /// No lease of a lower epoch can be ours any more.
    floor: u32,
    held: bool,
    revoking: bool,
    /// Given back under the current epoch.
    released: bool,
    /// Slices in flight that may still be accepted, all of them of `live_epoch`.
    live: usize,
    live_epoch: u32,
    /// Who holds it now, if we were told.
    moved_to: String,
}

/// Where a slice goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) epoch: u32,
    pub(crate) epoch_start_offset: u64,
    pub(crate) base_offset: u64,
}

/// What became of a partition's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Granted, raised, or its revocation began or was called off.
    Updated(PartitionId),
    Lost(PartitionId),
}

/// What may be done with a partition's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// It may be flushed.
    pub(crate) open: bool,
    /// It is to be given back: what there is should be flushed soon.
    pub(crate) leaving: bool,
    /// The controllers revoked it, so that they take it back: they refuse a lease that they did not ask for.
    pub(crate) revoked: bool,
    /// Nothing of it is in flight.
    pub(crate) quiet: bool,
}

/// A full list of leases of which not all parts have come.
#[derive(Debug)]
struct Listing {
    applied: u64,
    listed: BTreeSet<PartitionId>,
}

/// The epoch under which the lease of a deleted partition is lost.
const DELETED: u32 = u32::MAX;

/// All leases of one session.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    entries: BTreeMap<PartitionId, Entry>,
    term: u64,
    /// The applied index of the newest lease news.
    applied: u64,
    listing: Option<Listing>,
    held: usize,
    draining: bool,
}

impl Leases {
    /// Takes the news of a controller's stream. Only a leader's count, and only the newest leader's.
    pub(crate) fn merge(&mut self, news: &AttachResponse) -> Vec<Change> {
        if !news.leader || news.term < self.term {
            return Vec::new();
        }
        if news.full || news.term > self.term {
            self.listing = None;
        }
        self.term = news.term;
        let mut changes = Vec::new();
        for lease in &news.leases {
            if let Some(id) = PartitionId::from_wire(lease.partition.as_ref())
                && self.grant(id, lease)
            {
                changes.push(Change::Updated(id));
            }
        }
        for lost in &news.lost {
            if let Some(id) = PartitionId::from_wire(lost.partition.as_ref())
                && self.lose(id, lost.epoch, &lost.address)
            {
                changes.push(Change::Lost(id));
            }
        }
        changes.extend(self.list(news));
        // A heartbeat may run ahead of lease news that are still on their way.
        if news.full || !news.leases.is_empty() || !news.lost.is_empty() {
            self.applied = self.applied.max(news.applied);
        }
        changes
    }

    fn grant(&mut self, id: PartitionId, lease: &Lease) -> bool {
        let entry = self.entries.entry(id).or_default();
        if lease.epoch < entry.epoch.max(entry.floor) {
            return false;
        }
        let before = (entry.held, entry.epoch, entry.revoking, entry.released);
        if lease.epoch > entry.epoch {
            // Nobody has written under this epoch yet, so what is committed is where we go on.
            entry.epoch = lease.epoch;
            entry.epoch_start_offset = lease.epoch_start_offset;
            entry.next_offset = lease.next_offset;
            entry.released = false;
        } else if !lease.revoking {
            // The revocation was called off before we gave the lease back.
            entry.released = false;
        }
        entry.revoking = lease.revoking;
        self.held += usize::from(!entry.held);
        entry.held = true;
        entry.moved_to.clear();
        before != (entry.held, entry.epoch, entry.revoking, entry.released)
    }

    fn lose(&mut self, id: PartitionId, epoch: u32, address: &str) -> bool {
        let entry = self.entries.entry(id).or_default();
        if epoch < entry.epoch {
            return false;
        }
        entry.floor = entry.floor.max(epoch);
        entry.moved_to = address.to_owned();
        let was_held = std::mem::take(&mut entry.held);
        self.held -= usize::from(was_held);
        self.forget_deleted(id);
        was_held
    }

    /// A deleted partition never comes back (its topic's id is a UUID): nothing is kept of it, once nothing is in
    /// flight.
    fn forget_deleted(&mut self, id: PartitionId) {
        let deleted = |entry: &Entry| entry.floor == DELETED && !entry.held && entry.live == 0;
        if self.entries.get(&id).is_some_and(deleted) {
            self.entries.remove(&id);
        }
    }

    /// How many partitions something is known of.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.entries.len()
    }

    /// Notes what a full list names; once it is whole, what it does not name is lost.
    fn list(&mut self, news: &AttachResponse) -> Vec<Change> {
        if news.full {
            self.listing = Some(Listing { applied: news.applied, listed: BTreeSet::new() });
        }
        let Some(listing) = &mut self.listing else { return Vec::new() };
        let named =
            news.leases.iter().map(|lease| PartitionId::from_wire(lease.partition.as_ref()));
        listing.listed.extend(named.flatten());
        if news.more {
            return Vec::new();
        }
        // A new leader may know less than the one before; what it does not list yet it will grant or take later.
        let known = self.applied;
        let whole = self.listing.take().filter(|listing| listing.applied >= known);
        whole.map(|listing| self.drop_unlisted(&listing.listed)).unwrap_or_default()
    }

    fn drop_unlisted(&mut self, listed: &BTreeSet<PartitionId>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, entry) in &mut self.entries {
            if entry.held && !listed.contains(id) {
                entry.held = false;
                self.held -= 1;
                changes.push(Change::Lost(*id));
            }
        }
        changes
    }

    /// A commit's answer says that this epoch is current and still ours.
    pub(crate) fn raise(&mut self, id: PartitionId, epoch: u32, next_offset: u64) {
        let entry = self.entries.entry(id).or_default();
        if epoch <= entry.epoch || epoch < entry.floor {
            return;
        }
        entry.epoch = epoch;
        entry.epoch_start_offset = next_offset;
        entry.next_offset = next_offset;
        entry.released = false;
        if epoch > entry.floor && !entry.held {
            entry.held = true;
            self.held += 1;
        }
    }

    /// A commit's answer says that the lease is not ours, as of `epoch`.
    pub(crate) fn refused(&mut self, id: PartitionId, epoch: u32) -> bool {
        let known = self.entries.get(&id).map_or(0, |entry| entry.epoch);
        let address = self.moved_to(id).to_owned();
        epoch >= known && self.lose(id, epoch, &address)
    }

    /// Whether a new batch may be taken.
    pub(crate) fn admits(&self, id: PartitionId) -> bool {
        let admits = |entry: &Entry| entry.held && !entry.revoking && !entry.released;
        !self.draining && self.entries.get(&id).is_some_and(admits)
    }

    /// Gives the next `records` offsets to a slice, which is in flight from now on.
    pub(crate) fn assign(&mut self, id: PartitionId, records: u64) -> Place {
        let entry = self.entries.entry(id).or_default();
        let place = Place {
            epoch: entry.epoch,
            epoch_start_offset: entry.epoch_start_offset,
            base_offset: entry.next_offset,
        };
        entry.next_offset += records;
        entry.live += 1;
        entry.live_epoch = entry.epoch;
        place
    }

    /// A slice in flight was answered, put back, or failed.
    pub(crate) fn settle(&mut self, id: PartitionId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.live = entry.live.saturating_sub(1);
        }
        self.forget_deleted(id);
    }

    pub(crate) fn readiness(&self, id: PartitionId) -> Readiness {
        let Some(entry) = self.entries.get(&id) else {
            return Readiness { open: false, leaving: false, revoked: false, quiet: true };
        };
        let holding = entry.held && !entry.released;
        Readiness {
            // While slices of an older epoch await their answers their batches may come back, and must go first.
            open: holding && (entry.live == 0 || entry.live_epoch == entry.epoch),
            leaving: holding && (entry.revoking || self.draining),
            revoked: holding && entry.revoking,
            quiet: entry.live == 0,
        }
    }

    /// Gives the lease back; the epoch under which it was held.
    pub(crate) fn release(&mut self, id: PartitionId) -> u32 {
        let entry = self.entries.entry(id).or_default();
        entry.released = true;
        entry.epoch
    }

    /// From now on every lease is to be given back; those that are held.
    pub(crate) fn drain(&mut self) -> Vec<PartitionId> {
        self.draining = true;
        self.held_partitions()
    }

    pub(crate) fn held_partitions(&self) -> Vec<PartitionId> {
        self.entries.iter().filter(|(_, entry)| entry.held).map(|(id, _)| *id).collect()
    }

    /// How many leases are held and not given back.
    pub(crate) fn unreleased(&self) -> usize {
        self.entries.values().filter(|entry| entry.held && !entry.released).count()
    }

    pub(crate) fn holds(&self, id: PartitionId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.held)
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Who holds the partition now; empty if that is not known.
    pub(crate) fn moved_to(&self, id: PartitionId) -> &str {
        self.entries.get(&id).map_or("", |entry| &entry.moved_to)
    }

    /// What a producer is told whose partition is not ours.
    pub(crate) fn not_holder(&self, id: PartitionId) -> ErrorInfo {
        let message = format!("this agent does not take batches of {id}");
        ErrorInfo::new(ErrorCode::NotLeaseHolder, message).at(self.moved_to(id))
    }

    /// What a producer is told whose batch is behind a refused one, or behind one whose fate an ended session left open:
    /// this one certainly was not written.
    pub(crate) fn not_in_turn(&self, id: PartitionId) -> ErrorInfo {
        let message = format!("a batch of {id} ahead of this one was refused, or is in doubt");
        ErrorInfo::new(ErrorCode::NotLeaseHolder, message).at(self.moved_to(id))
    }
}
