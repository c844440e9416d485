//! The incremental state hash: the wrapping sum, over all pairs of the state,
//! of XXH3-128 of (key length u32 LE, key, value).
//!
//! A sum forgets the order in which pairs came, so that a replica that applied
//! commands and one that installed a snapshot arrive at the same value (PURE).

use crate::state::kv::{KvError, Transaction};
use xxhash_rust::xxh3::Xxh3;

/// The hash of an empty state.
pub(crate) const EMPTY: u128 = 0;

/// The summand of one pair.
pub(crate) fn of_pair(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.digest128()
}

/// `hash` after the writes of `tx`.
pub(crate) fn after(mut hash: u128, tx: &Transaction<'_>) -> Result<u128, KvError> {
    for (key, value) in tx.writes() {
        if let Some(base) = tx.base_value(key)? {
            hash = hash.wrapping_sub(of_pair(key, &base));
        }
        if let Some(value) = value {
            hash = hash.wrapping_add(of_pair(key, value));
        }
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::kv::MemoryKv;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_hash_after_any_writes_is_that_of_the_state(
            batches: Vec<Vec<(u8, Option<Vec<u8>>)>>
        ) {
            let mut kv = MemoryKv::default();
            let mut hash = EMPTY;
            for batch in batches {
                let mut tx = Transaction::new(&kv);
                for (key, value) in batch {
                    match value {
                        Some(value) => tx.put(vec![key], value),
                        None => tx.delete(vec![key]),
                    }
                }
                hash = after(hash, &tx).unwrap();
                let writes = tx.into_writes();
                kv.commit(writes);
            }
            let whole = kv.pairs.iter().fold(EMPTY, |h, (k, v)| h.wrapping_add(of_pair(k, v)));
            prop_assert_eq!(hash, whole);
        }
    }
}
