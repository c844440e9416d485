//! The bytes of every command, reply and value, as this release writes them: whatever a controller has on its disk,
//! or sends to one of another release, is among these. `golden.txt` holds them, a line each; lines are only ever
//! added. A line that changes is a change of the format, and needs a version of the codec.

use crate::machine::Machine;
use bincode::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use streamhouse_controller::backup::file::{Encoder, Header};
use streamhouse_controller::codec;
use streamhouse_controller::state::assignors::Assignor;
use streamhouse_controller::state::cluster::Cluster;
use streamhouse_controller::state::collector::{
    Collector, CollectorReply, CollectorStep, Hold, KeptBackups, ObjectName, SweepReport,
    Unindexed, Verdict,
};
use streamhouse_controller::state::command::{
    Command, CommandBody, GenerationKey, GroupJoin, ObjectCommit, ObjectContents, PartitionKey,
    ProducerBatch, ProducerEpoch, ProducerRequest, Registration, RequestKey, RestoreStart,
    RestoredObject, SliceCommit,
};
use streamhouse_controller::state::controllers::{DiskMark, Mark};
use streamhouse_controller::state::groups::{GroupPartition, Member, Membership, Subscription};
use streamhouse_controller::state::offsets::{CommittedOffset, Group};
use streamhouse_controller::state::partitions::Partition;
use streamhouse_controller::state::producers::{Producer, ProducerIds};
use streamhouse_controller::state::reply::{
    BatchFault, BatchRefusal, ObjectReply, Refusal, Reply, SliceReply,
};
use streamhouse_controller::state::requests::Requester;
use streamhouse_controller::state::restore::Restoring;
use streamhouse_controller::state::segments::{IndexEntry, ObjectRecord, Source};
use streamhouse_controller::state::sequences::{Committed, Run};
use streamhouse_controller::state::sessions::Session;
use streamhouse_controller::state::topics::{Topic, TopicStage};

const GOLDEN: &str = include_str!("golden.txt");

/// What was seen of the golden lines, and what differs from them.
struct Golden {
    lines: BTreeMap<&'static str, &'static str>,
    seen: usize,
    wrong: Vec<String>,
}

impl Golden {
    fn check_bytes(&mut self, name: &str, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        match self.lines.get(name) {
            Some(line) if **line == hex => self.seen += 1,
            Some(_) => self.wrong.push(format!("changed: {name} {hex}")),
            None => self.wrong.push(format!("{name} {hex}")),
        }
    }

    fn check<T: Encode + Decode<()> + PartialEq + Debug>(&mut self, name: &str, value: &T) {
        let hex: String = codec::encode(value).iter().map(|b| format!("{b:02x}")).collect();
        match self.lines.get(name) {
            Some(line) if **line == hex => {
                let bytes: Vec<u8> = (0..line.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap())
                    .collect();
                let decoded: T = codec::decode(&bytes).unwrap();
                assert_eq!(decoded, *value, "{name}");
                self.seen += 1;
            }
            Some(_) => self.wrong.push(format!("changed: {name} {hex}")),
            None => self.wrong.push(format!("{name} {hex}")),
        }
    }
}

fn partition() -> PartitionKey {
    PartitionKey { topic: [1; 16], partition: 300 }
}

fn generation() -> GenerationKey {
    GenerationKey { counter: 2, random: 0x0102_0304_0506_0708 }
}

fn slice() -> SliceCommit {
    SliceCommit {
        partition: partition(),
        lease_epoch: 3,
        base_offset: 1_000,
        last_offset: 1_999,
        record_count: 1_000,
        position: 64,
        length: 70_000,
        crc32c: 0xdead_beef,
        append_time_ms: 1_700_000_000_000,
        min_timestamp_ms: -1,
        max_timestamp_ms: 5,
        flags: 1,
        producers: vec![ProducerBatch {
            producer: producer(),
            base_sequence: 70_000,
            records: 1_000,
            offset_delta: 0,
        }],
    }
}

fn producer() -> ProducerEpoch {
    ProducerEpoch { id: 70_000, epoch: 3 }
}

fn mark() -> Mark {
    Mark { node: 2, term: 7, matched_term: 6, matched_index: 70_000 }
}

fn restore_start() -> RestoreStart {
    RestoreStart {
        cluster: [5; 16],
        backup_generation: GenerationKey { counter: 1, random: 7 },
        backup_index: 70_000,
        generation: generation(),
        time_ms: 1_700_000_000_000,
        sessions_upto: 70_000,
        store_url: Some("s3://b/p".into()),
        feature_level: 1,
    }
}

fn bodies() -> Vec<(&'static str, CommandBody)> {
    let object = |contents| ObjectCommit { sequence: 9, size: 80_000, contents };
    let registration = Registration {
        instance: [4; 16],
        address: "agent:1".into(),
        group: "default".into(),
        zone: "a".into(),
        pid: 77,
        store_url: "s3://b/p".into(),
    };
    let objects = vec![
        object(ObjectContents::Written(vec![slice()])),
        object(ObjectContents::Abandoned(vec![partition()])),
    ];
    vec![
        ("init-cluster", CommandBody::InitCluster { cluster: [5; 16], generation: generation() }),
        (
            "create-topic",
            CommandBody::CreateTopic {
                topic: [1; 16],
                name: "orders".into(),
                partitions: 4,
                config: vec![("agent.group".into(), "fast".into())],
            },
        ),
        ("delete-topic", CommandBody::DeleteTopic { name: "orders".into() }),
        ("register-session", CommandBody::RegisterSession(registration)),
        ("end-session", CommandBody::EndSession { session: 12 }),
        ("drain-session", CommandBody::DrainSession { session: 12 }),
        (
            "release-leases",
            CommandBody::ReleaseLeases { session: 12, leases: vec![(partition(), 3)] },
        ),
        ("commit-objects", CommandBody::CommitObjects { session: 12, instance: [4; 16], objects }),
        (
            "commit-offsets",
            CommandBody::CommitOffsets {
                group: "readers".into(),
                offsets: vec![(partition(), 500, "mine".into())],
            },
        ),
        ("continue", CommandBody::Continue),
        ("mark-disks", CommandBody::MarkDisks(vec![DiskMark { disk: [6; 16], mark: mark() }])),
        ("allocate-controller", CommandBody::AllocateController { disk: [6; 16], above: 3 }),
        ("reserve-controllers", CommandBody::ReserveControllers { upto: 5 }),
        ("begin-restore", CommandBody::BeginRestore(restore_start())),
        (
            "restore-pairs",
            CommandBody::RestorePairs {
                restore: generation(),
                part: 300,
                pairs: vec![(vec![0x10, 1], vec![1, 2])],
            },
        ),
        (
            "restore-slices",
            CommandBody::RestoreSlices {
                restore: generation(),
                objects: vec![RestoredObject {
                    generation: generation(),
                    session: 12,
                    sequence: 9,
                    size: 80_000,
                    slices: vec![slice()],
                }],
            },
        ),
        ("end-restore", CommandBody::EndRestore { restore: generation(), parts: 301 }),
        ("raise-feature-level", CommandBody::RaiseFeatureLevel { level: 2 }),
        (
            "init-producer",
            CommandBody::InitProducer(ProducerRequest {
                name: Some("orders-loader".into()),
                producer: Some(producer()),
            }),
        ),
        (
            "join-group",
            CommandBody::JoinGroup(GroupJoin {
                group: "readers".into(),
                member: [8; 16],
                instance: Some("one".into()),
                client: "app".into(),
                topics: vec![[1; 16]],
                assignor: Assignor::Range,
                session_timeout_ms: 10_000,
                is_member: true,
            }),
        ),
        (
            "leave-group",
            CommandBody::LeaveGroup {
                group: "readers".into(),
                members: vec![[8; 16]],
                expired: true,
            },
        ),
        (
            "release-partitions",
            CommandBody::ReleasePartitions {
                group: "readers".into(),
                member: [8; 16],
                partitions: vec![(partition(), 7)],
            },
        ),
        (
            "commit-member-offsets",
            CommandBody::CommitMemberOffsets {
                group: "readers".into(),
                member: [8; 16],
                epoch: 7,
                offsets: vec![(partition(), 500, "mine".into())],
            },
        ),
        ("delete-group", CommandBody::DeleteGroup { group: "readers".into() }),
        (
            "expire-groups",
            CommandBody::ExpireGroups { groups: vec!["readers".into()], idle_before_ms: 9 },
        ),
        (
            "collect-acquire",
            CommandBody::Collect(CollectorStep::Acquire { session: 12, instance: [4; 16] }),
        ),
        (
            "collect-allow",
            CommandBody::Collect(CollectorStep::Allow {
                session: 12,
                epoch: 3,
                grace_ms: 3_600_000,
                backups: KeptBackups { oldest_index: Some(70_000), of_others: true },
                objects: vec![object_name()],
            }),
        ),
        (
            "collect-report",
            CommandBody::Collect(CollectorStep::Report {
                session: 12,
                epoch: 3,
                report: sweep_report(),
            }),
        ),
        ("collect-pause", CommandBody::Collect(CollectorStep::SetPaused(true))),
        ("collect-confirm", CommandBody::Collect(CollectorStep::ConfirmGeneration(generation()))),
        ("collect-hold", CommandBody::Collect(CollectorStep::Hold)),
    ]
}

fn object_name() -> ObjectName {
    ObjectName { generation: generation(), session: 12, sequence: 9 }
}

fn sweep_report() -> SweepReport {
    SweepReport {
        finished_ms: 1_700_000_000_000,
        took_ms: 1_500,
        listed: 300,
        listed_bytes: 70_000,
        orphans: 5,
        orphan_bytes: 500,
        deleted: 4,
        deleted_bytes: 400,
        waiting: 3,
        kept_for_backups: 2,
        unconfirmed: 1,
        foreign: 6,
        errors: 7,
        oldest_orphan_ms: 1_600_000_000_000,
        last_error: "no".into(),
    }
}

fn refusals() -> Vec<(&'static str, Refusal)> {
    vec![
        ("invalid", Refusal::Invalid("no".into())),
        ("unknown-topic", Refusal::UnknownTopic("orders".into())),
        ("unknown-partition", Refusal::UnknownPartition(partition())),
        ("topic-exists", Refusal::TopicExists("orders".into())),
        ("session-ended", Refusal::SessionEnded(12)),
        ("outcome-unknown", Refusal::OutcomeUnknown),
        ("out-of-order", Refusal::OutOfOrder { expected: 10 }),
        ("not-holder", Refusal::NotHolder),
        ("stale", Refusal::Stale),
        ("store-mismatch", Refusal::StoreMismatch { expected: "s3://b/p".into() }),
        ("superseded", Refusal::Superseded),
        ("limit", Refusal::Limit("full".into())),
        ("restoring", Refusal::Restoring),
        ("not-restorable", Refusal::NotRestorable("not empty".into())),
        ("producer-fenced", Refusal::ProducerFenced { producer: producer(), current: 4 }),
        ("unknown-producer", Refusal::UnknownProducer(70_000)),
        ("batches", Refusal::Batches(faults())),
        ("fenced-member", Refusal::FencedMember("readers".into())),
        ("stale-member", Refusal::StaleMember { epoch: 7 }),
        ("not-owner", Refusal::NotOwner(partition())),
        ("group-not-empty", Refusal::GroupNotEmpty { group: "readers".into(), members: 2 }),
        ("unknown-group", Refusal::UnknownGroup("readers".into())),
        ("group-busy", Refusal::GroupBusy("readers".into())),
    ]
}

fn faults() -> Vec<BatchRefusal> {
    let faults = [
        BatchFault::Committed(Some(70_000)),
        BatchFault::Fenced { current: 4 },
        BatchFault::Unknown,
        BatchFault::OutOfOrder { expected: 70_000 },
        BatchFault::TooMany,
    ];
    (0..).zip(faults).map(|(index, fault)| BatchRefusal { index, fault }).collect()
}

fn slice_reply() -> SliceReply {
    SliceReply { refusal: None, lease_epoch: 3, next_offset: 2_000, still_holder: true }
}

fn replies() -> Vec<(&'static str, Reply)> {
    let objects = vec![
        ObjectReply::Processed(vec![slice_reply()]),
        ObjectReply::Refused(Refusal::SessionEnded(12)),
    ];
    vec![
        ("done", Reply::Done),
        ("refused", Reply::Refused(Refusal::Stale)),
        ("topic", Reply::Topic([1; 16])),
        ("session", Reply::Session(12)),
        ("objects", Reply::Objects(objects)),
        ("offsets", Reply::Offsets(vec![None, Some(Refusal::Superseded)])),
        ("continued", Reply::Continued { more: true }),
        ("controller", Reply::Controller(4)),
        ("restoring", Reply::Restoring { generation: generation(), next_part: 300 }),
        ("restored", Reply::Restored(vec![None, Some(Refusal::Stale)])),
        ("producer", Reply::Producer(producer())),
        ("member", Reply::Member { epoch: 7 }),
        ("collector-granted", Reply::Collector(CollectorReply::Granted { epoch: 3 })),
        ("collector-held", Reply::Collector(CollectorReply::Held { holder: 12 })),
        ("collector-paused", Reply::Collector(CollectorReply::Paused)),
        ("collector-allowed", Reply::Collector(CollectorReply::Allowed(verdicts()))),
        ("collector-done", Reply::Collector(CollectorReply::Done)),
        ("collector-clock-apart", Reply::Collector(CollectorReply::ClockApart)),
    ]
}

fn verdicts() -> Vec<Verdict> {
    vec![
        Verdict::Reachable,
        Verdict::Undecided,
        Verdict::Waiting,
        Verdict::InBackup,
        Verdict::Unconfirmed,
        Verdict::Foreign,
        Verdict::Unreachable,
    ]
}

fn values(golden: &mut Golden) {
    golden.check(
        "value cluster",
        &Cluster {
            cluster: [5; 16],
            generation: generation(),
            store_url: Some("s3://b/p".into()),
            feature_level: 1,
        },
    );
    for (name, stage) in [
        ("creating", TopicStage::Creating(1_000)),
        ("ready", TopicStage::Ready),
        ("deleting", TopicStage::Deleting),
    ] {
        let topic = Topic {
            name: "orders".into(),
            partitions: 4,
            config: vec![("agent.group".into(), "fast".into())],
            stage,
            created_ms: 1_700_000_000_000,
        };
        golden.check(&format!("value topic-{name}"), &topic);
    }
    let record = Partition {
        next_offset: 2_000,
        log_start: 10,
        last_stable_offset: 2_000,
        lease_epoch: 3,
        epoch_start_offset: 1_000,
        holder: 12,
        revoke_deadline_ms: 0,
        segments: 2,
        bytes: 140_000,
        producers: 5,
    };
    golden.check("value partition", &record);
    let entry = IndexEntry {
        last_offset: 1_999,
        record_count: 1_000,
        source: Source::L0 { generation: generation(), session: 12, sequence: 9 },
        position: 64,
        length: 70_000,
        crc32c: 0xdead_beef,
        append_time_ms: 1_700_000_000_000,
        min_timestamp_ms: -1,
        max_timestamp_ms: 5,
        lease_epoch: 3,
        flags: 1,
    };
    golden.check("value index-entry", &entry);
    golden.check("value object", &ObjectRecord { size: 80_000, live: 2 });
    let session = Session {
        instance: [4; 16],
        address: "agent:1".into(),
        group: "default".into(),
        zone: "a".into(),
        pid: 77,
        leases: 3,
        revoking: 1,
        draining: false,
        last_sequence: 9,
        registered_ms: 1_700_000_000_000,
        ended_ms: Some(1_700_000_000_001),
    };
    golden.check("value session", &session);
    golden.check("value requester", &Requester { last: 65, used_ms: 1_700_000_000_000 });
    golden.check("value group", &Group { created_ms: 1, committed_ms: 2 });
    let offset = CommittedOffset { offset: 500, metadata: "mine".into(), committed_ms: 2 };
    golden.check("value committed-offset", &offset);
    let ids = ProducerIds { next: 70_001, restored: 5 };
    golden.check("value producer-ids", &ids);
    let record = Producer {
        epoch: 3,
        retired: false,
        name: Some("orders-loader".into()),
        used_ms: 1_700_000_000_000,
    };
    golden.check("value producer", &record);
    let committed = Committed {
        epoch: 3,
        records: 71_000,
        runs: vec![Run { first: 70_000, records: 1_000, base_offset: 1_000 }],
        used_ms: 1_700_000_000_000,
    };
    golden.check("value committed-sequences", &committed);
    golden.check("value mark", &mark());
    let membership = Membership {
        epoch: 7,
        assigned_epoch: 6,
        members: 2,
        assignor: Assignor::RoundRobin,
        emptied_ms: 1_700_000_000_000,
        deleting: false,
    };
    golden.check("value membership", &membership);
    let member = Member {
        joined: 70_000,
        epoch: 5,
        instance: Some("one".into()),
        client: "app".into(),
        subscription: [2; 16],
        assignor: Assignor::Sticky,
        session_timeout_ms: 10_000,
        joined_ms: 1_700_000_000_000,
    };
    golden.check("value member", &member);
    let owned = GroupPartition { owner: Some([8; 16]), granted_epoch: 5, target: Some([9; 16]) };
    golden.check("value group-partition", &owned);
    golden.check("value subscription", &Subscription { topics: vec![[1; 16]], members: 2 });
    let restoring = Restoring { start: restore_start(), next_part: 300, highest_session: 70_001 };
    golden.check("value restoring", &restoring);
    let header = Header {
        cluster: [5; 16],
        generation: generation(),
        index: 70_000,
        time_ms: 1_700_000_000_000,
        sessions_upto: 70_000,
        store_url: Some("s3://b/p".into()),
        feature_level: 1,
    };
    golden.check("backup header", &header);
    let collector = Collector {
        epoch: 3,
        holder: 12,
        renewed_ms: 1_700_000_000_000,
        paused: true,
        confirmed: Some(generation()),
        holds: vec![Hold { index: 70_000, until_ms: 1_700_000_000_000 }],
    };
    golden.check("value collector", &collector);
    golden.check("value sweep-report", &sweep_report());
    let left = Unindexed { generation: generation(), index: 70_000, time_ms: 1_700_000_000_000 };
    golden.check("value unindexed", &left);
    golden.check("value result-processed", &ObjectReply::Processed(vec![slice_reply()]));
    golden.check("value result-refused", &ObjectReply::Refused(Refusal::Stale));
    golden.check("value topic-id", &[1u8; 16]);
    golden.check("value number", &1_700_000_000_000u64);
}

/// A small backup as a whole: its pieces and their checksums.
fn backup(golden: &mut Golden) {
    let mut machine = Machine::new();
    machine.kv.pairs.insert(b"\x10orders".to_vec(), codec::encode(&[1u8; 16]));
    let mut encoder = Encoder::new(machine.kv, 9).unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = encoder.next_piece().unwrap() {
        bytes.extend_from_slice(&piece);
    }
    golden.check_bytes("backup file", &bytes);
}

/// How many variants an encoding has: numbers beyond are none's.
fn variants<T: Decode<()>>() -> usize {
    let unknown = |number: &u8| match codec::decode::<T>(&[codec::VERSION, *number]) {
        Err(error) => error.to_string().contains("UnexpectedVariant"),
        Ok(_) => false,
    };
    usize::from((0..u8::MAX).find(unknown).unwrap())
}

/// How many variants these are of.
fn shown<T: Encode>(values: Vec<(&'static str, T)>) -> usize {
    values.iter().map(|(_, value)| codec::encode(value)[1]).collect::<BTreeSet<_>>().len()
}

/// Whoever appends a variant appends its bytes, too.
#[test]
fn no_command_reply_or_refusal_is_missing() {
    assert_eq!(shown(bodies()), variants::<CommandBody>());
    assert_eq!(shown(replies()), variants::<Reply>());
    assert_eq!(shown(refusals()), variants::<Refusal>());
}

#[test]
fn every_persisted_byte_is_as_it_was_released() {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| line.rsplit_once(' ').expect("a name and its bytes"));
    let mut golden = Golden { lines: lines.collect(), seen: 0, wrong: Vec::new() };
    for (name, body) in bodies() {
        let request = Some(RequestKey { requester: [3; 16], number: 8 });
        let command = Command { time_ms: 1_700_000_000_000, request, body };
        golden.check(&format!("command {name}"), &command);
    }
    let plain = Command { time_ms: 0, request: None, body: CommandBody::Continue };
    golden.check("command without-request", &plain);
    for (name, refusal) in refusals() {
        golden.check(&format!("refusal {name}"), &refusal);
    }
    for (name, reply) in replies() {
        golden.check(&format!("reply {name}"), &reply);
    }
    values(&mut golden);
    backup(&mut golden);
    assert!(golden.wrong.is_empty(), "not in golden.txt:\n{}", golden.wrong.join("\n"));
    assert_eq!(
        golden.seen,
        golden.lines.len(),
        "golden.txt has lines that nothing was checked against"
    );
}
