//! openraft's own storage suite, over the real log store and state machine,
//! and over those in memory.

use super::db::Db;
use super::log_store::LogStore;
use super::memory::{MemoryLog, MemoryMachine};
use super::meta::AppliedMeta;
use super::recovery_tests::Deaf;
use super::snapshot_store::SnapshotStore;
use super::state_machine::{AppliedState, StateMachine};
use super::state_store::StateStore;
use super::types::TypeConfig;
use crate::metrics::Probes;
use crate::state::features;
use metrics::Histogram;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(dir.path(), 0).unwrap().0);
        let snapshots = SnapshotStore::open(dir.path()).unwrap();
        let state = Arc::new(StateStore::open(db.clone(), snapshots, features::NEWEST).unwrap());
        let applied = AppliedMeta::load(&db).unwrap();
        let shared = AppliedState::new(&applied, None);
        let machine = StateMachine::new(state, applied, shared, Arc::new(Deaf), Probes::default());
        let log = LogStore::open(dir.path(), db, Histogram::noop()).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_passes_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}

struct InMemory;

impl StoreBuilder<TypeConfig, MemoryLog, MemoryMachine, ()> for InMemory {
    async fn build(&self) -> Result<((), MemoryLog, MemoryMachine), StorageError<TypeConfig>> {
        Ok(((), MemoryLog::default(), MemoryMachine::default()))
    }
}

#[tokio::test]
async fn the_storage_in_memory_passes_it_too() {
    Suite::test_all(InMemory).await.unwrap();
}
