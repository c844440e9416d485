//! Reading the state: [`KvRead`] over the live database, for apply, and over
//! a RocksDB snapshot, for everyone else.

use super::db::Db;
use super::meta::{self, AppliedMeta};
use super::read_cache::ReadCache;
use crate::state::kv::{KvError, KvRead, Value};
use rocksdb::{DBRawIterator, ReadOptions, Snapshot};
use std::cell::RefCell;
use std::sync::Arc;

type Pair = (Vec<u8>, Value);

fn kv_error(error: impl ToString) -> KvError {
    KvError(error.to_string())
}

fn bounds(start: &[u8], end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start);
    options.set_iterate_upper_bound(end);
    options
}

fn collect(mut iterator: DBRawIterator<'_>, limit: usize) -> Result<Vec<Pair>, KvError> {
    let mut pairs = Vec::new();
    iterator.seek_to_first();
    while pairs.len() < limit
        && let Some((key, value)) = iterator.item()
    {
        pairs.push((key.to_vec(), value.to_vec()));
        iterator.next();
    }
    iterator.status().map_err(kv_error)?;
    Ok(pairs)
}

fn last_of(mut iterator: DBRawIterator<'_>) -> Result<Option<Pair>, KvError> {
    iterator.seek_to_last();
    let pair = iterator.item().map(|(key, value)| (key.to_vec(), value.to_vec()));
    iterator.status().map_err(kv_error)?;
    Ok(pair)
}

/// The state as it is now; only the thread that applies may read it so.
pub(crate) struct LiveState<'a> {
    db: &'a Db,
    cache: RefCell<&'a mut ReadCache>,
}

impl<'a> LiveState<'a> {
    pub(crate) fn new(db: &'a Db, cache: &'a mut ReadCache) -> Self {
        Self { db, cache: RefCell::new(cache) }
    }
}

impl KvRead for LiveState<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, KvError> {
        if let Some(known) = self.cache.borrow().get(key) {
            return Ok(known);
        }
        let value = self.db.rocks().get_cf(self.db.state(), key).map_err(kv_error)?;
        self.cache.borrow_mut().read(key, &value);
        Ok(value)
    }

    /// Remembers nothing: what is there is about to change.
    fn get_replaced(&self, keys: &[&[u8]]) -> Result<Vec<Option<Value>>, KvError> {
        let cache = self.cache.borrow();
        let known: Vec<_> = keys.iter().map(|key| cache.get(key)).collect();
        let unknown = keys.iter().zip(&known).filter(|(_, known)| known.is_none());
        let unknown = unknown.map(|(key, _)| key);
        let found = self.db.rocks().batched_multi_get_cf(self.db.state(), unknown, true);
        let mut found = found.into_iter();
        let values = known.into_iter().map(|known| match known {
            Some(known) => Ok(known),
            None => match found.next() {
                Some(found) => Ok(found.map_err(kv_error)?.map(|value| value.to_vec())),
                None => Err(KvError("fewer values than keys".into())),
            },
        });
        values.collect()
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let options = bounds(start, end);
        collect(self.db.rocks().raw_iterator_cf_opt(self.db.state(), options), limit)
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        if start >= end {
            return Ok(None);
        }
        last_of(self.db.rocks().raw_iterator_cf_opt(self.db.state(), bounds(start, end)))
    }
}

self_cell::self_cell!(
    struct SnapshotCell {
        owner: Arc<Db>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// The state at one applied index, unchanged by whatever is applied later.
/// Cheap to take and to clone; while one lives, the database keeps what it
/// sees, so do not keep it for long.
#[derive(Clone)]
pub struct StateView {
    cell: Arc<SnapshotCell>,
    meta: Arc<AppliedMeta>,
}

impl StateView {
    /// A view of the state as of now.
    pub(crate) fn take(db: &Arc<Db>) -> Result<Self, KvError> {
        let cell = SnapshotCell::new(db.clone(), |db| db.rocks().snapshot());
        let bytes = {
            let snapshot = cell.borrow_dependent();
            snapshot.get_cf(db.raft(), meta::APPLIED).map_err(kv_error)?
        };
        let meta = AppliedMeta::decode(bytes.as_deref()).map_err(KvError)?;
        Ok(Self { cell: Arc::new(cell), meta: Arc::new(meta) })
    }

    /// Index of the last entry applied to this state.
    pub fn applied(&self) -> u64 {
        self.meta.index()
    }

    /// Equal on every controller at the same applied index.
    pub fn state_hash(&self) -> u128 {
        self.meta.state_hash
    }

    pub(crate) fn meta(&self) -> &AppliedMeta {
        &self.meta
    }

    /// An iterator over the whole state, in key order. What it passes does not
    /// drive out of the cache what others read.
    pub(crate) fn iterate(&self) -> DBRawIterator<'_> {
        let db = self.cell.borrow_owner();
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut iterator = self.cell.borrow_dependent().raw_iterator_cf_opt(db.state(), options);
        iterator.seek_to_first();
        iterator
    }

    fn iterator(&self, start: &[u8], end: &[u8]) -> DBRawIterator<'_> {
        let db = self.cell.borrow_owner();
        let options = bounds(start, end);
        self.cell.borrow_dependent().raw_iterator_cf_opt(db.state(), options)
    }
}

impl KvRead for StateView {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, KvError> {
        let db = self.cell.borrow_owner();
        self.cell.borrow_dependent().get_cf(db.state(), key).map_err(kv_error)
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        if start >= end {
            return Ok(Vec::new());
        }
        collect(self.iterator(start, end), limit)
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        if start >= end {
            return Ok(None);
        }
        last_of(self.iterator(start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rocksdb::WriteBatch;

    #[test]
    fn what_is_replaced_is_found_wherever_it_is_and_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path(), 1).unwrap().0;
        let mut batch = WriteBatch::default();
        for number in 0..6u8 {
            batch.put_cf(db.state(), [number], [number, number]);
        }
        db.write_unsynced(batch).unwrap();
        let mut cache = ReadCache::new();
        let live = LiveState::new(&db, &mut cache);
        // Of these the cache knows two, one of which is not there.
        let there = |number: u8| (number < 6).then(|| vec![number, number]);
        for number in [4, 8] {
            assert_eq!(live.get(&[number]).unwrap(), there(number));
        }
        let keys: Vec<_> = (1..10u8).map(|number| [number]).collect();
        let keys: Vec<_> = keys.iter().map(<[u8; 1]>::as_slice).collect();
        let expected: Vec<_> = (1..10).map(there).collect();
        assert_eq!(live.get_replaced(&keys).unwrap(), expected);
        assert_eq!(live.get_replaced(&[]).unwrap(), Vec::<Option<Value>>::new());
    }

    #[test]
    fn that_nothing_is_there_is_forgotten_when_something_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path(), 1).unwrap().0;
        let mut cache = ReadCache::new();
        assert_eq!(LiveState::new(&db, &mut cache).get(b"a").unwrap(), None);
        assert_eq!(cache.get(b"a"), Some(None));
        cache.wrote(b"a".to_vec(), Some(b"1".to_vec()));
        assert_eq!(cache.get(b"a"), Some(Some(b"1".to_vec())));
        cache.wrote(b"a".to_vec(), None);
        assert_eq!(cache.get(b"a"), None);
    }
}
