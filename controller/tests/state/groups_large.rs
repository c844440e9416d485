//! A group of thousands: no entry grows with it beyond its bound, everybody
//! gets its share, and nothing is left of it.

use crate::groups::{asked, join, wish};
use crate::machine::Machine;
use std::collections::BTreeMap;
use streamhouse_controller::state::command::{CommandBody, GroupJoin, PartitionKey};
use streamhouse_controller::state::groups::{
    self, GroupPartition, MemberId, membership, owned_by, partitions,
};
use streamhouse_controller::state::reply::{Effect, Reply};
use streamhouse_controller::state::{MAX_BATCH, work};

const G: &str = "g";
const MEMBERS: usize = 5_000;
const PARTITIONS: usize = 10_000;
/// So many join before anything is assigned.
const WAVE: usize = 1_000;

fn id(number: usize) -> MemberId {
    (number as u128 + 1).to_be_bytes()
}

fn records(machine: &Machine) -> BTreeMap<PartitionKey, GroupPartition> {
    partitions(&machine.kv, G).unwrap().into_iter().collect()
}

/// BOUND: runs one entry of the assignment, which changes no more partitions,
/// and tells of no more, than an entry may.
fn assign(machine: &mut Machine) {
    let before = records(machine);
    machine.run(CommandBody::Continue);
    let after = records(machine);
    let added = after.keys().filter(|key| !before.contains_key(key)).count();
    let changed = before.iter().filter(|(key, record)| after.get(key) != Some(record)).count();
    assert!(added + changed <= MAX_BATCH, "{added} partitions added, {changed} changed");
    for effect in &machine.effects {
        if let Effect::Assigned { owners, .. } = effect {
            assert!(owners.len() <= MAX_BATCH, "{} moves", owners.len());
        }
    }
}

/// Everything is assigned, and given up where it is asked for. How many
/// entries the assignment took.
fn settle(machine: &mut Machine, members: &[MemberId]) -> usize {
    let mut entries = 0;
    while work::is_due(&machine.kv, machine.time_ms).unwrap() {
        assign(machine);
        entries += 1;
    }
    for member in members {
        let partitions = asked(machine, member);
        if !partitions.is_empty() {
            let (group, member) = (G.into(), *member);
            let released = CommandBody::ReleasePartitions { group, member, partitions };
            assert_eq!(machine.run(released), Reply::Done);
        }
    }
    assert!(!work::is_due(&machine.kv, machine.time_ms).unwrap());
    entries
}

/// Everybody owns its share, and all of it.
fn assert_balanced(machine: &Machine, members: &[MemberId]) {
    let shared = membership(&machine.kv, G).unwrap().unwrap();
    assert_eq!(shared.members as usize, members.len());
    let share = PARTITIONS / members.len();
    let owned = members.iter().map(|member| owned_by(&machine.kv, G, member).unwrap().len());
    let owned: Vec<_> = owned.collect();
    assert!(owned.iter().all(|count| (share..=share + 1).contains(count)));
    assert_eq!(owned.iter().sum::<usize>(), PARTITIONS);
}

fn leave(machine: &mut Machine, members: &[MemberId], expired: bool) {
    let members = members.to_vec();
    let reply = machine.run(CommandBody::LeaveGroup { group: G.into(), members, expired });
    assert_eq!(reply, Reply::Done);
    // However much they had, it is not handed out in this entry.
    assert!(!machine.effects.iter().any(|effect| matches!(effect, Effect::Assigned { .. })));
}

#[test]
fn five_thousand_members_join_and_leave() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", PARTITIONS as u32);
    let before = machine.kv.pairs.clone();
    let members: Vec<MemberId> = (0..MEMBERS).map(id).collect();
    for come in (WAVE..=MEMBERS).step_by(WAVE) {
        for member in &members[come - WAVE..come] {
            join(&mut machine, GroupJoin { member: *member, ..wish(0, &[topic]) });
        }
        let entries = settle(&mut machine, &members[..come]);
        assert!(entries <= PARTITIONS / MAX_BATCH + 1, "{entries} entries");
        assert_balanced(&machine, &members[..come]);
    }
    // A fifth leaves, one after another; then as many fall silent as one entry may end.
    let (leaving, staying) = members.split_at(WAVE);
    for member in leaving {
        leave(&mut machine, &[*member], false);
    }
    settle(&mut machine, staying);
    assert_balanced(&machine, staying);
    let (silent, left) = staying.split_at(staying.len() - 7);
    leave(&mut machine, silent, true);
    settle(&mut machine, left);
    assert_balanced(&machine, left);
    leave(&mut machine, left, true);
    settle(&mut machine, &[]);
    assert!(partitions(&machine.kv, G).unwrap().is_empty());
    assert!(groups::members(&machine.kv, G).unwrap().is_empty());
    assert_eq!(machine.run(CommandBody::DeleteGroup { group: G.into() }), Reply::Done);
    machine.finish_work();
    assert_eq!(machine.kv.pairs, before, "nothing is left of it");
}
