use super::room::Coming;
use super::*;
use crate::state::apply;
use crate::state::assignors::Assignor;
use crate::state::command::{
    Command, CommandBody, GenerationKey, GroupJoin, PartitionKey, ProducerEpoch, ProducerRequest,
    Registration, RequestKey,
};
use crate::state::kv::{MemoryKv, Transaction};
use std::sync::Arc;

fn create(name: &str, partitions: u32) -> CommandBody {
    let mut topic = [0; 16];
    topic[..name.len()].copy_from_slice(name.as_bytes());
    CommandBody::CreateTopic { topic, name: name.to_owned(), partitions, config: Vec::new() }
}

fn register(instance: u8) -> CommandBody {
    CommandBody::RegisterSession(Registration {
        instance: [instance; 16],
        address: format!("a:{instance}"),
        group: "default".to_owned(),
        zone: String::new(),
        pid: 1,
        store_url: "memory://t".to_owned(),
    })
}

fn request(number: u64) -> RequestKey {
    RequestKey { requester: [1; 16], number }
}

fn run(kv: &mut MemoryKv, index: u64, request: Option<RequestKey>, body: CommandBody) {
    let command = Command { time_ms: 1_000, request, body };
    let mut tx = Transaction::new(kv);
    apply(&mut tx, index, &command).unwrap();
    let writes = tx.into_writes();
    kv.commit(writes);
}

fn state() -> MemoryKv {
    let mut kv = MemoryKv::default();
    let generation = GenerationKey { counter: 1, random: 1 };
    run(&mut kv, 1, None, CommandBody::InitCluster { cluster: [1; 16], generation });
    kv
}

fn gate() -> Arc<Gate> {
    let limits =
        Limits { topics: 2, topic_partitions: 5, partitions: 8, sessions: 1, ..Limits::default() };
    Arc::new(Gate::new(limits))
}

#[track_caller]
fn limit(gate: &Arc<Gate>, kv: &MemoryKv, body: &CommandBody, says: &str) {
    match gate.admit(|| Ok(kv.clone()), None, body).unwrap() {
        Err(Shut::Limit(message)) => assert!(message.contains(says), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_limit_is_named_with_its_value() {
    let (gate, mut kv) = (gate(), state());
    limit(&gate, &kv, &create("a", 6), "allowed are 1 to 5 (--max-topic-partitions)");
    run(&mut kv, 2, None, create("a", 5));
    limit(&gate, &kv, &create("b", 4), "limit of 8 (--max-partitions)");
    run(&mut kv, 3, None, create("b", 1));
    limit(&gate, &kv, &create("c", 1), "limit of 2 (--max-topics)");
    run(&mut kv, 4, None, register(1));
    limit(&gate, &kv, &register(2), "limit of 1 (--max-sessions)");
    // What is there already adds nothing: it is for the state machine to answer.
    assert!(gate.admit(|| Ok(kv.clone()), None, &register(1)).unwrap().is_ok());
    assert!(gate.admit(|| Ok(kv.clone()), None, &create("a", 5)).unwrap().is_ok());
}

fn join(group: &str, member: u8, topic: u8) -> CommandBody {
    let mut id = [0; 16];
    id[0] = topic;
    CommandBody::JoinGroup(GroupJoin {
        group: group.to_owned(),
        member: [member; 16],
        instance: None,
        client: String::new(),
        topics: vec![id],
        assignor: Assignor::Sticky,
        session_timeout_ms: 10_000,
        is_member: false,
    })
}

fn commit(group: &str, metadata: &str) -> CommandBody {
    let partition = PartitionKey { topic: [1; 16], partition: 0 };
    let offsets = vec![(partition, 1, metadata.to_owned())];
    CommandBody::CommitOffsets { group: group.to_owned(), offsets }
}

#[test]
fn groups_their_members_and_partitions_are_limited() {
    let limits = Limits {
        groups: 1,
        group_members: 1,
        group_partitions: 4,
        offset_metadata_bytes: 3,
        ..Limits::default()
    };
    let (gate, mut kv) = (Arc::new(Gate::new(limits)), state());
    run(&mut kv, 2, None, create("a", 5));
    run(&mut kv, 3, None, create("b", 4));
    limit(&gate, &kv, &join("g", 1, b'a'), "allowed are 4 (--max-group-partitions)");
    run(&mut kv, 4, None, join("g", 1, b'b'));
    limit(&gate, &kv, &join("g", 2, b'b'), "limit of 1 (--max-group-members)");
    limit(&gate, &kv, &join("h", 2, b'b'), "limit of 1 (--max-groups)");
    limit(&gate, &kv, &commit("h", ""), "limit of 1 (--max-groups)");
    // A group, or a member, that is there adds nothing.
    assert!(gate.admit(|| Ok(kv.clone()), None, &join("g", 1, b'b')).unwrap().is_ok());
    assert!(gate.admit(|| Ok(kv.clone()), None, &commit("g", "")).unwrap().is_ok());
    let error = gate.check_batch(&commit("g", "four")).unwrap_err();
    assert!(error.contains("4 bytes, allowed are 3 (--max-offset-metadata-bytes)"), "{error}");
    assert_eq!(*gate.coming.lock(), Coming::default());
}

fn init(name: &str, producer: Option<ProducerEpoch>) -> CommandBody {
    let name = (!name.is_empty()).then(|| name.to_owned());
    CommandBody::InitProducer(ProducerRequest { name, producer })
}

#[test]
fn idempotent_producers_are_limited_and_those_that_are_there_go_on() {
    let limits = Limits { producers: 2, ..Limits::default() };
    let (gate, mut kv) = (Arc::new(Gate::new(limits)), state());
    run(&mut kv, 2, Some(request(1)), init("loader", None));
    // What is on its way counts: `Busy` until it is applied.
    let coming = gate.admit(|| Ok(kv.clone()), None, &init("", None)).unwrap().unwrap();
    let busy = gate.admit(|| Ok(kv.clone()), None, &init("other", None)).unwrap();
    assert!(
        matches!(&busy, Err(Shut::Busy(message)) if message.contains("--max-producers")),
        "{busy:?}"
    );
    run(&mut kv, 3, None, init("", None));
    drop((busy, coming));
    for one_more in [init("", None), init("other", None)] {
        limit(&gate, &kv, &one_more, "limit of 2 (--max-producers)");
    }
    // A name that is taken over, a next epoch, and a repeated request add nobody.
    let first = ProducerEpoch { id: 0, epoch: 0 };
    for body in [init("loader", None), init("", Some(first))] {
        assert!(gate.admit(|| Ok(kv.clone()), None, &body).unwrap().is_ok(), "{body:?}");
    }
    let again = gate.admit(|| Ok(kv.clone()), Some(&request(1)), &init("loader", None));
    assert!(again.unwrap().is_ok());
    assert_eq!(*gate.coming.lock(), Coming::default());
}

#[test]
fn what_was_deleted_makes_room() {
    let (gate, mut kv) = (gate(), state());
    run(&mut kv, 2, None, create("a", 5));
    run(&mut kv, 3, None, create("b", 3));
    run(&mut kv, 4, None, CommandBody::DeleteTopic { name: "a".to_owned() });
    run(&mut kv, 5, None, CommandBody::Continue);
    assert!(gate.admit(|| Ok(kv.clone()), None, &create("c", 5)).unwrap().is_ok());
}

#[test]
fn what_is_on_its_way_counts_until_it_is_answered() {
    let (gate, kv) = (gate(), state());
    let first = gate.admit(|| Ok(kv.clone()), None, &create("a", 5)).unwrap().unwrap();
    let busy = gate.admit(|| Ok(kv.clone()), None, &create("b", 4)).unwrap();
    assert!(
        matches!(&busy, Err(Shut::Busy(message)) if message.contains("--max-partitions")),
        "{busy:?}"
    );
    drop(busy);
    drop(first);
    assert!(gate.admit(|| Ok(kv.clone()), None, &create("b", 4)).unwrap().is_ok());
    assert_eq!(*gate.coming.lock(), Coming::default());
}

#[test]
fn what_was_answered_is_answered_again_at_the_limit() {
    let (gate, mut kv) = (gate(), state());
    run(&mut kv, 2, Some(request(1)), create("a", 5));
    run(&mut kv, 3, None, create("b", 3));
    run(&mut kv, 4, None, CommandBody::DeleteTopic { name: "b".to_owned() });
    run(&mut kv, 5, None, create("c", 3));
    limit(&gate, &kv, &create("d", 1), "limit");
    assert!(gate.admit(|| Ok(kv.clone()), Some(&request(1)), &create("a", 5)).unwrap().is_ok());
}

#[test]
fn a_batch_that_is_too_large_is_refused() {
    let gate = Gate::new(Limits { batch: 2, ..Limits::default() });
    let leases = |count| CommandBody::ReleaseLeases {
        session: 1,
        leases: vec![(PartitionKey { topic: [0; 16], partition: 0 }, 1); count],
    };
    assert_eq!(gate.check_batch(&leases(2)), Ok(()));
    let refused = gate.check_batch(&leases(3)).unwrap_err();
    assert_eq!(refused, "3 leases in one release, allowed are 2 (--max-batch)");
}

#[test]
fn limits_that_cannot_be_kept_are_named() {
    assert_eq!(Limits::default().check(), Ok(()));
    for (limits, says) in [
        (Limits { topics: 0, ..Limits::default() }, "--max-topics 0: allowed are 1 to 10000"),
        (Limits { batch: 5_000, ..Limits::default() }, "--max-batch 5000: allowed are 1 to 4096"),
        (Limits { in_flight_bytes: 1 << 20, ..Limits::default() }, "must hold an entry"),
    ] {
        let error = limits.check().unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
