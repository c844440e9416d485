//! The incremental state hash: the wrapping sum, over all pairs of the state,
//! of XXH3-128 of (key length u32 LE, key, value).
//!
//! A sum forgets the order in which pairs came, so that a replica that applied
//! commands and one that installed a snapshot arrive at the same value (PURE).

use super::apply::Writes;
use crate::state::kv::{KvError, KvRead, Value};
use std::collections::BTreeMap;
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

/// `hash` after `writes` over `base`, and those of them that change anything.
pub(crate) fn after(
    mut hash: u128,
    base: &dyn KvRead,
    writes: BTreeMap<Vec<u8>, Option<Value>>,
) -> Result<(u128, Writes), KvError> {
    let keys: Vec<_> = writes.keys().map(Vec::as_slice).collect();
    let replaced = base.get_replaced(&keys)?;
    if replaced.len() != keys.len() {
        let (values, keys) = (replaced.len(), keys.len());
        return Err(KvError(format!("{values} values at {keys} keys")));
    }
    let mut changes = Vec::with_capacity(writes.len());
    for ((key, value), before) in writes.into_iter().zip(replaced) {
        if before == value {
            continue;
        }
        if let Some(before) = before {
            hash = hash.wrapping_sub(of_pair(&key, &before));
        }
        if let Some(value) = &value {
            hash = hash.wrapping_add(of_pair(&key, value));
        }
        changes.push((key, value));
    }
    Ok((hash, changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::kv::{MemoryKv, Transaction};
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
                let writes;
                (hash, writes) = after(hash, &kv, tx.into_writes()).unwrap();
                kv.commit(writes);
            }
            let whole = kv.pairs.iter().fold(EMPTY, |h, (k, v)| h.wrapping_add(of_pair(k, v)));
            prop_assert_eq!(hash, whole);
        }
    }
}
