//! RETRY, for every command: proposed at one leader and again at the next, or
//! at one that has the state from a snapshot, it is answered as it was, and
//! changes nothing.
use crate::raft_support::{
    Cluster, free_address, options, poll, propose, propose_as, read_index, start, steady,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use streamhouse_controller::codec;
use streamhouse_controller::raft::{self, CommandClock, Member, RaftOptions, StateView};
use streamhouse_controller::state::assignors::Assignor;
use streamhouse_controller::state::collector::CollectorStep;
use streamhouse_controller::state::command::{
    CommandBody, GenerationKey, GroupJoin, ObjectCommit, ObjectContents, PartitionKey,
    ProducerRequest, Registration, RequestKey, RestoreStart, RestoredObject, SliceCommit,
};
use streamhouse_controller::state::controllers::{DiskMark, Mark};
use streamhouse_controller::state::groups::GroupPartition;
use streamhouse_controller::state::reply::{Refusal, Reply};
use streamhouse_controller::state::{features, groups, partitions, sessions};

const TOPIC: [u8; 16] = [7; 16];
const PARTITION: PartitionKey = PartitionKey { topic: TOPIC, partition: 0 };
const GROUP: &str = "members";
const RESTORE: GenerationKey = GenerationKey { counter: 2, random: 2 };

/// Time stands still: a command that changes nothing leaves the hash as it is.
struct Still;

impl CommandClock for Still {
    fn stamp_ms(&self) -> u64 {
        1_000_000
    }
}

fn still() -> Arc<dyn CommandClock> {
    Arc::new(Still)
}

/// A new member cannot have the log, and is sent a snapshot.
fn short_log(options: &mut RaftOptions) {
    steady(options);
    (options.snapshot_every, options.keep_logs) = (8, 0);
}

/// A command that depends on what came before it.
type Step = fn(&StateView) -> CommandBody;

/// The session that commits.
fn session(view: &StateView) -> (u64, [u8; 16]) {
    let (id, session) = sessions::live(view).unwrap().remove(0);
    (id, session.instance)
}

/// The one that goes.
fn other(view: &StateView) -> u64 {
    sessions::live(view).unwrap().remove(1).0
}

fn register(n: u8) -> CommandBody {
    CommandBody::RegisterSession(Registration {
        instance: [n; 16],
        address: format!("agent:{n}"),
        group: "default".into(),
        zone: String::new(),
        pid: 1,
        store_url: "memory://retry".into(),
    })
}

fn init(_: &StateView) -> CommandBody {
    CommandBody::InitCluster {
        cluster: [1; 16],
        generation: GenerationKey { counter: 1, random: 1 },
    }
}

/// The life of a cluster, from its founding to a session's end.
const LIFE: &[Step] = &[
    init,
    |_| CommandBody::RaiseFeatureLevel { level: features::NEWEST },
    |_| CommandBody::CreateTopic {
        topic: TOPIC,
        name: "orders".into(),
        partitions: 1_500,
        config: Vec::new(),
    },
    |_| CommandBody::Continue,
    |_| register(4),
    |view| {
        let (session, instance) = session(view);
        let contents = ObjectContents::Written(vec![slice(view)]);
        let objects = vec![ObjectCommit { sequence: 1, size: 1_000, contents }];
        CommandBody::CommitObjects { session, objects, instance }
    },
    |view| {
        let (session, instance) = session(view);
        let contents = ObjectContents::Abandoned(vec![PARTITION]);
        let objects = vec![ObjectCommit { sequence: 2, size: 0, contents }];
        CommandBody::CommitObjects { session, objects, instance }
    },
    |_| CommandBody::CommitOffsets {
        group: "readers".into(),
        offsets: vec![(PARTITION, 5, "mine".into())],
    },
    |_| {
        let producer = ProducerRequest { name: Some("loader".into()), producer: None };
        CommandBody::InitProducer(producer)
    },
    |_| join(7),
    |_| join(8),
    |view| CommandBody::ReleasePartitions {
        group: GROUP.into(),
        member: [7; 16],
        partitions: owned(view, false).collect(),
    },
    |view| {
        let epoch = groups::membership(view, GROUP).unwrap().unwrap().epoch;
        let offsets = owned(view, true).map(|(key, _)| (key, 0, String::new())).take(3).collect();
        CommandBody::CommitMemberOffsets { group: GROUP.into(), member: [7; 16], epoch, offsets }
    },
    |_| {
        let members = vec![[7; 16], [8; 16]];
        CommandBody::LeaveGroup { group: GROUP.into(), members, expired: true }
    },
    |_| CommandBody::ExpireGroups { groups: vec![GROUP.into()], idle_before_ms: u64::MAX },
    |_| CommandBody::DeleteGroup { group: "readers".into() },
    |_| CommandBody::Collect(CollectorStep::SetPaused(true)),
    |view| {
        let epoch = partitions::partition(view, &PARTITION).unwrap().unwrap().lease_epoch;
        CommandBody::ReleaseLeases { session: session(view).0, leases: vec![(PARTITION, epoch)] }
    },
    |_| register(5),
    |view| CommandBody::DrainSession { session: other(view) },
    |view| CommandBody::EndSession { session: other(view) },
    |_| {
        let mark = Mark { node: 1, term: 1, matched_term: 1, matched_index: 9 };
        CommandBody::MarkDisks(vec![DiskMark { disk: [6; 16], mark }])
    },
    |_| CommandBody::ReserveControllers { upto: 5 },
    |_| CommandBody::AllocateController { disk: [8; 16], above: 3 },
    |_| CommandBody::DeleteTopic { name: "orders".into() },
];

/// The restoring of a backup.
const RESTORED: &[Step] = &[
    init,
    |_| {
        CommandBody::BeginRestore(RestoreStart {
            cluster: [5; 16],
            backup_generation: GenerationKey { counter: 1, random: 7 },
            backup_index: 10,
            generation: RESTORE,
            time_ms: 1_000,
            sessions_upto: 10,
            store_url: None,
            feature_level: 1,
        })
    },
    |_| CommandBody::RestorePairs { restore: RESTORE, part: 0, pairs: Vec::new() },
    |view| {
        let object = RestoredObject {
            generation: GenerationKey { counter: 1, random: 7 },
            session: 3,
            sequence: 1,
            size: 1_000,
            slices: vec![slice(view)],
        };
        CommandBody::RestoreSlices { restore: RESTORE, objects: vec![object] }
    },
    |_| CommandBody::EndRestore { restore: RESTORE, parts: 1 },
];

fn slice(view: &StateView) -> SliceCommit {
    let now = partitions::partition(view, &PARTITION).unwrap().unwrap_or_default();
    SliceCommit {
        partition: PARTITION,
        lease_epoch: now.lease_epoch,
        base_offset: now.next_offset,
        last_offset: now.next_offset + 9,
        record_count: 10,
        position: 64,
        length: 10,
        crc32c: 5,
        append_time_ms: 6,
        min_timestamp_ms: 7,
        max_timestamp_ms: 8,
        flags: 0,
        producers: Vec::new(),
    }
}

/// A member of [`GROUP`] comes.
fn join(n: u8) -> CommandBody {
    CommandBody::JoinGroup(GroupJoin {
        group: GROUP.into(),
        member: [n; 16],
        instance: None,
        client: "retry".into(),
        topics: vec![TOPIC],
        assignor: Assignor::Sticky,
        session_timeout_ms: 10_000,
        is_member: false,
    })
}

/// What member 7 has, and whether it keeps it.
fn owned(view: &StateView, kept: bool) -> impl Iterator<Item = (PartitionKey, u32)> {
    let owned = groups::owned_by(view, GROUP, &[7; 16]).unwrap().into_iter();
    let keeps = move |record: &GroupPartition| (record.target == record.owner) == kept;
    let owned = owned.filter(move |(_, record)| keeps(record));
    owned.map(|(key, record)| (key, record.granted_epoch))
}

/// Which variant it is: its number in the encoding.
fn kind(body: &CommandBody) -> u8 {
    codec::encode(body)[1]
}

/// How many there are: numbers beyond are no variant's.
fn kinds() -> u8 {
    let unknown = |kind: &u8| match codec::decode::<CommandBody>(&[codec::VERSION, *kind]) {
        Err(error) => error.to_string().contains("UnexpectedVariant"),
        Ok(_) => false,
    };
    (0..u8::MAX).find(unknown).unwrap()
}

/// A command that was answered.
struct Answered {
    request: Option<RequestKey>,
    body: CommandBody,
    reply: Reply,
}

/// Proposes each step at one leader, and again at the next.
async fn live_through(cluster: &Cluster, steps: &[Step]) -> Vec<Answered> {
    let mut answered = Vec::new();
    for (step, number) in steps.iter().zip(1..) {
        let leader = cluster.leader().await;
        let node = cluster.node(leader);
        let body = step(&node.view());
        // These carry a number of their own.
        let own =
            matches!(body, CommandBody::RegisterSession(_) | CommandBody::CommitObjects { .. });
        let request = (!own).then_some(RequestKey { requester: [9; 16], number });
        let (index, reply) = propose_as(node, request, body.clone()).await;
        if matches!(body, CommandBody::InitCluster { .. }) {
            // The level rises by itself; not while hashes are compared.
            let raised = || node.feature_levels().0 == features::NEWEST;
            poll("the level", || raised().then_some(())).await;
        } else {
            cluster.settle(index).await;
        }
        let applied = node.view().applied();
        let before = cluster.settle(applied).await;

        cluster.move_leader(1 + leader % 3).await;
        again(cluster, before, &Answered { request, body: body.clone(), reply: reply.clone() })
            .await;
        answered.push(Answered { request, body, reply });
    }
    answered
}

/// Proposes it again where the leader is now.
async fn again(cluster: &Cluster, before: u128, first: &Answered) {
    let leader = cluster.leader().await;
    let (request, body) = (first.request, first.body.clone());
    let (index, reply) = propose_as(cluster.node(leader), request, body).await;
    assert_eq!(reply, first.reply, "{:?} at controller {leader}", first.body);
    let after = cluster.settle(index).await;
    assert_eq!(after, before, "{:?} at controller {leader} changed something", first.body);
}

/// Replaces a follower by a new controller, which is sent a snapshot, and
/// lets that lead.
async fn lead_from_a_snapshot(cluster: &mut Cluster) {
    let leader = cluster.leader().await;
    let replaced = 1 + leader % 3;
    let dir = tempfile::tempdir().unwrap();
    let (_, disk) = raft::owner(dir.path()).unwrap();
    let body = CommandBody::AllocateController { disk, above: 3 };
    let (_, reply) = propose(cluster.node(leader), body).await;
    let Reply::Controller(id) = reply else { panic!("{reply:?}") };
    raft::assign(dir.path(), id, 0).unwrap();
    cluster.addresses.insert(id, free_address());
    let mut options = options(id, &cluster.addresses, dir.path(), short_log);
    options.founds = false;
    cluster.running.insert(id, start(options).await);
    let address = cluster.addresses[&id].clone();
    cluster.dirs.insert(id, dir);
    cluster.node(leader).add_member(id, &address, disk, replaced).await.unwrap();
    poll("the new controller votes", || {
        let members = cluster.node(leader).members();
        let took_over = |m: &Member| m.id == id && m.voter;
        let gone = members.iter().all(|member| member.id != replaced);
        (gone && members.iter().any(took_over)).then_some(())
    })
    .await;
    cluster.crash(replaced).await;
    cluster.addresses.remove(&replaced);
    cluster.move_leader(id).await;
    let installed = cluster.running[&id].observer.installed.lock().clone();
    assert!(!installed.is_empty(), "it got the state from a snapshot");
}

async fn is_retried(steps: &[Step]) -> BTreeSet<u8> {
    let mut cluster = Cluster::start_at(3, short_log, still).await;
    let answered = live_through(&cluster, steps).await;
    // Nothing was refused because this test aims badly.
    for Answered { body, reply, .. } in &answered {
        assert!(!matches!(reply, Reply::Refused(_)), "{body:?}: {reply:?}");
    }
    lead_from_a_snapshot(&mut cluster).await;
    let mut seen = BTreeSet::new();
    let leader = cluster.leader().await;
    let applied = read_index(cluster.node(leader)).await;
    let before = cluster.settle(applied).await;
    for mut first in answered {
        // An agent that asks so late is told that its session has ended since.
        if let Reply::Session(id) = first.reply
            && sessions::session(&cluster.node(leader).view(), id)
                .unwrap()
                .is_some_and(|session| !session.is_live())
        {
            first.reply = Reply::Refused(Refusal::SessionEnded(id));
        }
        again(&cluster, before, &first).await;
        seen.insert(kind(&first.body));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_is_answered_the_same_by_the_next_leader_and_from_a_snapshot() {
    let mut seen = is_retried(LIFE).await;
    seen.extend(is_retried(RESTORED).await);
    let all: BTreeSet<u8> = (0..kinds()).collect();
    assert_eq!(seen, all, "a command is missing here: number in the order of CommandBody");
}
