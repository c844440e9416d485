//! Topics come, grow in chunks, and go without leaving anything.

use crate::machine::{Machine, accepted, key};
use streamhouse_controller::state::command::CommandBody;
use streamhouse_controller::state::reply::{Effect, Refusal, Reply};

#[test]
fn wrong_topics_are_refused_with_the_reason() {
    let mut machine = Machine::new();
    machine.topic("orders", 1);
    let long = "x".repeat(10_000);
    for (name, partitions, word) in [
        ("../x", 1, "'/'"),
        ("", 1, "empty"),
        ("..", 1, "reserved"),
        (long.as_str(), 1, "249"),
        ("zero", 0, "10000"),
        ("many", 10_001, "10000"),
    ] {
        let reply = machine.create(name, partitions);
        let Reply::Refused(Refusal::Invalid(message)) = reply else { panic!("{reply:?}") };
        assert!(message.contains(word), "{message}");
        assert!(message.len() < 300, "{message}");
    }
    let taken = Reply::Refused(Refusal::TopicExists("orders".into()));
    assert_eq!(machine.create("orders", 1), taken);
}

#[test]
fn a_large_topic_is_created_in_chunks_and_ready_at_the_end() {
    let mut machine = Machine::new();
    machine.session("a:1");
    let Reply::Topic(id) = machine.create("wide", 2_500) else { panic!("refused") };
    assert!(machine.effects.contains(&Effect::WorkPending));
    assert!(!machine.effects.contains(&Effect::TopicReady(id)));
    let mut entries = 1;
    while !machine.effects.contains(&Effect::TopicReady(id)) {
        machine.run(CommandBody::Continue);
        entries += 1;
    }
    assert_eq!(entries, 3);
    assert_eq!(machine.partition(key(id, 2_499)).lease_epoch, 1);
}

#[test]
fn a_topic_deleted_and_created_again_is_another_one() {
    let mut machine = Machine::new();
    let session = machine.session("a:1");
    let old = machine.topic("orders", 1);
    let slice = machine.slice(key(old, 0), 10);
    machine.run(CommandBody::DeleteTopic { name: "orders".into() });
    let new = machine.topic("orders", 1);
    assert_ne!(old, new);
    machine.commit(session, 1, vec![slice]);
    assert_eq!(machine.partition(key(new, 0)).next_offset, 0);
}

#[test]
fn deleting_a_topic_leaves_nothing_of_it() {
    let mut machine = Machine::new();
    let session = machine.session("a:1");
    let before = machine.kv.pairs.len();
    let topic = machine.topic("orders", 3);
    for sequence in 1..=1_500 {
        let slice = machine.slice(key(topic, (sequence % 3) as u32), 1);
        accepted(machine.commit(session, sequence, vec![slice]));
    }
    let offsets = vec![(key(topic, 0), 1, String::new())];
    machine.run(CommandBody::CommitOffsets { group: "g".into(), offsets });
    machine.run(CommandBody::DeleteTopic { name: "orders".into() });
    assert_eq!(machine.topic_names(), Vec::<String>::new());
    machine.finish_work();
    // What stays: the session's last 64 results, the group, the count of groups, and when each object left the index,
    // until it is deleted.
    assert_eq!(machine.kv.pairs.len(), before + 64 + 2 + 1_500);
    assert_eq!(machine.loads()[&session], 0);
}

#[test]
fn unknown_topics_cannot_be_deleted() {
    let mut machine = Machine::new();
    let reply = machine.run(CommandBody::DeleteTopic { name: "none".into() });
    assert_eq!(reply, Reply::Refused(Refusal::UnknownTopic("none".into())));
}
