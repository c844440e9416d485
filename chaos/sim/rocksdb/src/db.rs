//! Databases, and what they held at one moment.

use crate::batch::{Step, WriteBatch};
use crate::disk::{DISKS, Families, Family, Written};
use crate::error::{Error, ErrorKind};
use crate::iterator::{DBRawIterator, ReadOptions};
use crate::options::Options;
use std::path::{Path, PathBuf};

/// A column family that a database is opened with.
pub struct ColumnFamilyDescriptor(String);

impl ColumnFamilyDescriptor {
    /// By its name.
    pub fn new(name: impl Into<String>, _: Options) -> Self {
        Self(name.into())
    }
}

/// An open database's column family.
pub struct ColumnFamily(pub(crate) usize);

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
