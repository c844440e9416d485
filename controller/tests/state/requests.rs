//! RETRY for commands that are not commits, and GROUP's order.

use crate::machine::{Machine, key, request};
use streamhouse_controller::state::command::{CommandBody, RequestKey};
use streamhouse_controller::state::offsets::committed;
use streamhouse_controller::state::reply::{Refusal, Reply};

fn create(name: &str, id: u8) -> CommandBody {
    let config = Vec::new();
    CommandBody::CreateTopic { topic: [id; 16], name: name.into(), partitions: 1, config }
}

#[test]
fn a_retried_command_returns_its_first_result() {
    let mut machine = Machine::new();
    let first = machine.run_as(request(1), create("orders", 1));
    // The retry carries another random id; the first result stands.
    let retried = machine.run_as(request(1), create("orders", 2));
    assert_eq!(first, Reply::Topic([1; 16]));
    assert_eq!(retried, first);
}

#[test]
fn a_retried_refusal_is_refused_again_even_if_it_could_succeed_now() {
    let mut machine = Machine::new();
    machine.topic("orders", 1);
    let refused = machine.run_as(request(1), create("orders", 1));
    assert_eq!(refused, Reply::Refused(Refusal::TopicExists("orders".into())));
    machine.run(CommandBody::DeleteTopic { name: "orders".into() });
    assert_eq!(machine.run_as(request(1), create("orders", 1)), refused);
}

#[test]
fn an_old_request_whose_result_is_gone_is_an_unknown_outcome() {
    let mut machine = Machine::new();
    for number in 1..=66 {
        machine.run_as(request(number), CommandBody::DeleteTopic { name: "none".into() });
    }
    let reply = machine.run_as(request(2), create("orders", 1));
    assert_eq!(reply, Reply::Refused(Refusal::OutcomeUnknown));
    assert_eq!(machine.topic_names(), Vec::<String>::new());
}

#[test]
fn a_requester_is_forgotten_a_day_after_its_last_request() {
    let mut machine = Machine::new();
    machine.run_as(request(1), create("orders", 1));
    let size = machine.kv.pairs.len();
    machine.time_ms += 25 * 3_600_000;
    machine.finish_work();
    assert_eq!(machine.kv.pairs.len(), size - 3, "reply, requester and its time");
}

fn commit(machine: &mut Machine, by: u8, number: u64, topic: [u8; 16], offset: u64) -> Reply {
    let request = Some(RequestKey { requester: [by; 16], number });
    let offsets = vec![(key(topic, 0), offset, String::new())];
    machine.run_as(request, CommandBody::CommitOffsets { group: "g".into(), offsets })
}

#[test]
fn an_older_offset_commit_that_arrives_late_is_refused() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 1);
    assert_eq!(commit(&mut machine, 1, 2, topic, 20), Reply::Offsets(vec![None]));
    let late = commit(&mut machine, 1, 1, topic, 10);
    assert_eq!(late, Reply::Offsets(vec![Some(Refusal::Superseded)]));
    // Another consumer may set it back; the late one stays late.
    assert_eq!(commit(&mut machine, 2, 1, topic, 5), Reply::Offsets(vec![None]));
    let late = commit(&mut machine, 1, 1, topic, 10);
    assert_eq!(late, Reply::Offsets(vec![Some(Refusal::Superseded)]));
    let now = committed(&machine.kv, "g", &key(topic, 0)).unwrap();
    assert_eq!(now.map(|committed| committed.offset), Some(5));
}

#[test]
fn offsets_of_unknown_partitions_are_refused_one_by_one() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 1);
    let offsets = vec![(key(topic, 0), 1, String::new()), (key(topic, 1), 1, String::new())];
    let reply = machine.run(CommandBody::CommitOffsets { group: "g".into(), offsets });
    let refusal = Refusal::UnknownPartition(key(topic, 1));
    assert_eq!(reply, Reply::Offsets(vec![None, Some(refusal)]));
}

#[test]
fn the_largest_request_number_is_a_number_like_any_other() {
    let mut machine = Machine::new();
    machine.run_as(request(1), create("orders", 1));
    let last = machine.run_as(request(u64::MAX), create("more", 2));
    assert_eq!(machine.run_as(request(u64::MAX), create("more", 3)), last);
    let reply = machine.run_as(request(1), create("orders", 1));
    assert_eq!(reply, Reply::Refused(Refusal::OutcomeUnknown));
}
