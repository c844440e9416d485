//! Whatever byte of a data directory flips, and wherever a file of it is cut
//! off: what is read then is what was written, or an error. Never other
//! entries, another vote or another state, and never a log that silently ends
//! earlier than it was synced.
//!
//! What counts as detected is only what a starting controller, or one that
//! reads, runs into: nothing here adds up what they do not.

use super::db::Db;
use super::fatal::{FatalReason, set_fatal_hook};
use super::hash;
use super::log_store::LogStore;
use super::meta::{self, AppliedMeta};
use super::snapshot_store::SnapshotStore;
use super::state_store::StateStore;
use super::types::{EncodedCommand, Entry, LogId, Payload, Vote};
use crate::codec;
use crate::state::command::{Command, CommandBody};
use crate::state::features;
use crate::state::kv::KvRead;
use metrics::Histogram;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use rocksdb::LiveFile;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ENTRIES: u64 = 60;
/// Places in each file where it is damaged.
const PLACES: usize = 24;

pub(super) fn entry(index: u64) -> Entry {
    let mut topic = [7; 16];
    topic[..8].copy_from_slice(&index.to_be_bytes());
    let name = format!("topic-{index}");
    let body = CommandBody::CreateTopic { topic, name, partitions: 2, config: Vec::new() };
    let command = codec::encode(&Command { time_ms: 1 + index, request: None, body });
    let payload = Payload::Normal(EncodedCommand(command.into()));
    Entry { log_id: LogId::new_term_index(3, index), payload }
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The state, and what it is the state of.
#[derive(Debug, Clone, PartialEq)]
struct State {
    applied: AppliedMeta,
    pairs: Pairs,
}

impl State {
    fn of(db: &Db, store: &StateStore) -> Result<Self, String> {
        let applied = AppliedMeta::load(db).map_err(|e| e.to_string())?;
        let view = store.view().map_err(|e| e.to_string())?;
        let (mut pairs, mut iterator) = (Pairs::new(), view.iterate());
        while let Some((key, value)) = iterator.item() {
            pairs.insert(key.to_vec(), value.to_vec());
            iterator.next();
        }
        iterator.status().map_err(|e| e.to_string())?;
        Ok(Self { applied, pairs })
    }

    fn adds_up(&self) -> bool {
        let add = |sum: u128, (key, value): (&Vec<u8>, &Vec<u8>)| {
            sum.wrapping_add(hash::of_pair(key, value))
        };
        self.pairs.iter().fold(hash::EMPTY, add) == self.applied.state_hash
    }
}

/// What a directory holds.
struct Contents {
    vote: Option<Vote>,
    entries: Vec<Entry>,
    snapshot: Option<LogId>,
    state: State,
    /// The pairs that were asked for, as single reads find them.
    got: Pairs,
}

/// What was written to one.
struct Written {
    vote: Vote,
    entries: Vec<Entry>,
    snapshot: Option<LogId>,
    /// By the last applied index: the state is not synced, and what a crash
    /// takes of it is applied again from the log.
    states: BTreeMap<u64, State>,
}

impl Written {
    fn last(&self) -> &State {
        self.states.last_key_value().expect("one at least").1
    }

    /// What of `found` is something else.
    fn differences(&self, found: &Contents) -> Vec<&'static str> {
        let state = self.states.get(&found.state.applied.index());
        let pairs = state.map(|state| &state.pairs);
        let is_got = |pairs: &Pairs| {
            let mut keys = self.last().pairs.keys();
            keys.all(|key| found.got.get(key) == pairs.get(key))
        };
        [
            (found.vote == Some(self.vote), "vote"),
            (found.entries == self.entries, "entries"),
            (found.snapshot == self.snapshot, "snapshot"),
            (state.map(|state| &state.applied) == Some(&found.state.applied), "applied"),
            (pairs == Some(&found.state.pairs), "pairs of the state"),
            (pairs.is_some_and(is_got), "pairs of the state, read singly"),
        ]
        .into_iter()
        .filter_map(|(holds, what)| (!holds).then_some(what))
        .collect()
    }
}

/// Everything, read as a starting controller and its readers would; of the
/// state all, and `asked` singly.
async fn read(dir: &Path, asked: &Pairs) -> Result<Contents, String> {
    let db = Arc::new(Db::open(dir, 1).map_err(|e| e.to_string())?.0);
    let snapshots = SnapshotStore::open(dir).map_err(|e| e.to_string())?;
    let state = StateStore::open(db.clone(), snapshots.clone(), features::NEWEST)
        .map_err(|e| e.to_string())?;
    state.feature_level().map_err(|e| e.to_string())?;
    db.get_raft(meta::MEMBER).map_err(|e| e.to_string())?;
    let mut log =
        LogStore::open(dir, db.clone(), Histogram::noop()).map_err(|e| format!("{e:?}"))?;
    let vote = log.read_vote().await.map_err(|e| e.to_string())?;
    let entries = log.try_get_log_entries(..).await.map_err(|e| e.to_string());
    log.writer().stop().await;
    let snapshot = snapshots.current().map_err(|e| e.to_string())?;
    let snapshot = snapshot.and_then(|snapshot| snapshot.meta.last_log_id);
    let view = state.view().map_err(|e| e.to_string())?;
    let mut got = Pairs::new();
    for key in asked.keys() {
        let value = view.get(key).map_err(|e| e.to_string())?;
        got.extend(value.map(|value| (key.clone(), value)));
    }
    let state = State::of(&db, &state)?;
    Ok(Contents { vote, entries: entries?, snapshot, state, got })
}

/// A directory with tables, a log of RocksDB's behind them, and a snapshot.
async fn write(dir: &Path) -> Written {
    let db = Arc::new(Db::open(dir, 1).unwrap().0);
    let snapshots = SnapshotStore::open(dir).unwrap();
    let state = StateStore::open(db.clone(), snapshots, features::NEWEST).unwrap();
    let mut log = LogStore::open(dir, db.clone(), Histogram::noop()).unwrap();
    let mut applied = AppliedMeta::load(&db).unwrap();
    let vote = Vote::new_committed(3, 1);
    log.save_vote(&vote).await.unwrap();
    let mut states = BTreeMap::from([(0, State::of(&db, &state).unwrap())]);
    for (part, upto) in [(0, ENTRIES / 2), (ENTRIES / 2, ENTRIES)] {
        let entries: Vec<Entry> = (part..upto).map(entry).collect();
        log.blocking_append(entries.clone()).await.unwrap();
        state.apply(&mut applied, &entries);
        states.insert(applied.index(), State::of(&db, &state).unwrap());
        if part == 0 {
            for family in [db.log(), db.raft(), db.state()] {
                db.rocks().flush_cf(family).unwrap();
            }
            state.snapshots().build(&state.view().unwrap()).unwrap();
        }
    }
    log.writer().stop().await;
    db.quiesce().unwrap();
    let snapshot = Some(LogId::new_term_index(3, ENTRIES / 2 - 1));
    Written { vote, entries: (0..ENTRIES).map(entry).collect(), snapshot, states }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.into_iter().chain(folders.iter().flat_map(|folder| files_of(folder))).collect()
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

/// Where the records of a log of RocksDB's end (see its file
/// `db/log_format.h`): its own of tables, and the one of what is written.
fn ends_of_records(bytes: &[u8]) -> Vec<usize> {
    const BLOCK: usize = 32 << 10;
    const HEADER: usize = 7;
    let (mut ends, mut at) = (Vec::new(), 0);
    while at + HEADER <= bytes.len() {
        let left = BLOCK - at % BLOCK;
        if left < HEADER {
            at += left;
            continue;
        }
        let length = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
        at += HEADER + length;
        ends.push(at);
    }
    ends.retain(|end| *end < bytes.len());
    ends
}

/// Where a file is damaged.
fn places(name: &Path, bytes: &[u8], most: usize) -> Vec<usize> {
    let count = bytes.len().min(most);
    let mut places: Vec<usize> = (0..count).map(|place| bytes.len() * place / count).collect();
    let named = name.file_name().unwrap().to_string_lossy();
    if named.starts_with("MANIFEST") || named.ends_with(".log") {
        places.extend(ends_of_records(bytes));
    }
    places
}

/// Damages each file of the directory `original` at up to `most` places, and
/// in RocksDB's own logs at each end of a record, in both ways, and reads what
/// is left; how often that was an error, and how often what was written.
async fn damage(original: &Path, written: &Written, most: usize) -> (usize, usize) {
    // RocksDB may come upon it by itself, as it merges tables, and write
    // nothing more: then the process ends, and here the log's thread.
    set_fatal_hook(|_| ());
    let reference = tempfile::tempdir().unwrap();
    copy(original, reference.path());
    let asked = &written.last().pairs;
    let found = read(reference.path(), asked).await.unwrap();
    assert_eq!(written.differences(&found), Vec::<&str>::new());
    assert_eq!(&found.state, written.last());
    assert!(found.state.adds_up());

    let (mut detected, mut harmless, mut served) = (0, 0, Vec::new());
    for file in files(original) {
        let name = file.strip_prefix(original).unwrap().to_owned();
        // RocksDB's own notes for people, and its lock.
        let base = name.file_name().unwrap().to_string_lossy().into_owned();
        if base == "LOCK" || base == "LOG" || base.starts_with("LOG.old") {
            continue;
        }
        let good = fs::read(&file).unwrap();
        let before = (detected, harmless, served.len());
        for (number, at) in places(&name, &good, most).into_iter().enumerate() {
            for cut in [false, true] {
                let damaged = tempfile::tempdir().unwrap();
                copy(original, damaged.path());
                let mut bytes = good.clone();
                match cut {
                    true => bytes.truncate(at),
                    false => bytes[at] ^= 1 << (number % 8),
                }
                fs::write(damaged.path().join(&name), bytes).unwrap();
                let Ok(found) = read(damaged.path(), asked).await else {
                    detected += 1;
                    continue;
                };
                let differences = written.differences(&found);
                if differences.is_empty() {
                    harmless += 1;
                    continue;
                }
                let (index, sound) = (found.state.applied.index(), found.state.adds_up());
                let what = differences.join(", ");
                served.push(format!(
                    "{} at {at} of {}, cut: {cut}: {what}; applied {index}, adds up: {sound}",
                    name.display(),
                    good.len(),
                ));
            }
        }
        println!(
            "{}, {} bytes: {} detected, {} did no harm, {} served",
            name.display(),
            good.len(),
            detected - before.0,
            harmless - before.1,
            served.len() - before.2,
        );
    }
    println!("{detected} damages detected, {harmless} did no harm");
    assert!(served.is_empty(), "{} were served:\n{}", served.len(), served.join("\n"));
    (detected, harmless)
}

/// A database that merged its tables, met damage in one, and takes no writes
/// from then on. Nobody had asked for what is in there.
pub(super) fn met_damage(dir: &Path) -> Arc<Db> {
    let db = Db::open(dir, 1).unwrap().0;
    for round in 0..2 {
        for key in 0..100u64 {
            let value = [round; 100];
            db.rocks().put_cf(db.state(), key.to_be_bytes(), value).unwrap();
        }
        db.rocks().flush_cf(db.state()).unwrap();
    }
    let tables = db.rocks().live_files().unwrap();
    let of_state = |table: &&LiveFile| table.column_family_name == "state";
    let table = tables.iter().find(of_state).unwrap();
    let path = dir.join("db").join(table.name.trim_start_matches('/'));
    drop(db);
    let mut bytes = fs::read(&path).unwrap();
    // In its first block.
    bytes[200] ^= 1;
    fs::write(&path, bytes).unwrap();
    let db = Db::open(dir, 1).unwrap().0;
    db.rocks().compact_range_cf(db.state(), None::<&[u8]>, None::<&[u8]>);
    Arc::new(db)
}

/// `act` ends the process, with the reason and the way out of damage.
pub(super) fn ends_as_damaged(dir: &Path, act: impl FnOnce()) {
    set_fatal_hook(|_| ());
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_err();
    let said = ended.downcast_ref::<String>().unwrap();
    let (reason, dir) = (FatalReason::DiskDamaged, dir.display());
    let begins = format!("fatal: {}: data directory {dir} is damaged: Corruption", reason.name());
    let ends = format!("controller repair --controllers ADDR,... --rejoin-as-learner --data {dir}");
    assert!(said.starts_with(&begins) && said.ends_with(&ends), "{said}");
    assert_eq!(reason.exit_code(), 5, "as at start");
}

#[tokio::test]
async fn any_damage_to_any_file_is_detected_or_does_no_harm() {
    let original = tempfile::tempdir().unwrap();
    let written = write(original.path()).await;
    let (detected, harmless) = damage(original.path(), &written, PLACES).await;
    assert!(detected > harmless);
}

/// A start leaves other files than those that were written: what was in
/// RocksDB's log is in tables, and its record of them is a new one.
#[tokio::test]
async fn so_is_damage_to_what_a_restart_leaves() {
    let original = tempfile::tempdir().unwrap();
    let written = write(original.path()).await;
    read(original.path(), &Pairs::new()).await.unwrap();
    let (detected, _) = damage(original.path(), &written, PLACES / 4).await;
    assert!(detected > 0);
}
