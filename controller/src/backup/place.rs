//! Where backups lie, and what they are called.
//!
//! ```text
//! <cluster>/backups/<generation>-<index>.backup      in the cluster's own store
//! <folder>/<generation>-<index>.backup               in a folder that was named
//! ```
//!
//! See [`BackupName`]. A generation has one state at an index, so two that write
//! one name write the same bytes.

use super::BackupError;
use super::file::Header;
use crate::state::command::GenerationKey;
use streamhouse_segment::{BackupName, ClusterId, Generation};
use streamhouse_store::{GetError, Store, StoreOptions};

/// Backups listed at once.
const PAGE: usize = 1_000;

/// The generation, as keys are made of it.
pub(crate) fn generation(key: GenerationKey) -> Generation {
    Generation { counter: key.counter, random: key.random }
}

/// What a backup is called.
fn name(header: &Header) -> String {
    let generation = generation(header.generation);
    BackupName { generation, index: header.index }.to_string()
}

/// Generation and index of the backup of that name.
fn parse(name: &str) -> Option<(Generation, u64)> {
    let name: BackupName = name.parse().ok()?;
    Some((name.generation, name.index))
}

/// The folder of a cluster's backups in its own store.
pub(crate) fn folder(cluster: [u8; 16]) -> String {
    format!("{}/backups", ClusterId::from_bytes(cluster))
}

/// One backup, there or to be written.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) store: Store,
    pub(crate) key: String,
    /// Chosen by the operator, and not made of what is in the backup.
    pub(crate) named: bool,
}

impl Place {
    pub(crate) fn url(&self) -> String {
        format!("{}/{}", self.store.url(), self.key)
    }

    /// Where a backup goes that was asked for as `to`: a whole name or a
    /// folder; by default the cluster's own store.
    pub(crate) fn for_writing(header: &Header, to: Option<&str>) -> Result<Self, BackupError> {
        let Some(to) = to else {
            let Some(url) = &header.store_url else {
                let what = "the cluster has no store yet, because no agent has registered: say \
                            where the backup goes with --to";
                return Err(BackupError::Place(what.into()));
            };
            return Ok(Self::own(Store::open(url)?, header));
        };
        let place = match split(to) {
            Some((parent, key)) => Self { store: Store::open(parent)?, key, named: true },
            None => Self { store: Store::open(to)?, key: name(header), named: false },
        };
        Ok(place)
    }

    /// The default place, in the cluster's own store.
    pub(crate) fn own(store: Store, header: &Header) -> Self {
        let key = format!("{}/{}", folder(header.cluster), name(header));
        Self { store, key, named: false }
    }

    /// The backup that `from` names, or the newest in the folder of that name.
    pub(crate) async fn for_reading(from: &str) -> Result<Self, BackupError> {
        let open = |url: &str| StoreOptions::new().reader().open(url);
        if let Some((parent, key)) = split(from) {
            return Ok(Self { store: open(parent)?, key, named: true });
        }
        let store = open(from)?;
        let found = Found::below(&store, "").await?;
        let Some(newest) = found.last() else {
            return Err(BackupError::Place(format!("there is no backup in {from}")));
        };
        let twin = |other: &&Found| {
            other.generation.counter == newest.generation.counter
                && other.generation != newest.generation
        };
        if let Some(other) = found.iter().find(twin) {
            return Err(BackupError::Place(format!(
                "{from} holds backups of two clusters, or of one that was restored twice: name one, \
                 as {} or {}",
                newest.key, other.key
            )));
        }
        let key = newest.key.clone();
        Ok(Self { store, key, named: false })
    }
}

/// `url` as a folder and a backup's whole name.
fn split(url: &str) -> Option<(&str, String)> {
    let (parent, name) = url.rsplit_once('/')?;
    name.ends_with(BackupName::SUFFIX).then(|| (parent, name.to_owned()))
}

/// A backup that lies in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) generation: Generation,
    pub(crate) index: u64,
    pub(crate) key: String,
}

impl Found {
    /// The backups right in a folder, oldest first.
    pub(crate) async fn below(store: &Store, folder: &str) -> Result<Vec<Self>, GetError> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = store.list(folder, after.as_deref(), PAGE).await?;
            for listed in &page {
                let below = listed.key.strip_prefix(folder).unwrap_or(&listed.key);
                if let Some((generation, index)) = parse(below.trim_start_matches('/')) {
                    found.push(Self { generation, index, key: listed.key.clone() });
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
                _ => break,
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_sorts_by_generation_and_index() {
        let header = |counter, index| Header {
            cluster: [1; 16],
            generation: GenerationKey { counter, random: 7 },
            index,
            time_ms: 0,
            sessions_upto: index,
            store_url: None,
            feature_level: 1,
        };
        let generation = Generation { counter: 1, random: 7 };
        assert_eq!(parse(&name(&header(1, 12))), Some((generation, 12)));
        assert!(name(&header(1, 9)) < name(&header(1, 10)));
        assert!(name(&header(1, 10)) < name(&header(2, 3)));
        for other in ["x.backup", "00000001-0000000000000007-12.backup", "a/b.backup", ".backup"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
