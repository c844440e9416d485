//! Whatever byte of a data directory flips, and wherever a file of it is cut
//! off: what is read then is what was written, or an error. Never other
//! entries, another vote or another state, and never a log that silently ends
//! earlier than it was synced.

use super::db::Db;
use super::hash;
use super::log_store::LogStore;
use super::meta::AppliedMeta;
use super::snapshot_store::SnapshotStore;
use super::state_store::StateStore;
use super::types::{EncodedCommand, Entry, LogId, Payload, Vote};
use crate::codec;
use crate::state::command::{Command, CommandBody};
use crate::state::features;
use metrics::Histogram;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ENTRIES: u64 = 60;
/// Places in each file where it is damaged, in both ways.
const PLACES: u64 = 24;

fn entry(index: u64) -> Entry {
    let mut topic = [7; 16];
    topic[..8].copy_from_slice(&index.to_be_bytes());
    let name = format!("topic-{index}");
    let body = CommandBody::CreateTopic { topic, name, partitions: 2, config: Vec::new() };
    let command = codec::encode(&Command { time_ms: 1 + index, request: None, body });
    let payload = Payload::Normal(EncodedCommand(command.into()));
    Entry { log_id: LogId::new_term_index(3, index), payload }
}

/// What a directory holds.
#[derive(Debug, PartialEq)]
struct Contents {
    vote: Option<Vote>,
    entries: Vec<Entry>,
    applied: AppliedMeta,
    snapshot: Option<LogId>,
}

/// Everything, read as a starting controller and its readers would.
async fn read(dir: &Path) -> Result<Contents, String> {
    let db = Arc::new(Db::open(dir, 1).map_err(|e| e.to_string())?.0);
    let snapshots = SnapshotStore::open(dir).map_err(|e| e.to_string())?;
    let state = StateStore::open(db.clone(), snapshots.clone(), features::NEWEST)
        .map_err(|e| e.to_string())?;
    let applied = AppliedMeta::load(&db).map_err(|e| format!("{e:?}"))?;
    let mut log =
        LogStore::open(dir, db.clone(), Histogram::noop()).map_err(|e| format!("{e:?}"))?;
    let vote = log.read_vote().await.map_err(|e| e.to_string())?;
    let entries = log.try_get_log_entries(..).await.map_err(|e| e.to_string())?;
    let snapshot = snapshots.current().map_err(|e| e.to_string())?;
    log.writer().stop().await;
    let view = state.view().map_err(|e| e.to_string())?;
    let mut sum = hash::EMPTY;
    let mut pairs = view.iterate();
    while let Some((key, value)) = pairs.item() {
        sum = sum.wrapping_add(hash::of_pair(key, value));
        pairs.next();
    }
    pairs.status().map_err(|e| e.to_string())?;
    if sum != applied.state_hash {
        return Err("the state's pairs do not add up to its hash".into());
    }
    let snapshot = snapshot.and_then(|snapshot| snapshot.meta.last_log_id);
    Ok(Contents { vote, entries, applied, snapshot })
}

/// A directory with tables, a log of RocksDB's behind them, and a snapshot.
async fn write(dir: &Path) {
    let db = Arc::new(Db::open(dir, 1).unwrap().0);
    let snapshots = SnapshotStore::open(dir).unwrap();
    let state = StateStore::open(db.clone(), snapshots, features::NEWEST).unwrap();
    let mut log = LogStore::open(dir, db.clone(), Histogram::noop()).unwrap();
    let mut applied = AppliedMeta::load(&db).unwrap();
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    for (part, upto) in [(0, ENTRIES / 2), (ENTRIES / 2, ENTRIES)] {
        let entries: Vec<Entry> = (part..upto).map(entry).collect();
        log.blocking_append(entries.clone()).await.unwrap();
        state.apply(&mut applied, &entries);
        if part == 0 {
            for family in [db.log(), db.raft(), db.state()] {
                db.rocks().flush_cf(family).unwrap();
            }
            state.snapshots().build(&state.view().unwrap()).unwrap();
        }
    }
    log.writer().stop().await;
    db.quiesce().unwrap();
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

#[tokio::test]
async fn any_damage_to_any_file_is_detected_or_does_no_harm() {
    let original = tempfile::tempdir().unwrap();
    write(original.path()).await;
    let reference = tempfile::tempdir().unwrap();
    copy(original.path(), reference.path());
    let expected = read(reference.path()).await.unwrap();
    assert_eq!(expected.entries.len() as u64, ENTRIES);

    let (mut detected, mut harmless) = (0, 0);
    for file in files(original.path()) {
        let name = file.strip_prefix(original.path()).unwrap().to_owned();
        // RocksDB's own notes for people, and its lock.
        if name.ends_with("LOCK") || name.ends_with("LOG") {
            continue;
        }
        let length = fs::metadata(&file).unwrap().len();
        let places = length.min(PLACES);
        for place in 0..places {
            let at = length * place / places;
            for cut in [false, true] {
                let damaged = tempfile::tempdir().unwrap();
                copy(original.path(), damaged.path());
                let target = damaged.path().join(&name);
                let mut bytes = fs::read(&target).unwrap();
                match cut {
                    true => bytes.truncate(at as usize),
                    false => bytes[at as usize] ^= 1 << (place % 8),
                }
                fs::write(&target, bytes).unwrap();
                let Ok(found) = read(damaged.path()).await else {
                    detected += 1;
                    continue;
                };
                harmless += 1;
                let what = format!("{} at {at}, cut: {cut}", name.display());
                assert_eq!(found.vote, expected.vote, "{what}");
                assert_eq!(found.entries, expected.entries, "{what}");
                assert_eq!(found.snapshot, expected.snapshot, "{what}");
                // State that was not flushed is applied again from the log.
                assert!(found.applied.last_applied <= expected.applied.last_applied, "{what}");
            }
        }
    }
    println!("{detected} damages detected, {harmless} did no harm");
    assert!(detected > harmless);
}
