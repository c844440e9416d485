//! The log and the state machine in memory: what tests compare the real ones
//! with. Nothing survives the process, and everything else is the same.

use super::apply;
use super::hash;
use super::meta::AppliedMeta;
use super::snapshot_file::snapshot_meta;
use super::types::{Applied, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use crate::state::kv::MemoryKv;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::{OptionalSend, RaftLogReader, RaftSnapshotBuilder};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

#[derive(Default)]
struct Log {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
}

/// The log; clones share it.
#[derive(Clone, Default)]
pub(super) struct MemoryLog(Arc<Mutex<Log>>);

impl RaftLogReader<TypeConfig> for MemoryLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.0.lock().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for MemoryLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.0.lock();
        let last = log.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.or(log.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.0.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.0.lock().entries.extend(entries.into_iter().map(|e| (e.log_id.index, e)));
        flushed.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, after: Option<LogId>) -> io::Result<()> {
        let from = after.map_or(0, |id| id.index + 1);
        self.0.lock().entries.split_off(&from);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut log = self.0.lock();
        log.entries = log.entries.split_off(&(upto.index + 1));
        log.purged = log.purged.max(Some(upto));
        Ok(())
    }
}

/// A state and what it is the state of.
#[derive(Clone)]
pub(super) struct MemoryState {
    pub(super) kv: MemoryKv,
    pub(super) applied: AppliedMeta,
}

impl MemoryState {
    /// Applies entries as the real state machine does.
    pub(super) fn apply(&mut self, entries: &[Entry]) -> Vec<Applied> {
        let outcome = apply::apply(&self.kv, &mut self.applied, entries);
        let (group, writes) = outcome.expect("memory can be read");
        self.kv.commit(writes);
        group.applied
    }
}

/// The state machine; snapshots are copies.
pub(super) struct MemoryMachine {
    pub(super) state: MemoryState,
    newest: Option<Arc<MemoryState>>,
}

impl Default for MemoryMachine {
    fn default() -> Self {
        let applied = AppliedMeta { state_hash: hash::EMPTY, ..AppliedMeta::default() };
        Self { state: MemoryState { kv: MemoryKv::default(), applied }, newest: None }
    }
}

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Arc<MemoryState>>;

fn snapshot(state: Arc<MemoryState>) -> Snapshot {
    Snapshot { meta: snapshot_meta(&state.applied), snapshot: state }
}

impl RaftStateMachine<TypeConfig> for MemoryMachine {
    type SnapshotData = Arc<MemoryState>;
    type SnapshotBuilder = MemoryBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = &self.state.applied;
        Ok((applied.last_applied, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let answers = self.state.apply(&[entry]);
            for (responder, answer) in responder.into_iter().zip(answers) {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> MemoryBuilder {
        let state = Arc::new(self.state.clone());
        self.newest = Some(state.clone());
        MemoryBuilder(state)
    }

    async fn install_snapshot(
        &mut self,
        _: &SnapshotMeta,
        state: Arc<MemoryState>,
    ) -> io::Result<()> {
        self.state = MemoryState::clone(&state);
        self.newest = Some(state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.newest.clone().map(snapshot))
    }
}

/// Hands out the copy that was made when it was asked for.
pub(super) struct MemoryBuilder(Arc<MemoryState>);

impl RaftSnapshotBuilder<TypeConfig> for MemoryBuilder {
    type SnapshotData = Arc<MemoryState>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(snapshot(self.0.clone()))
    }
}
