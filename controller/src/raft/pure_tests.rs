//! PURE and RETRY over the real storage: whatever commands come, in whatever
//! groups, with restarts and snapshots in between, RocksDB and memory hold the
//! same state; and a command that comes twice is answered twice the same.

use super::db::Db;
use super::memory::{MemoryMachine, MemoryState};
use super::meta::AppliedMeta;
use super::snapshot_store::SnapshotStore;
use super::state_store::StateStore;
use super::types::{EncodedCommand, Entry, LogId, Payload};
use super::view::StateView;
use crate::codec;
use crate::state::assignors::Assignor;
use crate::state::collector::{
    self, Collector, CollectorStep, KeptBackups, ObjectName, SweepReport,
};
use crate::state::command::{
    Command, CommandBody, GenerationKey, GroupJoin, ObjectCommit, ObjectContents, PartitionKey,
    ProducerBatch, ProducerEpoch, ProducerRequest, Registration, RequestKey, RestoreStart,
    RestoredObject, SliceCommit,
};
use crate::state::controllers::{DiskMark, Mark};
use crate::state::features;
use crate::state::kv::KvRead;
use crate::state::reply::{ObjectReply, Reply, SliceReply};
use crate::state::{cluster, groups, partitions, producers, sequences, sessions};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// A state in RocksDB, without Raft.
struct Disk {
    dir: TempDir,
    store: Option<StateStore>,
    applied: AppliedMeta,
}

fn open(dir: &Path) -> (StateStore, AppliedMeta) {
    let db = Arc::new(Db::open(dir, 1).unwrap().0);
    let applied = AppliedMeta::load(&db).unwrap();
    let snapshots = SnapshotStore::open(dir).unwrap();
    (StateStore::open(db, snapshots, features::NEWEST).unwrap(), applied)
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, applied) = open(dir.path());
        Self { dir, store: Some(store), applied }
    }

    fn store(&self) -> &StateStore {
        self.store.as_ref().unwrap()
    }

    fn apply(&mut self, entries: &[Entry]) -> Vec<Reply> {
        let mut applied = self.applied.clone();
        let group = self.store().apply(&mut applied, entries);
        self.applied = applied;
        group.applied.into_iter().map(|applied| applied.reply).collect()
    }

    fn restart(&mut self) {
        self.store = None;
        let (store, applied) = open(self.dir.path());
        assert_eq!(applied, self.applied);
        self.store = Some(store);
    }

    /// Another one, by way of a snapshot.
    fn copied(&self) -> Self {
        let built = self.store().snapshots().build(&self.view()).unwrap();
        let mut copy = Self::new();
        copy.applied = copy.store().install(&built.snapshot).unwrap();
        copy
    }

    fn view(&self) -> StateView {
        self.store().view().unwrap()
    }

    fn pairs(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.view().scan(&[], &[u8::MAX], usize::MAX).unwrap().into_iter().collect()
    }
}

const TOPICS: u8 = 3;
const PARTITIONS: u32 = 3;
const AGENTS: u8 = 3;
const PRODUCERS: u64 = 4;
/// The key of the cluster's time, by its tag.
const CLUSTER_TIME: u8 = 2;

fn id(n: u8) -> [u8; 16] {
    [n / 2 + 1; 16]
}

/// Batches of two producers, if there are such: mostly their next ones.
fn batches(
    state: &MemoryState,
    partition: &PartitionKey,
    skew: u64,
    count: u64,
) -> Vec<ProducerBatch> {
    let mut batches = Vec::new();
    for (offset_delta, id) in (0..count.min(2)).map(|delta| (delta, (count + delta) % PRODUCERS)) {
        let Some(known) = producers::producer(&state.kv, id).unwrap() else { continue };
        let have = sequences::committed(&state.kv, partition, id).unwrap();
        let have = have.filter(|have| have.epoch == known.epoch).map_or(0, |have| have.records);
        let base_sequence = if count.is_multiple_of(7) { 0 } else { (have + skew) as u32 };
        let producer = ProducerEpoch { id, epoch: known.epoch };
        batches.push(ProducerBatch { producer, base_sequence, records: 1, offset_delta });
    }
    batches
}

fn slice(state: &MemoryState, partition: PartitionKey, skew: u64, count: u64) -> SliceCommit {
    let now = partitions::partition(&state.kv, &partition).unwrap();
    let (epoch, base) = now.map_or((0, 0), |now| (now.lease_epoch, now.next_offset + skew));
    SliceCommit {
        partition,
        lease_epoch: epoch,
        base_offset: base,
        last_offset: base + count - 1,
        record_count: count as u32,
        position: 64,
        length: 10,
        crc32c: 5,
        append_time_ms: 6,
        min_timestamp_ms: 7,
        max_timestamp_ms: 8,
        flags: 0,
        producers: batches(state, &partition, skew, count),
    }
}

fn registration(n: u8, start: u8) -> Registration {
    let mut instance = id(n);
    instance[0] = start;
    Registration {
        instance,
        address: format!("agent-{n}:1"),
        group: "default".into(),
        zone: String::new(),
        pid: 1,
        store_url: "memory://pure".into(),
    }
}

/// One of every kind of command, aimed at what is there.
fn body(state: &MemoryState, kind: u8, a: u8, b: u8) -> CommandBody {
    let partition =
        PartitionKey { topic: id(a % TOPICS), partition: u32::from(b) % (PARTITIONS + 1) };
    let live = sessions::live(&state.kv).unwrap();
    let pick = live.get(usize::from(a) % live.len().max(1));
    let session = pick.map_or(u64::from(a), |(id, _)| *id);
    let known = sessions::session(&state.kv, session).unwrap();
    let instance = known.as_ref().map_or(id(9), |known| known.instance);
    let restore = GenerationKey { counter: 2, random: 2 };
    let mark = Mark { node: 1, term: 1, matched_term: 1, matched_index: u64::from(b) };
    match kind {
        0 => CommandBody::InitCluster {
            cluster: id(a),
            generation: GenerationKey { counter: 1, random: u64::from(b) },
        },
        1 | 2 => CommandBody::CreateTopic {
            topic: id(a % TOPICS),
            name: format!("topic-{}", a % TOPICS),
            partitions: PARTITIONS,
            config: Vec::new(),
        },
        3 => CommandBody::DeleteTopic { name: format!("topic-{}", a % TOPICS) },
        4 | 5 => CommandBody::RegisterSession(registration(a % AGENTS, b % 4)),
        6 => CommandBody::EndSession { session },
        7 => CommandBody::DrainSession { session },
        8 => {
            let now = partitions::partition(&state.kv, &partition).unwrap();
            let epoch = now.map_or(0, |now| now.lease_epoch);
            CommandBody::ReleaseLeases { session, leases: vec![(partition, epoch)] }
        }
        9..=14 => {
            let sequence = known.map_or(1, |known| known.last_sequence + 1);
            let holder = partitions::partition(&state.kv, &partition).unwrap();
            let holder = holder.map_or(session, |now| if b < 200 { now.holder } else { session });
            let known = sessions::session(&state.kv, holder).unwrap();
            let (sequence, instance) =
                known.map_or((sequence, instance), |k| (k.last_sequence + 1, k.instance));
            let contents = match kind {
                14 => ObjectContents::Abandoned(vec![partition]),
                _ => ObjectContents::Written(vec![slice(
                    state,
                    partition,
                    u64::from(b.is_multiple_of(16)),
                    u64::from(a) + 1,
                )]),
            };
            let objects = vec![ObjectCommit { sequence, size: 1_000, contents }];
            CommandBody::CommitObjects { session: holder, objects, instance }
        }
        15..=17 => CommandBody::CommitOffsets {
            group: format!("group-{}", b % 2),
            offsets: vec![(partition, u64::from(a), String::new())],
        },
        18 => CommandBody::Continue,
        19 => CommandBody::MarkDisks(vec![DiskMark { disk: id(a % 3), mark }]),
        20 => CommandBody::AllocateController { disk: id(a), above: u64::from(b) },
        21 => CommandBody::ReserveControllers { upto: u64::from(a) },
        // Seldom: until a restore has ended, little else goes.
        22 if a < 32 => CommandBody::BeginRestore(RestoreStart {
            cluster: id(8),
            backup_generation: GenerationKey { counter: 1, random: 1 },
            backup_index: 10,
            generation: restore,
            time_ms: 1_000_000,
            sessions_upto: 5,
            store_url: Some("memory://pure".into()),
            feature_level: 1,
        }),
        22 | 23 => CommandBody::RestorePairs { restore, part: u64::from(b % 2), pairs: Vec::new() },
        24 => {
            let object = RestoredObject {
                generation: GenerationKey { counter: 1, random: 1 },
                session: u64::from(a),
                sequence: u64::from(b),
                size: 1_000,
                slices: vec![slice(state, partition, 0, u64::from(a) + 1)],
            };
            CommandBody::RestoreSlices { restore, objects: vec![object] }
        }
        25 => CommandBody::EndRestore { restore, parts: u64::from(b % 3) },
        36 => CommandBody::RaiseFeatureLevel { level: 1 + u32::from(b % 2) },
        34 | 35 => {
            let id = u64::from(a) % PRODUCERS;
            let known = producers::producer(&state.kv, id).unwrap();
            let epoch = known.map_or(0, |known| known.epoch);
            CommandBody::InitProducer(ProducerRequest {
                name: b.is_multiple_of(4).then(|| format!("producer-{}", a % 2)),
                producer: (b % 4 == 1).then_some(ProducerEpoch { id, epoch }),
            })
        }
        37 | 38 => CommandBody::Collect(collect(state, a, b, session, instance)),
        _ => group_body(state, kind, a, b),
    }
}

/// The commands of consumer groups.
fn group_body(state: &MemoryState, kind: u8, a: u8, b: u8) -> CommandBody {
    let group = format!("group-{}", b % 2);
    let members = groups::members(&state.kv, &group).unwrap();
    let pick = members.get(usize::from(a) % members.len().max(1));
    let member = pick.map_or([a; 16], |(id, _)| *id);
    let owned = groups::owned_by(&state.kv, &group, &member).unwrap();
    match kind {
        26..=28 => CommandBody::JoinGroup(GroupJoin {
            group,
            member: [a; 16],
            instance: a.is_multiple_of(3).then(|| format!("instance-{}", a % 2)),
            client: "pure".into(),
            topics: (0..=b % TOPICS).map(id).collect(),
            assignor: [Assignor::Sticky, Assignor::Range, Assignor::RoundRobin][usize::from(b) % 3],
            session_timeout_ms: 10_000,
            is_member: a.is_multiple_of(2),
        }),
        29 => CommandBody::LeaveGroup { group, members: vec![member], expired: a < 128 },
        30 => {
            let partitions = owned.iter().map(|(key, record)| (*key, record.granted_epoch));
            CommandBody::ReleasePartitions { group, member, partitions: partitions.collect() }
        }
        31 => {
            let epoch = groups::membership(&state.kv, &group).unwrap().map_or(0, |all| all.epoch);
            let offsets = owned.iter().map(|(key, _)| (*key, u64::from(a), "m".into()));
            CommandBody::CommitMemberOffsets { group, member, epoch, offsets: offsets.collect() }
        }
        32 => CommandBody::DeleteGroup { group },
        _ => CommandBody::ExpireGroups {
            groups: vec!["group-0".into(), "group-1".into()],
            idle_before_ms: 1_000_000 + u64::from(b) * 100_000,
        },
    }
}

const KINDS: u8 = 39;

/// A step of the collector, or of its operator.
fn collect(state: &MemoryState, a: u8, b: u8, session: u64, instance: [u8; 16]) -> CollectorStep {
    let own = cluster::cluster(&state.kv).unwrap();
    let generation = own.map_or(GenerationKey { counter: 1, random: 1 }, |own| own.generation);
    let Collector { holder, epoch, .. } = collector::collector(&state.kv).unwrap();
    match b % 8 {
        0 => CollectorStep::SetPaused(a.is_multiple_of(2)),
        1 => CollectorStep::ConfirmGeneration(generation),
        2 => {
            let report = SweepReport { listed: u64::from(a), ..SweepReport::default() };
            CollectorStep::Report { session: holder, epoch, report }
        }
        3 | 4 => CollectorStep::Acquire { session, instance },
        _ => {
            let object = |sequence| ObjectName { generation, session, sequence };
            let oldest_index = Some(u64::from(a)).filter(|_| b >= 128);
            CollectorStep::Allow {
                session: holder,
                epoch,
                grace_ms: 1_000,
                backups: KeptBackups { oldest_index, of_others: false },
                objects: (0..4).map(object).collect(),
            }
        }
    }
}

/// Fails to compile when there is a command that [`body`] does not make.
fn known(body: &CommandBody) {
    match body {
        CommandBody::InitCluster { .. }
        | CommandBody::CreateTopic { .. }
        | CommandBody::DeleteTopic { .. }
        | CommandBody::RegisterSession(_)
        | CommandBody::EndSession { .. }
        | CommandBody::DrainSession { .. }
        | CommandBody::ReleaseLeases { .. }
        | CommandBody::CommitObjects { .. }
        | CommandBody::CommitOffsets { .. }
        | CommandBody::Continue
        | CommandBody::MarkDisks(_)
        | CommandBody::AllocateController { .. }
        | CommandBody::ReserveControllers { .. }
        | CommandBody::BeginRestore(_)
        | CommandBody::RestorePairs { .. }
        | CommandBody::RestoreSlices { .. }
        | CommandBody::EndRestore { .. }
        | CommandBody::RaiseFeatureLevel { .. }
        | CommandBody::InitProducer(_)
        | CommandBody::JoinGroup(_)
        | CommandBody::LeaveGroup { .. }
        | CommandBody::ReleasePartitions { .. }
        | CommandBody::CommitMemberOffsets { .. }
        | CommandBody::DeleteGroup { .. }
        | CommandBody::ExpireGroups { .. }
        | CommandBody::Collect(_) => {}
    }
}

fn entry(index: u64, command: &Command) -> Entry {
    let bytes = codec::encode(command);
    let payload = Payload::Normal(EncodedCommand(bytes.into()));
    Entry { log_id: LogId::new_term_index(1, index), payload }
}

#[derive(Debug, Clone)]
enum Step {
    Command {
        kind: u8,
        a: u8,
        b: u8,
        request: Option<u8>,
        wait_ms: u32,
    },
    /// What has come so far is applied to the disk in one group.
    Group,
    Restart,
    /// The state goes on as its own snapshot, installed elsewhere.
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![9 => 0..50u32, 1 => 0..100_000_000u32];
    let command = (0..KINDS, any::<u8>(), any::<u8>(), prop::option::of(0..80u8), wait)
        .prop_map(|(kind, a, b, request, wait_ms)| Step::Command { kind, a, b, request, wait_ms });
    prop_oneof![40 => command, 8 => Just(Step::Group), 1 => Just(Step::Restart), 1 => Just(Step::Snapshot)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn memory_and_disk_hold_the_same_state_whatever_happens(
        steps in prop::collection::vec(step(), 1..250)
    ) {
        let mut memory = MemoryMachine::default().state;
        let mut disk = Disk::new();
        let (mut index, mut time_ms) = (0, 1_000_000);
        let (mut waiting, mut replies): (Vec<Entry>, Vec<Reply>) = Default::default();
        for step in steps.iter().chain([&Step::Group, &Step::Restart]) {
            if let Step::Command { kind, a, b, request, wait_ms } = step {
                index += 1;
                time_ms += u64::from(*wait_ms);
                let body = body(&memory, *kind, *a, *b);
                known(&body);
                let request = request.map(|n| RequestKey { requester: id(n % 3), number: n.into() });
                let entry = entry(index, &Command { time_ms, request, body });
                replies.extend(memory.apply(std::slice::from_ref(&entry)).into_iter().map(|a| a.reply));
                waiting.push(entry);
                continue;
            }
            prop_assert_eq!(&disk.apply(&waiting), &replies);
            waiting.clear();
            replies.clear();
            match step {
                Step::Restart => disk.restart(),
                Step::Snapshot => disk = disk.copied(),
                Step::Command { .. } | Step::Group => {}
            }
            prop_assert_eq!(disk.applied.state_hash, memory.applied.state_hash);
        }
        prop_assert_eq!(&disk.applied, &memory.applied);
        prop_assert_eq!(&disk.pairs(), &memory.kv.pairs);
    }
}

/// RETRY, for every command: applied again, at once and after a restart and a
/// snapshot, it is answered as it was and changes nothing.
#[test]
fn what_comes_twice_is_answered_twice_the_same() {
    for kind in 0..KINDS {
        let mut memory = MemoryMachine::default().state;
        let mut disk = Disk::new();
        let mut index = 0;
        let mut run = |memory: &mut MemoryState, disk: &mut Disk, request, body| {
            index += 1;
            // A day less a minute in all: whatever is remembered still is.
            let command = Command { time_ms: 1_000_000 + index * 1_000_000, request, body };
            let entries = [entry(index, &command)];
            memory.apply(&entries);
            disk.apply(&entries).remove(0)
        };
        for (kind, a, b) in [(0, 0, 0), (1, 0, 0), (18, 0, 0), (4, 0, 0), (4, 1, 0), (18, 0, 0)] {
            let body = body(&memory, kind, a, b);
            run(&mut memory, &mut disk, None, body);
        }
        let body = body(&memory, kind, 0, 1);
        // Those that carry their own number need none of a requester.
        let own =
            matches!(body, CommandBody::RegisterSession(_) | CommandBody::CommitObjects { .. });
        let request = (!own).then_some(RequestKey { requester: id(7), number: 1 });
        let first = run(&mut memory, &mut disk, request, body.clone());
        // The cluster's time goes on, and nothing else.
        let but_time = |mut pairs: BTreeMap<Vec<u8>, Vec<u8>>| {
            pairs.retain(|key, _| key[0] != CLUSTER_TIME);
            pairs
        };
        let expected = but_time(memory.kv.pairs.clone());
        let same = |disk: &Disk, now: &Reply, after: &str| {
            assert_eq!(*now, first, "{body:?} after {after}");
            assert_eq!(but_time(disk.pairs()), expected, "{body:?} after {after}");
        };
        let again = run(&mut memory.clone(), &mut disk, request, body.clone());
        same(&disk, &again, "nothing");
        disk.restart();
        let again = run(&mut memory.clone(), &mut disk, request, body.clone());
        same(&disk, &again, "a restart");
        let mut disk = disk.copied();
        let again = run(&mut memory.clone(), &mut disk, request, body.clone());
        same(&disk, &again, "a snapshot");
    }
}

/// RETRY: the answer of a commit was lost, and then its session ended.
#[test]
fn a_commit_is_answered_with_success_after_its_session_ended() {
    let mut memory = MemoryMachine::default().state;
    let mut disk = Disk::new();
    let mut index = 0;
    let mut run = |memory: &mut MemoryState, disk: &mut Disk, body| {
        index += 1;
        let entries = [entry(index, &Command { time_ms: 1_000_000, request: None, body })];
        memory.apply(&entries);
        disk.apply(&entries).remove(0)
    };
    for (kind, a, b) in [(0, 0, 0), (1, 0, 0), (18, 0, 0), (4, 0, 0)] {
        let body = body(&memory, kind, a, b);
        run(&mut memory, &mut disk, body);
    }
    let commit = body(&memory, 9, 0, 1);
    let CommandBody::CommitObjects { session, .. } = commit else { panic!("{commit:?}") };
    let first = run(&mut memory, &mut disk, commit.clone());
    let Reply::Objects(results) = &first else { panic!("{first:?}") };
    let accepted = |slices: &[SliceReply]| slices.iter().all(|slice| slice.refusal.is_none());
    assert!(matches!(&results[0], ObjectReply::Processed(slices) if accepted(slices)));
    run(&mut memory, &mut disk, CommandBody::EndSession { session });
    assert_eq!(run(&mut memory, &mut disk, commit.clone()), first);
    let mut disk = disk.copied();
    assert_eq!(run(&mut memory, &mut disk, commit), first);
}
