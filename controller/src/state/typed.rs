//! Typed access to the key-value transaction.

use super::kv::{KvError, KvRead, Transaction};
use crate::codec;
use bincode::{Decode, Encode};

/// Reads and decodes; a value that does not decode is a damaged store.
pub(super) fn get<T: Decode<()>>(kv: &dyn KvRead, key: &[u8]) -> Result<Option<T>, KvError> {
    match kv.get(key)? {
        Some(bytes) => decode(key, &bytes).map(Some),
        None => Ok(None),
    }
}

/// Encodes and writes.
pub(super) fn put<T: Encode>(tx: &mut Transaction<'_>, key: Vec<u8>, value: &T) {
    tx.put(key, codec::encode(value));
}

/// Writes a key that says all by itself.
pub(super) fn mark(tx: &mut Transaction<'_>, key: Vec<u8>) {
    tx.put(key, Vec::new());
}

/// Decodes the value read at `key`.
pub(super) fn decode<T: Decode<()>>(key: &[u8], bytes: &[u8]) -> Result<T, KvError> {
    codec::decode(bytes).map_err(|e| KvError(format!("value at key {key:02x?}: {e}")))
}

/// A key that does not have the shape its tag promises.
pub(super) fn malformed(key: &[u8]) -> KvError {
    KvError(format!("malformed key {key:02x?}"))
}
