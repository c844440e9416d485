//! The one RocksDB of a controller: `data/db`, with the column families
//!
//! - `log`: index u64 BE → [`super::entry`]
//! - `raft`: the few keys of [`super::meta`]
//! - `state`: the state machine's pairs, nothing else
//!
//! They share one write-ahead log, so a synced write of any of them makes all
//! earlier writes durable, in order.

use super::manifest::{self, ManifestNote};
use super::meta::{self, Identity};
use super::types::DiskId;
use super::{snapshot_store, synced};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Options,
    WriteBatch,
};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Whose directory it is, beside the database.
const IDENTITY_FILE: &str = "identity";
pub(super) const DATABASE: &str = "db";

/// What a repair has still to do; nobody else may use the directory meanwhile.
pub const REPAIR_PLAN: &str = "repair-plan";
/// What [`REPAIR_PLAN`] becomes: the directory is repaired, and its controller was not started since.
pub const REPAIR_DONE: &str = "repair-done";

/// Everything in a data directory that speaks of one disk, and goes with it.
pub const FILES: [&str; 5] =
    [DATABASE, snapshot_store::FOLDER, synced::NAME, manifest::NAME, IDENTITY_FILE];

const LOG: &str = "log";
const RAFT: &str = "raft";
const STATE: &str = "state";

const BLOCK_CACHE_BYTES: usize = 128 << 20;
const WRITE_BUFFER_BYTES: usize = 16 << 20;
/// [`PLACED_BY_PARTITION`] takes some of it: 700 bytes of a partition that is written to.
const STATE_BUFFER_BYTES: usize = 32 << 20;
const WAL_BYTES: u64 = 256 << 20;
const BYTES_PER_SYNC: u64 = 1 << 20;
/// A key goes beside the last one that began with the same 21 bytes, which in the keys that commits write are the tag and
/// the partition: without a search from the top, half of what a commit costs was that. RocksDB's C interface has the
/// option in no other form.
const PLACED_BY_PARTITION: &str =
    "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.21";

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("data directory {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It was written by another node.
    #[error("data directory {} belongs to node {found}, not to node {expected}", path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who wanted it.
        expected: u64,
    },
    /// What is in it is not what was written; the node can only rejoin with
    /// an empty directory.
    #[error(
        "data directory {0} is damaged: {what}. Let it rejoin as a learner: \
         streamhouse controller repair --controllers ADDR,... --rejoin-as-learner --data {0}",
        path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It could not be created or read.
    #[error("data directory {}: {what}", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        what: String,
    },
}

/// A value that could not be read from the database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The disk, or the system, did not give it.
    #[error("{0}")]
    Failed(String),
}

impl From<rocksdb::Error> for ReadError {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::Damaged(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl ReadError {
    /// Of the data directory at `path`.
    pub(crate) fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Damaged(what) => OpenError::Damaged { path, what },
            Self::Failed(what) => OpenError::Unreadable { path, what },
        }
    }
}

/// The database; see the module.
pub(crate) struct Db {
    db: DB,
    manifest: ManifestNote,
}

impl Db {
    /// Opens the database of `node` under `data`, or creates it; returns whose
    /// it is, too. `node` 0 opens anybody's, and creates nobody's.
    pub(crate) fn open(data: &Path, node: u64) -> Result<(Self, Identity), OpenError> {
        let unreadable = |what: String| OpenError::Unreadable { path: data.to_owned(), what };
        std::fs::create_dir_all(data).map_err(|e| unreadable(e.to_string()))?;
        if data.join(REPAIR_PLAN).exists() {
            let what =
                "a repair of it was interrupted: run it again, streamhouse controller repair";
            return Err(unreadable(what.into()));
        }
        let damaged = |what: String| OpenError::Damaged { path: data.to_owned(), what };
        let manifest = ManifestNote::check(data).map_err(|error| error.at(data))?;
        let db = DB::open_cf_descriptors(&options(), data.join(DATABASE), families())
            .map_err(|e| open_error(data, &e))?;
        let db = Self { db, manifest };
        db.note_manifest().map_err(|e| unreadable(format!("{}: {e}", manifest::NAME)))?;
        let identity = db.get_raft(meta::IDENTITY).map_err(|error| error.at(data))?;
        let identity = match identity {
            Some(bytes) => {
                let identity: Identity =
                    crate::codec::decode_serde(&bytes).map_err(|e| damaged(e.to_string()))?;
                if node != 0 && !identity.answers_to(node) {
                    return Err(OpenError::OtherNode {
                        path: data.to_owned(),
                        found: identity.node,
                        expected: node,
                    });
                }
                identity
            }
            None if remembered(data).is_some() => {
                return Err(damaged("the database does not say any more whose it is".into()));
            }
            None => {
                let identity = Identity { node, disk: random_id(), alias: 0 };
                db.identify(data, &identity).map_err(unreadable)?;
                identity
            }
        };
        if remembered(data).as_ref() != Some(&identity) {
            remember(data, &identity).map_err(|e| unreadable(e.to_string()))?;
        }
        Ok((db, identity))
    }

    /// Writes whose directory this is: into the database, which counts, and
    /// beside it, for when the database cannot be read.
    fn identify(&self, data: &Path, identity: &Identity) -> Result<(), String> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.raft(), meta::IDENTITY, crate::codec::encode_serde(identity));
        self.write_synced(batch)?;
        remember(data, identity).map_err(|e| format!("{IDENTITY_FILE}: {e}"))
    }

    pub(crate) fn log(&self) -> &ColumnFamily {
        self.db.cf_handle(LOG).expect("opened with this column family")
    }

    pub(crate) fn raft(&self) -> &ColumnFamily {
        self.db.cf_handle(RAFT).expect("opened with this column family")
    }

    pub(crate) fn state(&self) -> &ColumnFamily {
        self.db.cf_handle(STATE).expect("opened with this column family")
    }

    /// The database itself, for iterators and snapshots.
    pub(crate) fn rocks(&self) -> &DB {
        &self.db
    }

    /// A value of the `raft` column family.
    pub(crate) fn get_raft(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.db.get_cf(self.raft(), key)?)
    }

    /// Writes `batch` and returns once it and all earlier writes are durable.
    ///
    /// SUBTLE: not by a write that has a sync in itself: RocksDB lets nobody
    /// else write before that has ended, and whoever applies would wait for
    /// the log's disk.
    pub(crate) fn write_synced(&self, batch: WriteBatch) -> Result<(), String> {
        self.write_unsynced(batch)?;
        self.sync()
    }

    /// All earlier writes are durable when it returns.
    pub(crate) fn sync(&self) -> Result<(), String> {
        self.db.flush_wal(true).map_err(|e| e.to_string())
    }

    /// Notes how long RocksDB's record of its tables is, if it has grown.
    pub(crate) fn note_manifest(&self) -> std::io::Result<()> {
        self.manifest.note()
    }

    /// Writes `batch`; it becomes durable with the next synced write.
    pub(crate) fn write_unsynced(&self, batch: WriteBatch) -> Result<(), String> {
        self.db.write(batch).map_err(|e| e.to_string())
    }

    /// The size of the applied state, as RocksDB estimates it: tables and what
    /// is still in memory.
    pub(crate) fn state_bytes(&self) -> u64 {
        let parts = ["rocksdb.estimate-live-data-size", "rocksdb.cur-size-all-mem-tables"];
        let size = |part| self.db.property_int_value_cf(self.state(), part);
        parts.into_iter().filter_map(|part| size(part).ok().flatten()).sum()
    }

    /// Makes every earlier write durable and ends RocksDB's own work, so that
    /// the process may end although a handle is left. Reads go on.
    pub(crate) fn quiesce(&self) -> Result<(), String> {
        let synced = self.sync();
        self.db.cancel_all_background_work(true);
        synced
    }
}

/// Whose directory this is: the number, if it has one yet, the number it is
/// started with, and the disk. Makes an unnumbered one of an empty directory.
pub fn owner(data: &Path) -> Result<(Option<u64>, DiskId), OpenError> {
    let (_, identity) = Db::open(data, 0)?;
    Ok(((identity.node != 0).then_some(identity.node), identity.disk))
}

/// Gives a directory that has no number yet its number for good; `alias` is
/// the number with which it is started, if another, or 0.
pub fn assign(data: &Path, node: u64, alias: u64) -> Result<(), OpenError> {
    let (db, mut identity) = Db::open(data, 0)?;
    if identity.node != 0 && identity.node != node {
        let (path, found) = (data.to_owned(), identity.node);
        return Err(OpenError::OtherNode { path, found, expected: node });
    }
    (identity.node, identity.alias) = (node, alias);
    let unreadable = |what| OpenError::Unreadable { path: data.to_owned(), what };
    db.identify(data, &identity).map_err(unreadable)
}

/// What the file beside the database says of whose directory this is: the
/// number under which it is started, and its own. For when the database
/// cannot be read; never to start from.
pub fn last_known(data: &Path) -> Option<(u64, u64)> {
    let identity = remembered(data).filter(|identity| identity.node != 0)?;
    let known_as = if identity.alias != 0 { identity.alias } else { identity.node };
    Some((known_as, identity.node))
}

fn remember(data: &Path, identity: &Identity) -> std::io::Result<()> {
    let mut bytes = crate::codec::encode_serde(identity);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    let (staged, path) = (data.join("identity.new"), data.join(IDENTITY_FILE));
    let mut file = File::create(&staged)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&staged, &path)?;
    File::open(data)?.sync_all()
}

fn remembered(data: &Path) -> Option<Identity> {
    let bytes = std::fs::read(data.join(IDENTITY_FILE)).ok()?;
    let (identity, checksum) = bytes.split_last_chunk::<4>()?;
    let holds = crc32c::crc32c(identity) == u32::from_le_bytes(*checksum);
    holds.then(|| crate::codec::decode_serde(identity).ok()).flatten()
}

/// The number under which a directory is started: its alias, or its own.
pub fn known_as(data: &Path) -> Result<Option<u64>, OpenError> {
    let (_, identity) = Db::open(data, 0)?;
    let number = if identity.alias != 0 { identity.alias } else { identity.node };
    Ok((number != 0).then_some(number))
}

/// The directory's controller is started: that it was repaired before, and waited for that, is over.
pub(crate) fn begin_use(data: &Path) -> io::Result<()> {
    match fs::remove_file(data.join(REPAIR_DONE)) {
        Ok(()) => File::open(data)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A disk's id is not part of the state (PURE).
#[expect(clippy::disallowed_methods, reason = "the only random value of the raft folder")]
fn random_id() -> DiskId {
    uuid::Uuid::new_v4().into_bytes()
}

fn open_error(data: &Path, error: &rocksdb::Error) -> OpenError {
    let (path, what) = (data.to_owned(), error.to_string());
    match error.kind() {
        rocksdb::ErrorKind::IOError if what.contains("lock") && what.contains("LOCK") => {
            OpenError::InUse(path)
        }
        rocksdb::ErrorKind::Corruption => OpenError::Damaged { path, what },
        _ => OpenError::Unreadable { path, what },
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A power cut may leave anything behind the last sync, sound records
    // behind torn ones included. Damage before the last sync, which this mode
    // passes over, is found by comparing with `synced`.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    // A write goes to the system with the next sync, before that returns, and
    // not by a call of its own. The state's are not synced by themselves: what
    // a crash takes of them is applied again.
    options.set_manual_wal_flush(true);
    options.set_max_total_wal_size(WAL_BYTES);
    // A table goes to the disk as it is written, so that no sync of the log
    // has to wait for a whole one.
    options.set_bytes_per_sync(BYTES_PER_SYNC);
    options.set_keep_log_file_num(4);
    options.set_max_open_files(512);
    options
}

fn families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    let families = ["default", LOG, RAFT, STATE];
    let family = |name: &str| {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_format_version(5);
        if name == STATE {
            table.set_bloom_filter(10.0, false);
        }
        let mut options = match name {
            STATE => Options::default().get_options_from_string(PLACED_BY_PARTITION),
            _ => Ok(Options::default()),
        }
        .expect("an option of RocksDB");
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        if name == STATE {
            // Most of what apply writes is new; this tells without a search.
            options.set_memtable_whole_key_filtering(true);
            options.set_write_buffer_size(STATE_BUFFER_BYTES);
            options.set_memtable_prefix_bloom_ratio(0.1);
        }
        ColumnFamilyDescriptor::new(name, options)
    };
    families.into_iter().map(family).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_and_another_node_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (db, identity) = Db::open(dir.path(), 1).unwrap();
        // The lock is per process, so a second open here stands for another.
        assert!(matches!(Db::open(dir.path(), 1), Err(OpenError::InUse(_))));
        drop(db);

        let other = Db::open(dir.path(), 2).map(|_| ());
        assert!(matches!(other, Err(OpenError::OtherNode { found: 1, expected: 2, .. })));

        // Reopened by its owner, the disk is the one it was.
        assert_eq!(Db::open(dir.path(), 1).unwrap().1.disk, identity.disk);
    }

    #[test]
    fn a_number_is_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let (none, disk) = owner(dir.path()).unwrap();
        assert_eq!(none, None);
        assign(dir.path(), 4, 2).unwrap();
        assign(dir.path(), 4, 2).unwrap();
        assert!(matches!(assign(dir.path(), 5, 0), Err(OpenError::OtherNode { found: 4, .. })));
        assert_eq!(owner(dir.path()).unwrap(), (Some(4), disk));
        assert_eq!(last_known(dir.path()), Some((2, 4)));
        // It is started under its own number, or the one it replaces.
        assert_eq!(known_as(dir.path()).unwrap(), Some(2));
        assert_eq!(Db::open(dir.path(), 2).unwrap().1.node, 4);
        assert_eq!(Db::open(dir.path(), 4).unwrap().1.node, 4);
        assert!(Db::open(dir.path(), 3).is_err());
    }
}
