//! Feature levels: which encodings and commands the cluster may use.
//!
//! | level | adds |
//! |---|---|
//! | 1 | the first encodings |
//! | 2 | whatever [`CommandBody::min_level`] says needs it: raising the level itself, idempotent producers, group membership |
//!
//! The level is part of the state and only ever rises, by
//! `RaiseFeatureLevel`. The leader proposes that once every member, learners
//! included, says that it reads the new level; a command or a value of a
//! level is written only after that. So a controller of the release before
//! can always read what is in the log and in a snapshot, and one that could
//! not is kept out.
//!
//! PURE: `apply` compares levels with what is in the state, never with what
//! this release reads.

use super::cluster::{self, Cluster};
use super::kv::{KvError, KvRead, Transaction};
use super::reply::{Effect, Reply};
use super::typed;
use crate::codec::{self, CodecError};

#[cfg(doc)]
use super::command::CommandBody;

/// The level of a new cluster, and of one that says nothing of levels.
pub const OLDEST: u32 = 1;
/// The highest level that this release reads.
pub const NEWEST: u32 = 2;

/// The level in the state; `None` while the cluster has no identity.
pub fn level(kv: &dyn KvRead) -> Result<Option<u32>, KvError> {
    let key = cluster::cluster_key();
    let Some(value) = kv.get(&key)? else { return Ok(None) };
    let stated = stated(&key, &value).transpose();
    stated.map_err(|e| KvError(format!("value at key {key:02x?}: {e}")))
}

/// The level that this pair of the state states, if it is the one that does:
/// the first of all pairs. Read without what newer releases may have added.
pub fn stated(key: &[u8], value: &[u8]) -> Option<Result<u32, CodecError>> {
    let stated = || codec::decode_beginning::<Cluster>(value).map(|known| known.feature_level);
    (key == cluster::cluster_key()).then(stated)
}

/// Allows what `level` adds. RETRY: a level that was reached stays.
pub(super) fn raise(tx: &mut Transaction<'_>, level: u32) -> Result<(Reply, Vec<Effect>), KvError> {
    match cluster::cluster(tx)? {
        Some(known) if known.feature_level < level => {
            let raised = Cluster { feature_level: level, ..known };
            typed::put(tx, cluster::cluster_key(), &raised);
            Ok((Reply::Done, vec![Effect::Cluster]))
        }
        _ => Ok((Reply::Done, Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::GenerationKey;
    use super::super::kv::MemoryKv;
    use super::*;

    fn raised(kv: &mut MemoryKv, to: u32) -> Option<u32> {
        let mut tx = Transaction::new(kv);
        assert_eq!(raise(&mut tx, to).unwrap().0, Reply::Done);
        let writes = tx.into_writes();
        kv.commit(writes);
        level(kv).unwrap()
    }

    #[test]
    fn a_level_only_rises_and_only_in_a_cluster() {
        let mut kv = MemoryKv::default();
        assert_eq!(raised(&mut kv, 2), None);
        let mut tx = Transaction::new(&kv);
        let generation = GenerationKey { counter: 1, random: 1 };
        cluster::init(&mut tx, [1; 16], generation).unwrap();
        let writes = tx.into_writes();
        kv.commit(writes);
        // A new cluster may hold controllers of any release.
        assert_eq!(level(&kv).unwrap(), Some(OLDEST));
        assert_eq!(raised(&mut kv, 7), Some(7));
        assert_eq!(raised(&mut kv, 2), Some(7));
    }

    /// A release that is too old for a cluster must be able to say so.
    #[test]
    fn the_level_is_read_from_the_record_of_a_newer_release() {
        let known = Cluster {
            cluster: [1; 16],
            generation: GenerationKey { counter: 1, random: 1 },
            store_url: Some("s3://b".into()),
            feature_level: 9,
        };
        let mut bytes = codec::encode(&known);
        bytes.extend(b"a field that came later");
        let key = cluster::cluster_key();
        assert_eq!(stated(&key, &bytes).unwrap().unwrap(), 9);
        assert!(stated(&[0x02], &bytes).is_none());
    }
}
