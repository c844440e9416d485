//! The cluster's identity, its store and its time.

use super::command::GenerationKey;
use super::keys::{Key, tag};
use super::kv::{KvError, KvRead, Transaction};
use super::reply::{Effect, Refusal, Reply};
use super::{features, typed};
use bincode::{Decode, Encode};

/// Who this cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Cluster {
    /// Minted once.
    pub cluster: [u8; 16],
    /// Minted when created, restored or rebuilt.
    pub generation: GenerationKey,
    /// Where the data lies: what the first agent named.
    pub store_url: Option<String>,
    /// Encodings and commands this cluster may use: see
    /// [`features`](super::features).
    pub feature_level: u32,
}

pub(super) fn cluster_key() -> Vec<u8> {
    Key::new(tag::CLUSTER).done()
}

fn time_key() -> Vec<u8> {
    Key::new(tag::TIME).done()
}

/// The identity, once the cluster has one.
pub fn cluster(kv: &dyn KvRead) -> Result<Option<Cluster>, KvError> {
    typed::get(kv, &cluster_key())
}

/// Cluster time (CLOCK): the largest time any command carried.
pub fn time_ms(kv: &dyn KvRead) -> Result<u64, KvError> {
    Ok(typed::get(kv, &time_key())?.unwrap_or(0))
}

/// CLOCK: cluster time never goes back.
pub(super) fn advance(tx: &mut Transaction<'_>, proposed_ms: u64) -> Result<u64, KvError> {
    let now = time_ms(tx)?;
    if proposed_ms <= now {
        return Ok(now);
    }
    typed::put(tx, time_key(), &proposed_ms);
    Ok(proposed_ms)
}

/// Identity of a cluster that was restored.
pub(super) fn become_restored(tx: &mut Transaction<'_>, identity: &Cluster) {
    typed::put(tx, cluster_key(), identity);
}

pub(super) fn init(
    tx: &mut Transaction<'_>,
    id: [u8; 16],
    generation: GenerationKey,
) -> Result<(Reply, Vec<Effect>), KvError> {
    if cluster(tx)?.is_some() {
        return Ok((Reply::Done, Vec::new()));
    }
    let feature_level = features::OLDEST;
    let cluster = Cluster { cluster: id, generation, store_url: None, feature_level };
    typed::put(tx, cluster_key(), &cluster);
    Ok((Reply::Done, vec![Effect::Cluster]))
}

/// The first agent's store becomes the cluster's; later ones must name the
/// same.
pub(super) fn adopt_store(
    tx: &mut Transaction<'_>,
    url: &str,
) -> Result<Result<(), Refusal>, KvError> {
    let Some(mut cluster) = cluster(tx)? else {
        return Ok(Err(Refusal::Invalid("the cluster is not initialised".into())));
    };
    match &cluster.store_url {
        Some(expected) if expected != url => {
            Ok(Err(Refusal::StoreMismatch { expected: expected.clone() }))
        }
        Some(_) => Ok(Ok(())),
        None => {
            cluster.store_url = Some(url.to_owned());
            typed::put(tx, cluster_key(), &cluster);
            Ok(Ok(()))
        }
    }
}
