//! Who gets which partition.

use crate::machine::{Machine, key};
use streamhouse_controller::state::command::{CommandBody, PartitionKey};
use streamhouse_controller::state::leases::{REVOKE_TIMEOUT_MS, held_by};
use streamhouse_controller::state::reply::{Refusal, Reply};

fn revoked_of(machine: &Machine, session: u64) -> Vec<(PartitionKey, u32)> {
    let held = held_by(&machine.kv, session, usize::MAX).unwrap();
    let partitions = held.into_iter().map(|p| (p, machine.partition(p)));
    partitions.filter(|(_, p)| p.revoke_deadline_ms != 0).map(|(k, p)| (k, p.lease_epoch)).collect()
}

fn release(machine: &mut Machine, session: u64) -> usize {
    let leases = revoked_of(machine, session);
    let count = leases.len();
    machine.run(CommandBody::ReleaseLeases { session, leases });
    count
}

#[test]
fn partitions_are_spread_evenly_over_sessions() {
    let mut machine = Machine::new();
    let (a, b) = (machine.session("a:1"), machine.session("b:1"));
    machine.topic("orders", 7);
    let loads = machine.loads();
    assert_eq!((loads[&a], loads[&b]), (4, 3));
}

#[test]
fn partitions_without_an_agent_wait_for_one() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 3);
    assert_eq!(machine.partition(key(topic, 0)).holder, 0);
    let session = machine.session("a:1");
    assert_eq!(machine.loads()[&session], 3);
}

#[test]
fn a_joining_agent_gets_its_share_with_the_fewest_moves_and_only_after_release() {
    let mut machine = Machine::new();
    let first = machine.session("a:1");
    machine.topic("orders", 8);
    let second = machine.session("b:1");
    assert_eq!(revoked_of(&machine, first).len(), 4, "half of them move, the others stay");
    assert_eq!(machine.loads()[&second], 0, "nothing is granted before it was released");

    assert_eq!(release(&mut machine, first), 4);
    let loads = machine.loads();
    assert_eq!((loads[&first], loads[&second]), (4, 4));
    assert_eq!(revoked_of(&machine, first), []);
}

#[test]
fn a_holder_that_does_not_release_in_time_loses_the_lease() {
    let mut machine = Machine::new();
    let first = machine.session("a:1");
    let topic = machine.topic("orders", 2);
    let second = machine.session("b:1");
    let before = machine.partition(key(topic, 1));
    assert_ne!(before.revoke_deadline_ms, 0);

    machine.time_ms += REVOKE_TIMEOUT_MS - 1;
    machine.finish_work();
    assert_eq!(machine.partition(key(topic, 1)).holder, first);
    machine.time_ms += 2;
    machine.finish_work();
    let after = machine.partition(key(topic, 1));
    assert_eq!(after.holder, second);
    assert_eq!(after.lease_epoch, before.lease_epoch + 1);
}

#[test]
fn an_ended_session_loses_everything_in_the_same_entry() {
    let mut machine = Machine::new();
    let (a, b) = (machine.session("a:1"), machine.session("b:1"));
    let topic = machine.topic("orders", 10);
    machine.run(CommandBody::EndSession { session: a });
    for partition in 0..10 {
        assert_eq!(machine.partition(key(topic, partition)).holder, b);
    }
    assert_eq!(machine.loads(), [(b, 10)].into());
}

#[test]
fn the_end_of_a_session_with_very_many_partitions_goes_in_chunks() {
    let mut machine = Machine::new();
    let a = machine.session("a:1");
    let topic = machine.topic("wide", 5_000);
    let b = machine.session("b:1");
    machine.run(CommandBody::EndSession { session: a });
    let moved = (0..5_000).filter(|p| machine.partition(key(topic, *p)).holder == b).count();
    assert_eq!(moved, 4_096);
    machine.finish_work();
    assert_eq!(machine.loads(), [(b, 5_000)].into());
}

#[test]
fn draining_revokes_everything_and_grants_nothing_new() {
    let mut machine = Machine::new();
    let (a, b) = (machine.session("a:1"), machine.session("b:1"));
    machine.topic("orders", 6);
    machine.run(CommandBody::DrainSession { session: a });
    machine.topic("more", 2);
    assert_eq!(machine.loads()[&a], 3);
    assert_eq!(release(&mut machine, a), 3);
    let loads = machine.loads();
    assert_eq!((loads[&a], loads[&b]), (0, 8));
}

#[test]
fn an_agent_that_starts_again_under_its_address_takes_over_at_once() {
    let mut machine = Machine::new();
    let before = machine.session("a:1");
    let topic = machine.topic("orders", 3);
    let after = machine.session("a:1");
    assert_eq!(machine.loads(), [(after, 3)].into());
    assert_eq!(machine.partition(key(topic, 0)).holder, after);
    assert_ne!(before, after);
}

#[test]
fn a_retried_registration_finds_its_session() {
    let mut machine = Machine::new();
    let first = machine.register("a:1", 77);
    assert_eq!(machine.register("a:1", 77), first);
    let Reply::Session(session) = first else { panic!("{first:?}") };
    machine.run(CommandBody::EndSession { session });
    let refused = Reply::Refused(Refusal::SessionEnded(session));
    assert_eq!(machine.register("a:1", 77), refused);
}

#[test]
fn an_agent_with_another_store_is_refused() {
    let mut machine = Machine::new();
    machine.session("a:1");
    let reply = machine.run(CommandBody::RegisterSession(
        streamhouse_controller::state::command::Registration {
            instance: [5; 16],
            address: "b:1".into(),
            group: "default".into(),
            zone: String::new(),
            pid: 1,
            store_url: "s3://elsewhere".into(),
        },
    ));
    let expected = crate::machine::STORE.to_owned();
    assert_eq!(reply, Reply::Refused(Refusal::StoreMismatch { expected }));
}

#[test]
fn a_lease_released_twice_in_one_call_is_released_once() {
    let mut machine = Machine::new();
    let a = machine.session("a:1");
    machine.topic("orders", 2);
    let b = machine.session("b:1");
    let revoked = revoked_of(&machine, a);
    let twice = revoked.iter().chain(&revoked).copied().collect();
    machine.run(CommandBody::ReleaseLeases { session: a, leases: twice });
    assert_eq!(machine.loads(), [(a, 1), (b, 1)].into());
    assert_eq!(held_by(&machine.kv, a, 10).unwrap().len(), 1);
}

#[test]
fn a_rebalance_of_very_many_partitions_goes_on_until_the_shares_are_equal() {
    let mut machine = Machine::new();
    let a = machine.session("a:1");
    machine.topic("wide", 10_000);
    let b = machine.session("b:1");
    machine.finish_work();
    assert_eq!(revoked_of(&machine, a).len(), 5_000);
    while release_some(&mut machine, a) > 0 {}
    assert_eq!(machine.loads(), [(a, 5_000), (b, 5_000)].into());
}

fn release_some(machine: &mut Machine, session: u64) -> usize {
    let mut leases = revoked_of(machine, session);
    leases.truncate(4_096);
    let count = leases.len();
    machine.run(CommandBody::ReleaseLeases { session, leases });
    count
}
