//! RocksDB's interface, as far as the controllers use it, over memory.
//!
//! A database is known by its path and belongs to its thread. What was written is there for whoever reads; what a
//! [`DB::flush_wal`] covered survives [`power_cut`], and of what came after it a prefix does, as of a write-ahead log.
//! Snapshots are copies that share everything (persistent maps), so reading never waits for anything.

mod batch;
mod db;
mod disk;
mod error;
mod iterator;
mod options;

pub use batch::WriteBatch;
pub use db::{ColumnFamily, ColumnFamilyDescriptor, DB, Snapshot};
pub use disk::{forget_all, power_cut};
pub use error::{Error, ErrorKind};
pub use iterator::{DBRawIterator, ReadOptions};
pub use options::{BlockBasedOptions, Cache, DBRecoveryMode, Options};

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> DB {
        let families = ["a", "b"].map(|name| ColumnFamilyDescriptor::new(name, Options));
        DB::open_cf_descriptors(&Options, "disk", families).unwrap()
    }

    fn keys(db: &DB) -> Vec<u8> {
        let mut iterator = db.raw_iterator_cf(db.cf_handle("a").unwrap());
        iterator.seek_to_first();
        std::iter::from_fn(|| {
            let key = iterator.key().map(|key| key[0]);
            iterator.next();
            key
        })
        .collect()
    }

    fn put(db: &DB, key: u8) {
        let mut batch = WriteBatch::default();
        batch.put_cf(db.cf_handle("a").unwrap(), [key], [key]);
        db.write(batch).unwrap();
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced_from_its_end() {
        for keep in 0..=2 {
            forget_all();
            let db = open();
            put(&db, 1);
            db.flush_wal(true).unwrap();
            put(&db, 2);
            put(&db, 3);
            assert_eq!(keys(&db), [1, 2, 3]);
            drop(db);
            let lost = power_cut("disk", |unsynced| {
                assert_eq!(unsynced, 2);
                keep
            });
            assert_eq!((lost["a"], lost["b"]), (2 - keep as u64, 0));
            assert_eq!(keys(&open()), (1..=1 + keep as u8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ranges_are_removed_without_their_end_and_snapshots_stay() {
        forget_all();
        let db = open();
        (1..=6).for_each(|key| put(&db, key));
        let before = db.snapshot();
        let family = db.cf_handle("a").unwrap();
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(family, [2], [5]);
        db.write(batch).unwrap();
        assert_eq!(keys(&db), [1, 5, 6]);
        assert_eq!(before.get_cf(family, [3]).unwrap(), Some(vec![3]));
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound([2]);
        options.set_iterate_upper_bound([6]);
        let mut within = db.raw_iterator_cf_opt(family, options);
        within.seek_to_last();
        assert_eq!(within.key(), Some(&[5][..]));
    }

    #[test]
    fn one_that_is_open_is_not_opened_again() {
        forget_all();
        let db = open();
        let families = [ColumnFamilyDescriptor::new("a", Options)];
        let again = DB::open_cf_descriptors(&Options, "disk", families);
        assert_eq!(again.err().unwrap().kind(), ErrorKind::IOError);
        drop(db);
        open();
    }
}
