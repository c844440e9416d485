//! The bytes of whatever this folder keeps on the disk or sends to another
//! release, as they were first written. `golden.txt` holds them, a line each;
//! a line that changes is a change of the format.

use super::db::Db;
use super::entry;
use super::hash;
use super::message::{self, Envelope, ForwardAnswer, Forwarded};
use super::meta::{self, AppliedMeta, Identity};
use super::snapshot_file;
use super::snapshot_store::SnapshotStore;
use super::state_store::StateStore;
use super::synced::{Synced, SyncedFile};
use super::types::{
    AppendRequest, ControllerNode, EncodedCommand, Entry, LogId, Payload, StoredMembership, Vote,
};
use crate::codec;
use crate::state::command::{Command, CommandBody, GenerationKey, RequestKey};
use crate::state::features;
use crate::state::reply::Reply;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const GOLDEN: &str = include_str!("golden.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn golden() -> BTreeMap<&'static str, &'static str> {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).collect()
}

fn membership() -> openraft::Membership<u64, ControllerNode> {
    let node = |id: u64, replaces| {
        let address = format!("c{id}:7601");
        (id, ControllerNode { address, disk: [id as u8; 16], replaces })
    };
    let nodes = BTreeMap::from([node(1, 0), node(2, 0), node(3, 0), node(4, 2)]);
    let voters = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 3, 4])];
    openraft::Membership::new(voters, nodes).unwrap()
}

fn init() -> Command {
    let generation = GenerationKey { counter: 1, random: 7 };
    let body = CommandBody::InitCluster { cluster: [5; 16], generation };
    Command { time_ms: 1_700_000_000_000, request: None, body }
}

fn entries() -> Vec<Entry> {
    let at = |index, payload| Entry { log_id: LogId::new_term_index(3, index), payload };
    vec![
        at(1, Payload::Blank),
        at(2, Payload::Membership(membership())),
        at(300, Payload::Normal(EncodedCommand(codec::encode(&init()).into()))),
    ]
}

fn applied() -> AppliedMeta {
    let at = LogId::new_term_index(3, 2);
    AppliedMeta {
        last_applied: Some(LogId::new_term_index(3, 300)),
        membership: StoredMembership::new(Some(at), membership()),
        state_hash: hash::of_pair(b"key", b"value"),
        cluster: Some([5; 16]),
    }
}

fn answers() -> Vec<(&'static str, ForwardAnswer)> {
    vec![
        ("applied", ForwardAnswer::Applied(300, Reply::Topic([1; 16]))),
        ("not-leader", ForwardAnswer::NotLeader),
        ("too-large", ForwardAnswer::TooLarge { bytes: 5_000_000, limit: 4_194_304 }),
        ("overloaded", ForwardAnswer::Overloaded),
        ("indeterminate", ForwardAnswer::Indeterminate("lost".into())),
        ("shutting-down", ForwardAnswer::ShuttingDown),
        ("shed", ForwardAnswer::Shed("full".into())),
        (
            "feature-level",
            ForwardAnswer::FeatureLevel { needs: 2, level: 1, why: "waiting".into() },
        ),
    ]
}

/// The state after the first entry of a cluster, as a snapshot of it.
fn snapshot() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(Db::open(dir.path(), 1).unwrap().0);
    let snapshots = SnapshotStore::open(dir.path()).unwrap();
    let store = StateStore::open(db, snapshots, features::NEWEST).unwrap();
    store.apply(&mut AppliedMeta::default(), &entries());
    let path = dir.path().join("written");
    snapshot_file::write(&path, &store.view().unwrap()).unwrap();
    std::fs::read(path).unwrap()
}

fn note() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = SyncedFile::open(dir.path()).unwrap();
    file.note(&Synced { last: Some(LogId::new_term_index(3, 300)), vote_term: 4 }).unwrap();
    std::fs::read(dir.path().join(super::synced::NAME)).unwrap()
}

fn append() -> Vec<u8> {
    let request = AppendRequest {
        vote: Vote::new_committed(3, 2),
        prev_log_id: Some(LogId::new_term_index(2, 299)),
        leader_commit: Some(LogId::new_term_index(2, 298)),
        entries: entries(),
    };
    let envelope = Envelope { from: 2, from_disk: [2; 16], to_disk: [3; 16] };
    envelope.seal(|body| message::encode_append(&request, body)).to_vec()
}

fn all() -> Vec<(String, Vec<u8>)> {
    let identity = Identity { node: 4, disk: [9; 16], alias: 2 };
    let request = Some(RequestKey { requester: [3; 16], number: 300 });
    let body = CommandBody::EndSession { session: 12 };
    let mut all = vec![
        ("identity".to_owned(), codec::encode_serde(&identity)),
        ("vote".into(), codec::encode_serde(&Vote::new(4, 2))),
        ("vote committed".into(), codec::encode_serde(&Vote::new_committed(4, 2))),
        ("log-id".into(), codec::encode_serde(&LogId::new_term_index(3, 300))),
        ("applied".into(), codec::encode_serde(&applied())),
        ("synced".into(), note()),
        ("snapshot file".into(), snapshot()),
        ("append".into(), append()),
        ("forwarded".into(), codec::encode(&Forwarded { request, body })),
    ];
    for (name, entry) in ["blank", "membership", "command"].iter().zip(entries()) {
        let mut bytes = Vec::new();
        entry::encode(&entry, &mut bytes);
        all.push((format!("entry {name}"), bytes));
    }
    let answers = answers().into_iter();
    all.extend(answers.map(|(name, answer)| (format!("answer {name}"), codec::encode(&answer))));
    all
}

#[test]
fn every_byte_is_as_it_was_released() {
    let golden = golden();
    let all = all();
    let differs =
        all.iter().filter(|(name, bytes)| golden.get(name.as_str()) != Some(&&*hex(bytes)));
    let differs: Vec<String> =
        differs.map(|(name, bytes)| format!("{name} {}", hex(bytes))).collect();
    assert!(differs.is_empty(), "not in golden.txt:\n{}", differs.join("\n"));
    assert_eq!(all.len(), golden.len(), "golden.txt has lines that nothing was checked against");
}

#[test]
fn no_answer_of_a_leader_is_missing() {
    let unknown = |number: &u8| match codec::decode::<ForwardAnswer>(&[codec::VERSION, *number]) {
        Err(error) => error.to_string().contains("UnexpectedVariant"),
        Ok(_) => false,
    };
    assert_eq!(answers().len(), usize::from((0..u8::MAX).find(unknown).unwrap()));
}

/// What an older release left is read from its bytes, not from ours.
#[test]
fn the_released_bytes_are_read() {
    let golden = golden();
    let bytes = |name: &str| unhex(golden[name]);
    let serde = |name: &str| bytes(name);
    let identity: Identity = codec::decode_serde(&serde("identity")).unwrap();
    assert!(identity.answers_to(2) && identity.answers_to(4));
    assert_eq!(codec::decode_serde::<Vote>(&serde("vote")).unwrap(), Vote::new(4, 2));
    assert_eq!(AppliedMeta::decode(Some(&bytes("applied"))).unwrap(), applied());
    for (name, entry) in ["blank", "membership", "command"].iter().zip(entries()) {
        let bytes = bytes(&format!("entry {name}"));
        assert_eq!(entry::decode(bytes.into()).unwrap(), entry, "{name}");
    }
    let (envelope, message) = Envelope::open(bytes("append").into()).unwrap();
    assert_eq!((envelope.from, envelope.to_disk), (2, [3; 16]));
    assert_eq!(message::decode_append(message).unwrap().entries, entries());
    for (name, answer) in answers() {
        let found: ForwardAnswer = codec::decode(&bytes(&format!("answer {name}"))).unwrap();
        assert_eq!(found, answer, "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(super::synced::NAME), bytes("synced")).unwrap();
    let note = SyncedFile::open(dir.path()).unwrap().1.unwrap();
    assert_eq!((note.last, note.vote_term), (Some(LogId::new_term_index(3, 300)), 4));
}

/// A snapshot of an older release is installed, and the log goes on from it.
#[test]
fn a_released_snapshot_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("old");
    std::fs::write(&file, unhex(golden()["snapshot file"])).unwrap();
    assert_eq!(snapshot_file::feature_level(&file).unwrap(), features::OLDEST);
    let db = Arc::new(Db::open(dir.path(), 1).unwrap().0);
    let snapshots = SnapshotStore::open(dir.path()).unwrap();
    let store = StateStore::open(db.clone(), snapshots, features::OLDEST).unwrap();
    let received = super::snapshot_store::SnapshotFile {
        path: file.clone(),
        file: Arc::new(std::fs::File::open(&file).unwrap()),
        verified: false,
    };
    let installed = store.install(&received).unwrap();
    assert_eq!(installed.last_applied, Some(LogId::new_term_index(3, 300)));
    assert_eq!(AppliedMeta::load(&db).unwrap(), installed);
    assert!(db.get_raft(meta::INSTALLING).unwrap().is_none());
    assert_eq!(store.feature_level().unwrap(), Some(features::OLDEST));
}
