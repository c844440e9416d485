//! The ordered key-value transaction over which the state machine is written.
//!
//! Production reads from RocksDB, tests and the simulator from a `BTreeMap`;
//! writes gather in a [`Transaction`] and become one atomic batch. PURE: a
//! scan sees keys in byte order whatever the store.

use std::collections::BTreeMap;
use std::ops::Bound;

/// A value read or written.
pub type Value = Vec<u8>;

/// The store could not be read. Fatal to the process: state that cannot be
/// read cannot be applied to.
#[derive(Debug, thiserror::Error)]
#[error("state store: {0}")]
pub struct KvError(pub String);

/// Read access to an ordered store of bytes.
pub trait KvRead {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Value>, KvError>;

    /// The values at keys that are about to be written, in their order, which is ascending.
    fn get_replaced(&self, keys: &[&[u8]]) -> Result<Vec<Option<Value>>, KvError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Up to `limit` pairs with `start <= key < end`, in ascending order.
    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, KvError>;

    /// The last pair with `start <= key < end`.
    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<(Vec<u8>, Value)>, KvError>;
}

/// A store in memory, for tests and simulation.
#[derive(Debug, Default, Clone)]
pub struct MemoryKv {
    /// The pairs.
    pub pairs: BTreeMap<Vec<u8>, Value>,
}

impl MemoryKv {
    /// Applies the writes of a finished transaction.
    pub fn commit(&mut self, writes: impl IntoIterator<Item = (Vec<u8>, Option<Value>)>) {
        for (key, value) in writes {
            match value {
                Some(value) => self.pairs.insert(key, value),
                None => self.pairs.remove(&key),
            };
        }
    }
}

impl KvRead for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, KvError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, KvError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let pairs = self.pairs.range::<[u8], _>(range).take(limit);
        Ok(pairs.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<(Vec<u8>, Value)>, KvError> {
        if start >= end {
            return Ok(None);
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let last = self.pairs.range::<[u8], _>(range).next_back();
        Ok(last.map(|(k, v)| (k.clone(), v.clone())))
    }
}

/// Reads through to a base store, keeps writes to itself until
/// [`Transaction::into_writes`].
pub struct Transaction<'a> {
    base: &'a dyn KvRead,
    writes: BTreeMap<Vec<u8>, Option<Value>>,
    /// The log's index of the entry that is being applied.
    index: u64,
}

impl<'a> Transaction<'a> {
    /// An empty transaction over `base`.
    pub fn new(base: &'a dyn KvRead) -> Self {
        Self { base, writes: BTreeMap::new(), index: 0 }
    }

    /// From now on it applies the entry at `index`.
    pub(super) fn begin_entry(&mut self, index: u64) {
        self.index = index;
    }

    /// The log's index of the entry that is being applied.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Sets `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Value) {
        self.writes.insert(key, Some(value));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    /// Ends the transaction: what is to be written in one atomic batch.
    pub fn into_writes(self) -> BTreeMap<Vec<u8>, Option<Value>> {
        self.writes
    }
}

impl KvRead for Transaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, KvError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, KvError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let overlay: Vec<_> = self.writes.range::<[u8], _>(range).collect();
        // Every removal in the overlay can hide one pair of the base.
        let hidden = overlay.len();
        let base = self.base.scan(start, end, limit.saturating_add(hidden))?;
        let mut merged = Vec::with_capacity(limit.min(base.len() + hidden));
        let (mut base, mut overlay) = (base.into_iter().peekable(), overlay.into_iter().peekable());
        while merged.len() < limit {
            let from_overlay = match (base.peek(), overlay.peek()) {
                (None, None) => break,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((b, _)), Some((o, _))) if *o <= b => {
                    if *o == b {
                        base.next();
                    }
                    true
                }
                (Some(_), Some(_)) => false,
            };
            if from_overlay {
                if let Some((key, Some(value))) = overlay.next() {
                    merged.push((key.clone(), value.clone()));
                }
            } else if let Some(pair) = base.next() {
                merged.push(pair);
            }
        }
        Ok(merged)
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<(Vec<u8>, Value)>, KvError> {
        let mut end = end.to_vec();
        loop {
            if start >= end.as_slice() {
                return Ok(None);
            }
            let range = (Bound::Included(start), Bound::Excluded(end.as_slice()));
            let overlay = self.writes.range::<[u8], _>(range).next_back();
            let base = self.base.last(start, &end)?;
            let (key, value) = match (overlay, base) {
                (None, base) => return Ok(base),
                (Some((key, value)), Some((b, v))) => {
                    if b > *key {
                        return Ok(Some((b, v)));
                    }
                    (key, value)
                }
                (Some((key, value)), None) => (key, value),
            };
            match value {
                Some(value) => return Ok(Some((key.clone(), value.clone()))),
                None => end = key.clone(),
            }
        }
    }
}

/// The first key after every key that starts with `prefix`.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; prefix.len() + 1]
}
