//! What apply read and wrote lately, in front of RocksDB: the records that
//! nearly every entry touches (clock, sessions, partitions, topics) are found
//! here, and so is the old value of whatever is written, which the state hash
//! wants. That there is nothing at a key is remembered, too: many an entry asks
//! for what hardly any cluster has.
//!
//! Right because one task alone applies, and all that changes the state goes
//! through [`ReadCache::wrote`] or [`ReadCache::clear`].

use crate::state::keys;
use crate::state::kv::Value;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

/// BOUND on keys and values.
const BYTES: u64 = 32 << 20;
/// What an entry costs beside its key and value.
const OVERHEAD: u64 = 96;
const EXPECTED: usize = 100_000;

#[derive(Clone)]
struct Bytes;

impl Weighter<Vec<u8>, Option<Value>> for Bytes {
    fn weight(&self, key: &Vec<u8>, value: &Option<Value>) -> u64 {
        (key.len() + value.as_ref().map_or(0, Vec::len)) as u64 + OVERHEAD
    }
}

/// See the module.
pub(crate) struct ReadCache(Cache<Vec<u8>, Option<Value>, Bytes>);

impl ReadCache {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(EXPECTED, BYTES, Bytes))
    }

    /// What is at `key`, or that nothing is, if that is known here.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Value>> {
        self.0.get(key).cloned()
    }

    /// Remembers what was read.
    pub(crate) fn read(&mut self, key: &[u8], value: &Option<Value>) {
        self.0.insert(key.to_vec(), value.clone());
    }

    /// Remembers what was written, if it is likely to be read again.
    pub(crate) fn wrote(&mut self, key: Vec<u8>, value: Option<Value>) {
        if value.is_some() && !keys::written_once(&key) {
            self.0.insert(key, value);
        } else {
            self.0.remove(&key);
        }
    }

    /// Another state took the place of the one that was read.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
