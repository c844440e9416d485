//! Which offsets may be committed. Pure: no clock, no I/O.
//!
//! What a poll hands out belongs to the application only when it polls again (or has iterated to the end, and closes):
//! a crash in between must bring those records back. So each partition has a *position* (after the last record handed
//! out) and a *taken* offset (the position as of the poll before).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use streamhouse_host::{Mistake, is_planted};

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    position: Option<u64>,
    taken: Option<u64>,
    /// What its group has, where that is known.
    committed: Option<u64>,
    /// The number of its newest commit.
    newest: u64,
}

/// See the module. Partitions go by their slot.
#[derive(Debug, Default)]
pub(super) struct Bookkeeping {
    entries: Vec<Option<Entry>>,
    /// How many commits were handed in; each goes by its number.
    handed_in: u64,
    /// Whether the records of the last poll were iterated to the end.
    last_poll: Option<Arc<AtomicBool>>,
}

impl Bookkeeping {
    /// The slot's partition is read from `position`; `committed` is what its group has.
    pub(super) fn add(&mut self, slot: usize, position: Option<u64>, committed: Option<u64>) {
        if self.entries.len() <= slot {
            self.entries.resize(slot + 1, None);
        }
        self.entries[slot] = Some(Entry { position, taken: position, committed, newest: 0 });
    }

    /// The slot's partition is not read any more.
    pub(super) fn remove(&mut self, slot: usize) {
        self.entries[slot] = None;
    }

    pub(super) fn position(&self, slot: usize) -> Option<u64> {
        self.entries[slot].as_ref()?.position
    }

    /// A slot without a position.
    pub(super) fn lost(&self) -> Option<usize> {
        let lost = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.position.is_none());
        self.entries.iter().position(lost)
    }

    /// The application polls again: what it got before is taken.
    pub(super) fn begin_poll(&mut self) {
        self.last_poll = None;
        for entry in self.entries.iter_mut().flatten() {
            entry.taken = entry.position;
        }
    }

    /// Records up to `next` were handed out by the current poll.
    pub(super) fn advance(&mut self, slot: usize, next: u64) {
        if let Some(entry) = &mut self.entries[slot] {
            entry.position = Some(next);
        }
    }

    /// The current poll's records, by their flag.
    pub(super) fn end_poll(&mut self, consumed: Arc<AtomicBool>) {
        self.last_poll = Some(consumed);
    }

    /// The application, or the reset policy, went elsewhere.
    pub(super) fn seek(&mut self, slot: usize, offset: u64) {
        if let Some(entry) = &mut self.entries[slot] {
            (entry.position, entry.taken) = (Some(offset), Some(offset));
        }
    }

    /// What an automatic commit may say.
    pub(super) fn taken(&self) -> Vec<(usize, u64)> {
        let ahead = u64::from(is_planted(Mistake::AutoCommitAhead));
        self.changed(|entry| entry.taken.map(|taken| taken + ahead))
    }

    /// What the last automatic commit, at close, may say.
    pub(super) fn taken_at_close(&self) -> Vec<(usize, u64)> {
        let consumed = self.last_poll.as_ref().is_none_or(|flag| flag.load(Ordering::Acquire));
        if consumed { self.changed(|entry| entry.position) } else { self.taken() }
    }

    /// What an explicit commit says: the application asks for it, so all that was handed out counts.
    pub(super) fn positions(&self) -> Vec<(usize, u64)> {
        let positions = self.entries.iter().enumerate();
        positions.filter_map(|(slot, entry)| Some((slot, entry.as_ref()?.position?))).collect()
    }

    /// A commit of these slots is handed in. From here on nobody knows what their group has, until that commit is known to
    /// have been taken: it may take effect although it fails, or nobody waits for its answer. Returns its number.
    pub(super) fn hand_in(&mut self, slots: impl IntoIterator<Item = usize>) -> u64 {
        self.handed_in += 1;
        for slot in slots {
            if let Some(entry) = &mut self.entries[slot] {
                (entry.committed, entry.newest) = (None, self.handed_in);
            }
        }
        self.handed_in
    }

    /// That commit of this offset was taken. Only of the slot's newest one that tells what its group has.
    pub(super) fn committed(&mut self, slot: usize, offset: u64, number: u64) {
        if let Some(entry) = &mut self.entries[slot]
            && entry.newest == number
        {
            entry.committed = Some(offset);
        }
    }

    /// The application asks for this offset to be committed, so it has taken all before it: until it polls again, no
    /// automatic commit goes back behind it. Afterwards its position counts, also where that is lower, as in Kafka.
    pub(super) fn take(&mut self, slot: usize, offset: u64) {
        if let Some(entry) = &mut self.entries[slot] {
            entry.taken = entry.taken.map(|taken| taken.max(offset));
        }
    }

    fn changed(&self, which: impl Fn(&Entry) -> Option<u64>) -> Vec<(usize, u64)> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter_map(|(slot, entry)| Some((slot, entry.as_ref()?)))
            .filter_map(|(slot, entry)| Some((slot, which(entry)?, entry.committed)))
            .filter(|(_, offset, committed)| Some(*offset) != *committed)
            .map(|(slot, offset, _)| (slot, offset))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(books: &mut Bookkeeping, next: u64) -> Arc<AtomicBool> {
        books.begin_poll();
        books.advance(0, next);
        let flag = Arc::new(AtomicBool::new(false));
        books.end_poll(flag.clone());
        flag
    }

    #[test]
    fn what_was_just_received_is_not_committed_automatically() {
        let mut books = Bookkeeping::default();
        books.add(0, Some(5), Some(5));
        poll(&mut books, 8);
        assert_eq!(books.taken(), []);
        poll(&mut books, 11);
        assert_eq!(books.taken(), [(0, 8)]);
        assert_eq!(books.positions(), [(0, 11)]);
    }

    #[test]
    fn close_includes_the_last_poll_only_if_it_was_iterated_to_the_end() {
        let mut books = Bookkeeping::default();
        books.add(0, Some(0), None);
        let flag = poll(&mut books, 8);
        assert_eq!(books.taken_at_close(), [(0, 0)]);
        flag.store(true, Ordering::Release);
        assert_eq!(books.taken_at_close(), [(0, 8)]);
    }

    #[test]
    fn an_offset_is_committed_once() {
        let mut books = Bookkeeping::default();
        books.add(0, Some(0), None);
        // A start position that was never committed is: a restart must not skip what came meanwhile.
        assert_eq!(books.taken(), [(0, 0)]);
        poll(&mut books, 4);
        books.begin_poll();
        let due = books.taken();
        assert_eq!(due, [(0, 4)]);
        let number = books.hand_in([0]);
        books.committed(0, due[0].1, number);
        assert_eq!(books.taken(), []);
    }

    #[test]
    fn what_is_committed_is_known_by_the_newest_commit_alone() {
        let mut books = Bookkeeping::default();
        books.add(0, Some(5), Some(5));
        poll(&mut books, 8);
        books.begin_poll();
        let automatic = books.hand_in([0]);
        // Whoever goes back before the answer may go back behind what it was.
        books.seek(0, 5);
        assert_eq!(books.taken(), [(0, 5)]);
        let explicit = books.hand_in([0]);
        books.committed(0, 5, explicit);
        // The earlier one's answer comes late.
        books.committed(0, 8, automatic);
        assert_eq!(books.taken(), []);
        // Nor does one count of the partition that had the slot before.
        let late = books.hand_in([0]);
        books.remove(0);
        books.add(0, Some(0), None);
        books.committed(0, 0, late);
        assert_eq!(books.taken(), [(0, 0)]);
    }

    #[test]
    fn what_the_application_commits_is_taken() {
        let mut books = Bookkeeping::default();
        books.add(0, Some(0), Some(0));
        poll(&mut books, 10);
        books.take(0, 10);
        let number = books.hand_in([0]);
        books.committed(0, 10, number);
        // Nothing is left for an automatic commit, least of all the position before that poll.
        assert_eq!(books.taken(), []);
        books.seek(0, 3);
        assert_eq!(books.taken(), [(0, 3)]);
    }

    #[test]
    fn a_seek_takes_the_place_of_what_was_handed_out() {
        let mut books = Bookkeeping::default();
        books.add(0, Some(0), None);
        poll(&mut books, 10);
        books.seek(0, 3);
        assert_eq!((books.taken(), books.position(0)), (vec![(0, 3)], Some(3)));
    }

    #[test]
    fn a_partition_without_a_position_is_found_and_never_committed() {
        let mut books = Bookkeeping::default();
        books.add(0, Some(1), Some(1));
        books.add(1, None, None);
        assert_eq!(books.lost(), Some(1));
        assert_eq!(books.positions(), [(0, 1)]);
        books.seek(1, 9);
        assert_eq!(books.lost(), None);
    }

    #[test]
    fn a_partition_that_is_no_longer_read_is_not_committed() {
        let mut books = Bookkeeping::default();
        books.add(0, Some(1), None);
        books.add(1, Some(2), None);
        let number = books.hand_in([0]);
        books.remove(0);
        books.committed(0, 9, number);
        books.advance(0, 9);
        assert_eq!((books.positions(), books.position(0)), (vec![(1, 2)], None));
        assert_eq!(books.lost(), None);
    }
}
