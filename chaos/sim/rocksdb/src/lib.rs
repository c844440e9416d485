//! RocksDB's interface, as far as the controllers use it, over memory.
//!
//! A database is known by its path and belongs to its thread. What was written is there for whoever reads; what a
//! [`DB::flush_wal`] covered survives [`power_cut`], and of what came after it a prefix does, as of a write-ahead log.
//! Snapshots are copies that share everything (persistent maps), so reading never waits for anything.

use imbl::OrdMap;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Bytes = Arc<[u8]>;
type Family = OrdMap<Vec<u8>, Bytes>;
type Families = Vec<Family>;

/// What a path holds.
#[derive(Default)]
struct Disk {
    names: Vec<String>,
    /// As the last sync left it.
    durable: Families,
    /// Each write since then.
    unsynced: Vec<Written>,
    open: bool,
}

/// What one write left.
struct Written {
    after: Families,
    /// Which families it changed.
    changed: Vec<bool>,
}

impl Disk {
    fn now(&self) -> &Families {
        self.unsynced.last().map_or(&self.durable, |last| &last.after)
    }

    /// What was written is durable.
    fn sync(&mut self) {
        if let Some(last) = self.unsynced.pop() {
            self.durable = last.after;
            self.unsynced.clear();
        }
    }
}

thread_local! {
    static DISKS: RefCell<BTreeMap<PathBuf, Disk>> = const { RefCell::new(BTreeMap::new()) };
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

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Of which kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What is stored is not what was written. Never here.
    Corruption,
    /// The system refused.
    IOError,
}

impl Error {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Settings; none of them means anything here.
#[derive(Default)]
pub struct Options;

/// How a write-ahead log is read.
pub enum DBRecoveryMode {
    /// Up to where it does not hold.
    PointInTime,
}

macro_rules! ignored {
    ($($name:ident($($of:ty),*));* $(;)?) => {
        impl Options {
            $(
                /// Without effect.
                pub fn $name(&mut self, $(_: $of),*) {}
            )*
        }
    };
}

ignored! {
    create_if_missing(bool);
    create_missing_column_families(bool);
    set_wal_recovery_mode(DBRecoveryMode);
    set_track_and_verify_wals_in_manifest(bool);
    set_paranoid_checks(bool);
    set_manual_wal_flush(bool);
    set_max_total_wal_size(u64);
    set_bytes_per_sync(u64);
    set_keep_log_file_num(usize);
    set_max_open_files(i32);
    set_block_based_table_factory(&BlockBasedOptions);
    set_write_buffer_size(usize);
    set_memtable_whole_key_filtering(bool);
    set_memtable_prefix_bloom_ratio(f64);
}

impl Options {
    /// As without the string.
    ///
    /// # Errors
    /// None.
    pub fn get_options_from_string(&mut self, _: impl AsRef<str>) -> Result<Self, Error> {
        Ok(Self)
    }
}

/// Settings of tables, without effect.
#[derive(Default)]
pub struct BlockBasedOptions;

impl BlockBasedOptions {
    /// Without effect.
    pub fn set_block_cache(&mut self, _: &Cache) {}
    /// Without effect.
    pub fn set_format_version(&mut self, _: i32) {}
    /// Without effect.
    pub fn set_bloom_filter(&mut self, _: f64, _: bool) {}
}

/// A cache of nothing.
pub struct Cache;

impl Cache {
    /// One.
    pub fn new_lru_cache(_: usize) -> Self {
        Self
    }
}

/// A column family that a database is opened with.
pub struct ColumnFamilyDescriptor(String);

impl ColumnFamilyDescriptor {
    /// By its name.
    pub fn new(name: impl Into<String>, _: Options) -> Self {
        Self(name.into())
    }
}

/// An open database's column family.
pub struct ColumnFamily(usize);

/// An open database.
pub struct DB {
    path: PathBuf,
    families: Vec<(String, ColumnFamily)>,
}

impl DB {
    /// Opens the database at `path`, or makes it.
    ///
    /// # Errors
    /// If it is open.
    pub fn open_cf_descriptors(
        _: &Options,
        path: impl AsRef<Path>,
        families: impl IntoIterator<Item = ColumnFamilyDescriptor>,
    ) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let names: Vec<String> = families.into_iter().map(|family| family.0).collect();
        DISKS.with_borrow_mut(|disks| {
            let disk = disks.entry(path.clone()).or_default();
            if disk.open {
                let message = format!("IO error: lock {}/LOCK: it is open", path.display());
                return Err(Error { kind: ErrorKind::IOError, message });
            }
            if disk.names.is_empty() {
                disk.names.clone_from(&names);
                disk.durable = vec![Family::new(); names.len()];
            }
            assert_eq!(
                disk.names, names,
                "a database is opened with the families it was made with"
            );
            disk.open = true;
            // What is recovered is written to tables, and these are synced.
            disk.sync();
            Ok(())
        })?;
        let families = names.into_iter().zip((0..).map(ColumnFamily)).collect();
        Ok(Self { path, families })
    }

    /// A column family.
    pub fn cf_handle(&self, name: &str) -> Option<&ColumnFamily> {
        self.families.iter().find(|(its, _)| its == name).map(|(_, family)| family)
    }

    fn now<T>(&self, read: impl FnOnce(&Families) -> T) -> T {
        DISKS.with_borrow(|disks| read(disks[&self.path].now()))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// None.
    pub fn get_cf(
        &self,
        family: &ColumnFamily,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.now(|families| families[family.0].get(key.as_ref()).map(|value| value.to_vec())))
    }

    /// The values of keys, in their order.
    pub fn batched_multi_get_cf<'k, K: AsRef<[u8]> + 'k + ?Sized>(
        &self,
        family: &ColumnFamily,
        keys: impl IntoIterator<Item = &'k K>,
        _: bool,
    ) -> Vec<Result<Option<Vec<u8>>, Error>> {
        keys.into_iter().map(|key| self.get_cf(family, key)).collect()
    }

    /// Writes a batch.
    ///
    /// # Errors
    /// None.
    pub fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        DISKS.with_borrow_mut(|disks| {
            let disk = disks.get_mut(&self.path).expect("an open database");
            let mut families = disk.now().clone();
            let mut changed = vec![false; families.len()];
            for step in batch.steps {
                let (Step::Put(of, ..) | Step::Delete(of, ..) | Step::DeleteRange(of, ..)) = step;
                changed[of] = true;
                match step {
                    Step::Put(at, key, value) => {
                        families[at].insert(key, value);
                    }
                    Step::Delete(at, key) => {
                        families[at].remove(&key);
                    }
                    Step::DeleteRange(at, from, to) => {
                        let (before, rest) = families[at].split(&from);
                        // `split` leaves out the key itself, which is of the range; what it splits at the end is not.
                        let end = rest.get(&to).cloned();
                        let mut after = rest.split(&to).1;
                        end.map(|value| after.insert(to, value));
                        families[at] = before.union(after);
                    }
                }
            }
            disk.unsynced.push(Written { after: families, changed });
        });
        Ok(())
    }

    /// What was written is on the disk, if `sync`.
    ///
    /// # Errors
    /// None.
    pub fn flush_wal(&self, sync: bool) -> Result<(), Error> {
        if sync {
            DISKS.with_borrow_mut(|disks| {
                let disk = disks.get_mut(&self.path).expect("an open database");
                disk.sync();
            });
        }
        Ok(())
    }

    /// Nothing is estimated.
    ///
    /// # Errors
    /// None.
    pub fn property_int_value_cf(&self, _: &ColumnFamily, _: &str) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    /// There is none.
    pub fn cancel_all_background_work(&self, _: bool) {}

    /// All pairs of a column family, as of now.
    pub fn raw_iterator_cf(&self, family: &ColumnFamily) -> DBRawIterator<'_> {
        self.raw_iterator_cf_opt(family, ReadOptions::default())
    }

    /// Those within bounds.
    pub fn raw_iterator_cf_opt(
        &self,
        family: &ColumnFamily,
        options: ReadOptions,
    ) -> DBRawIterator<'_> {
        DBRawIterator::new(self.now(|families| families[family.0].clone()), options)
    }

    /// Everything, as of now.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { families: self.now(Clone::clone), _db: self }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DB {
    fn drop(&mut self) {
        // A simulation that has ended may have forgotten it.
        let _ = DISKS.try_with(|disks| {
            if let Some(disk) = disks.borrow_mut().get_mut(&self.path) {
                disk.open = false;
            }
        });
    }
}

/// What a database held at one moment.
pub struct Snapshot<'a> {
    families: Families,
    _db: &'a DB,
}

impl Snapshot<'_> {
    /// The value of a key.
    ///
    /// # Errors
    /// None.
    pub fn get_cf(
        &self,
        family: &ColumnFamily,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.families[family.0].get(key.as_ref()).map(|value| value.to_vec()))
    }

    /// All pairs of a column family.
    pub fn raw_iterator_cf(&self, family: &ColumnFamily) -> DBRawIterator<'_> {
        self.raw_iterator_cf_opt(family, ReadOptions::default())
    }

    /// Those within bounds.
    pub fn raw_iterator_cf_opt(
        &self,
        family: &ColumnFamily,
        options: ReadOptions,
    ) -> DBRawIterator<'_> {
        DBRawIterator::new(self.families[family.0].clone(), options)
    }
}

/// Bounds of an iterator.
#[derive(Default)]
pub struct ReadOptions {
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
}

impl ReadOptions {
    pub fn fill_cache(&mut self, _: bool) {}

    /// The first key.
    pub fn set_iterate_lower_bound(&mut self, from: impl Into<Vec<u8>>) {
        self.from = Some(from.into());
    }

    /// The first key that is none any more.
    pub fn set_iterate_upper_bound(&mut self, to: impl Into<Vec<u8>>) {
        self.to = Some(to.into());
    }
}

/// Pairs in the order of their keys.
pub struct DBRawIterator<'a> {
    family: Family,
    options: ReadOptions,
    at: Option<(Vec<u8>, Bytes)>,
    of: std::marker::PhantomData<&'a ()>,
}

impl DBRawIterator<'_> {
    fn new(family: Family, options: ReadOptions) -> Self {
        Self { family, options, at: None, of: std::marker::PhantomData }
    }

    fn bounds(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let from = self.options.from.clone().map_or(Bound::Unbounded, Bound::Included);
        (from, self.options.to.clone().map_or(Bound::Unbounded, Bound::Excluded))
    }

    fn empty(&self) -> bool {
        matches!((&self.options.from, &self.options.to), (Some(from), Some(to)) if from >= to)
    }

    /// To the first pair.
    pub fn seek_to_first(&mut self) {
        let first = (!self.empty()).then(|| self.family.range(self.bounds()).next()).flatten();
        self.at = first.map(|(key, value)| (key.clone(), value.clone()));
    }

    /// To the last one.
    pub fn seek_to_last(&mut self) {
        let last = (!self.empty()).then(|| self.family.range(self.bounds()).next_back()).flatten();
        self.at = last.map(|(key, value)| (key.clone(), value.clone()));
    }

    /// To the next one.
    pub fn next(&mut self) {
        let Some((key, _)) = self.at.take() else { return };
        let (_, to) = self.bounds();
        let next = self.family.range((Bound::Excluded(key), to)).next();
        self.at = next.map(|(key, value)| (key.clone(), value.clone()));
    }

    /// The pair.
    pub fn item(&self) -> Option<(&[u8], &[u8])> {
        self.at.as_ref().map(|(key, value)| (&key[..], &value[..]))
    }

    /// Its key.
    pub fn key(&self) -> Option<&[u8]> {
        self.at.as_ref().map(|(key, _)| &key[..])
    }

    /// Nothing goes wrong.
    ///
    /// # Errors
    /// None.
    pub fn status(&self) -> Result<(), Error> {
        Ok(())
    }
}

enum Step {
    Put(usize, Vec<u8>, Bytes),
    Delete(usize, Vec<u8>),
    DeleteRange(usize, Vec<u8>, Vec<u8>),
}

/// Changes that happen together.
#[derive(Default)]
pub struct WriteBatch {
    steps: Vec<Step>,
    bytes: usize,
}

impl WriteBatch {
    /// Sets a key.
    pub fn put_cf(
        &mut self,
        family: &ColumnFamily,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) {
        self.bytes += key.as_ref().len() + value.as_ref().len();
        self.steps.push(Step::Put(family.0, key.as_ref().to_vec(), value.as_ref().into()));
    }

    /// Removes a key.
    pub fn delete_cf(&mut self, family: &ColumnFamily, key: impl AsRef<[u8]>) {
        self.bytes += key.as_ref().len();
        self.steps.push(Step::Delete(family.0, key.as_ref().to_vec()));
    }

    /// Removes the keys from one on to before another.
    pub fn delete_range_cf(
        &mut self,
        family: &ColumnFamily,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
    ) {
        self.bytes += from.as_ref().len() + to.as_ref().len();
        let (from, to) = (from.as_ref().to_vec(), to.as_ref().to_vec());
        self.steps.push(Step::DeleteRange(family.0, from, to));
    }

    /// How large it is, about.
    pub fn size_in_bytes(&self) -> usize {
        self.bytes
    }
}

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
