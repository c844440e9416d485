//! What is found on a disk after damage or a crash.

use super::ApplyObserver;
use super::db::Db;
use super::log_store::{LogError, LogStore};
use super::meta::{self, AppliedMeta};
use super::snapshot_file::{self, SnapshotError};
use super::snapshot_store::SnapshotStore;
use super::state_store::StateStore;
use super::types::{EncodedCommand, Entry, LogId, Payload};
use crate::codec;
use crate::state::command::{Command, CommandBody, PartitionKey};
use crate::state::controllers::{DiskMark, Mark};
use crate::state::features;
use crate::state::reply::Effect;
use metrics::Histogram;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use rocksdb::WriteBatch;
use std::path::Path;
use std::sync::Arc;

/// For tests that do not care what is applied.
pub(super) struct Deaf;

impl ApplyObserver for Deaf {
    fn applied(&self, _: u64, _: Vec<Effect>) {}
    fn installed(&self, _: u64) {}
}

fn create(index: u64) -> Entry {
    let mut topic = [7; 16];
    topic[..8].copy_from_slice(&index.to_be_bytes());
    let name = format!("topic-{index}");
    entry(index, CommandBody::CreateTopic { topic, name, partitions: 1, config: Vec::new() })
}

fn entry(index: u64, body: CommandBody) -> Entry {
    let command = codec::encode(&Command { time_ms: 1 + index, request: None, body });
    let payload = Payload::Normal(EncodedCommand(command.into()));
    Entry { log_id: LogId::new_term_index(1, index), payload }
}

async fn log_of(dir: &Path, db: &Arc<Db>, entries: u64) -> LogStore {
    let mut log = LogStore::open(dir, db.clone(), Histogram::noop()).unwrap();
    log.blocking_append((0..entries).map(create)).await.unwrap();
    log
}

fn open(dir: &Path) -> Arc<Db> {
    Arc::new(Db::open(dir, 1).unwrap().0)
}

fn reopened(dir: &Path, db: &Arc<Db>) -> Result<(), LogError> {
    LogStore::open(dir, db.clone(), Histogram::noop()).map(|_| ())
}

fn damaged(what: &str) -> LogError {
    LogError::Damaged(what.into())
}

#[tokio::test]
async fn a_log_is_found_again_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let log = log_of(dir.path(), &db, 10).await;
    log.writer().stop().await;
    let mut log = LogStore::open(dir.path(), db, Histogram::noop()).unwrap();
    let entries = log.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, (0..10).map(create).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_flipped_byte_in_the_log_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let log = log_of(dir.path(), &db, 10).await;
    log.writer().stop().await;
    let key = 4u64.to_be_bytes();
    let mut value = db.rocks().get_cf(db.log(), key).unwrap().unwrap();
    value[20] ^= 1;
    db.rocks().put_cf(db.log(), key, value).unwrap();
    let Err(LogError::Damaged(error)) = reopened(dir.path(), &db) else { panic!() };
    assert!(error.contains("log entry 4") && error.contains("checksum"), "{error}");
}

#[tokio::test]
async fn a_gap_in_the_log_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let log = log_of(dir.path(), &db, 10).await;
    log.writer().stop().await;
    db.rocks().delete_cf(db.log(), 4u64.to_be_bytes()).unwrap();
    assert_eq!(reopened(dir.path(), &db), Err(damaged("log entry 4 is missing")));
}

#[tokio::test]
async fn damage_that_comes_later_is_detected_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let log = log_of(dir.path(), &db, 10).await;
    log.writer().stop().await;
    // Reopened, nothing is in memory: every read goes to the disk.
    let mut log = LogStore::open(dir.path(), db.clone(), Histogram::noop()).unwrap();
    db.rocks().delete_cf(db.log(), 6u64.to_be_bytes()).unwrap();
    assert_eq!(log.try_get_log_entries(0..5).await.unwrap().len(), 5);
    let error = log.try_get_log_entries(5..8).await.unwrap_err();
    assert_eq!(error.to_string(), "log entry 6 is missing");
}

/// A state of `entries` topics, and a snapshot of it.
fn state_of(db: &Arc<Db>, dir: &Path, entries: u64) -> (StateStore, AppliedMeta) {
    let store =
        StateStore::open(db.clone(), SnapshotStore::open(dir).unwrap(), features::NEWEST).unwrap();
    let mut applied = AppliedMeta::load(db).unwrap();
    let entries: Vec<Entry> = (0..entries).map(create).collect();
    store.apply(&mut applied, &entries);
    store.snapshots().build(&store.view().unwrap()).unwrap();
    (store, applied)
}

#[test]
fn an_interrupted_installation_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let (store, applied) = state_of(&db, dir.path(), 20);
    let file = store.snapshots().current().unwrap().unwrap().snapshot;
    drop(store);

    // The crash came after the state was emptied and partly filled.
    let mut batch = WriteBatch::default();
    batch.put_cf(db.raft(), meta::INSTALLING, file.path.file_name().unwrap().as_encoded_bytes());
    batch.delete_range_cf(db.state(), &b""[..], &[255; 8][..]);
    batch.put_cf(db.state(), b"half", b"written");
    db.write_synced(batch).unwrap();

    let store =
        StateStore::open(db.clone(), SnapshotStore::open(dir.path()).unwrap(), features::NEWEST)
            .unwrap();
    assert_eq!(AppliedMeta::load(&db).unwrap(), applied);
    assert_eq!(db.get_raft(meta::INSTALLING).unwrap(), None);
    // The pairs themselves add up to the hash: write verifies by reading.
    let copy = dir.path().join("copy");
    snapshot_file::write(&copy, &store.view().unwrap()).unwrap();
    assert_eq!(snapshot_file::verify(&copy).unwrap(), applied);
}

#[test]
fn a_view_taken_before_an_installation_stays_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let (store, applied) = state_of(&db, dir.path(), 5);
    let file = store.snapshots().current().unwrap().unwrap().snapshot;
    let mut later = applied.clone();
    store.apply(&mut later, &[create(5), create(6)]);
    let view = store.view().unwrap();

    let installed = store.install(&file).unwrap();
    assert_eq!(installed, applied);
    assert_eq!(store.view().unwrap().state_hash(), applied.state_hash);
    assert_eq!((view.applied(), view.state_hash()), (6, later.state_hash));
}

/// An entry that writes 4 kB of state of its own, once there is a topic of
/// number 0.
fn large(index: u64) -> Entry {
    let mut topic = [7; 16];
    topic[..8].copy_from_slice(&0u64.to_be_bytes());
    let offset = (PartitionKey { topic, partition: 0 }, index, "m".repeat(4_000));
    let body = CommandBody::CommitOffsets { group: format!("g-{index}"), offsets: vec![offset] };
    entry(index, body)
}

#[test]
fn a_snapshot_is_installed_in_pieces_of_bounded_size() {
    const ENTRIES: u64 = 3_000;
    // What a batch may hold before it is written, and the block that fills it.
    const PIECE: usize = (1 << 20) + (256 << 10);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sender = open(from.path());
    let (store, mut applied) = state_of(&sender, from.path(), 1);
    let entries: Vec<Entry> =
        std::iter::once(entry(1, CommandBody::Continue)).chain((2..ENTRIES).map(large)).collect();
    store.apply(&mut applied, &entries);
    let built = store.snapshots().build(&store.view().unwrap()).unwrap().snapshot;
    let size = built.file.metadata().unwrap().len() as usize;
    assert!(size > ENTRIES as usize * 3_500, "{size} bytes");

    let receiver = open(to.path());
    let (store, _) = state_of(&receiver, to.path(), 5);
    let before = receiver.rocks().latest_sequence_number();
    assert_eq!(store.install(&built).unwrap(), applied);
    let written = receiver.rocks().get_updates_since(before).unwrap();
    let pieces: Vec<usize> = written.map(|batch| batch.unwrap().1.size_in_bytes()).collect();
    let largest = *pieces.iter().max().unwrap();
    println!("{size} bytes were written in {} pieces of up to {largest} bytes", pieces.len());
    assert!(pieces.iter().sum::<usize>() > size * 9 / 10, "all of it is there: {pieces:?}");
    assert!(largest <= PIECE, "a piece of {largest} bytes");
}

#[test]
fn any_flipped_or_missing_byte_in_a_snapshot_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let (store, applied) = state_of(&db, dir.path(), 5);
    let file = store.snapshots().current().unwrap().unwrap().snapshot;
    assert_eq!(snapshot_file::verify(&file.path).unwrap(), applied);
    let good = std::fs::read(&file.path).unwrap();
    let path = dir.path().join("bad");
    let is_damaged = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        matches!(snapshot_file::verify(&path), Err(SnapshotError::Damaged(_)))
    };
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        assert!(is_damaged(&bytes), "byte {at} of {}", good.len());
        assert!(is_damaged(&good[..at]), "cut off at {at}");
    }
    assert!(is_damaged(&[good.as_slice(), &[0]].concat()));
    // A damaged snapshot is refused at start, not ignored.
    std::fs::write(&file.path, &good[..good.len() - 1]).unwrap();
    assert!(matches!(SnapshotStore::open(dir.path()), Err(SnapshotError::Damaged(_))));
}

#[tokio::test]
async fn a_log_that_ends_before_what_was_synced_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let log = log_of(dir.path(), &db, 10).await;
    log.writer().stop().await;
    drop(log);
    // As RocksDB leaves it when a record before the last sync does not hold.
    db.rocks().delete_cf(db.log(), 9u64.to_be_bytes()).unwrap();
    let error = damaged("the log ends at entry 8, entry 9 was synced");
    assert_eq!(reopened(dir.path(), &db), Err(error));
}

#[tokio::test]
async fn a_log_that_was_cut_off_rightly_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let mut log = log_of(dir.path(), &db, 10).await;
    log.truncate_after(Some(LogId::new_term_index(1, 4))).await.unwrap();
    log.writer().stop().await;
    drop(log);
    reopened(dir.path(), &db).unwrap();
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let log = log_of(dir.path(), &db, 10).await;
    log.writer().stop().await;
    drop(log);
    // As good as one that may not be opened.
    let note = dir.path().join(super::synced::NAME);
    std::fs::remove_file(&note).unwrap();
    std::fs::create_dir(&note).unwrap();
    let error = reopened(dir.path(), &db);
    assert!(matches!(error, Err(LogError::Unreadable(_))), "{error:?}");
    std::fs::remove_dir(&note).unwrap();
    reopened(dir.path(), &db).unwrap();
}

/// A mark of `disk` at `index` in term 1, as an entry.
fn marks(entry: u64, disk: [u8; 16], index: u64) -> Entry {
    let mark = Mark { node: 3, term: 1, matched_term: 1, matched_index: index };
    let body = CommandBody::MarkDisks(vec![DiskMark { disk, mark }]);
    let command = codec::encode(&Command { time_ms: 1, request: None, body });
    let payload = Payload::Normal(EncodedCommand(command.into()));
    Entry { log_id: LogId::new_term_index(1, entry), payload }
}

#[tokio::test]
async fn marks_of_entries_that_came_since_the_start_count_cut_off_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let mut log = log_of(dir.path(), &db, 10).await;
    assert_eq!(log.logged_mark(&[6; 16], 0).await.unwrap(), None);
    log.blocking_append([marks(10, [6; 16], 8)]).await.unwrap();
    let known = log.logged_mark(&[6; 16], 0).await.unwrap().unwrap();
    assert_eq!(known.matched_index, 8);
    log.blocking_append([marks(11, [6; 16], 9)]).await.unwrap();
    log.truncate_after(Some(LogId::new_term_index(1, 9))).await.unwrap();
    let known = log.logged_mark(&[6; 16], 0).await.unwrap().unwrap();
    assert_eq!(known.matched_index, 9);
    log.writer().stop().await;
}
