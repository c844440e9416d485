//! GROUP: members, what they own, and who may commit.

use crate::machine::{Machine, key};
use streamhouse_controller::state::MAX_BATCH;
use streamhouse_controller::state::assignors::Assignor;
use streamhouse_controller::state::command::{CommandBody, GroupJoin, PartitionKey, TopicKey};
use streamhouse_controller::state::groups::{
    self, MAX_SUBSCRIPTIONS, MemberId, idle_since_ms, membership, owned_by, partition, partitions,
};
use streamhouse_controller::state::offsets::{committed, group_count};
use streamhouse_controller::state::reply::{Effect, LeftBecause, MovedBecause, Refusal, Reply};

const G: &str = "g";

pub(crate) fn wish(member: u8, topics: &[TopicKey]) -> GroupJoin {
    GroupJoin {
        group: G.into(),
        member: [member; 16],
        instance: None,
        client: "test".into(),
        topics: topics.to_vec(),
        assignor: Assignor::Sticky,
        session_timeout_ms: 10_000,
        is_member: false,
    }
}

pub(crate) fn join(machine: &mut Machine, join: GroupJoin) -> u32 {
    match machine.run(CommandBody::JoinGroup(join)) {
        Reply::Member { epoch } => epoch,
        other => panic!("{other:?}"),
    }
}

/// Joins, and lets the assignment be computed.
fn joined(machine: &mut Machine, member: u8, topics: &[TopicKey]) {
    join(machine, wish(member, topics));
    machine.finish_work();
}

fn leave(machine: &mut Machine, member: u8) {
    let members = vec![[member; 16]];
    machine.run(CommandBody::LeaveGroup { group: G.into(), members, expired: false });
}

fn owned(machine: &Machine, member: u8) -> Vec<u32> {
    let owned = owned_by(&machine.kv, G, &[member; 16]).unwrap();
    owned.into_iter().map(|(key, _)| key.partition).collect()
}

/// What the member is asked to give up, by the epochs of their grants.
pub(crate) fn asked(machine: &Machine, member: &MemberId) -> Vec<(PartitionKey, u32)> {
    let owned = owned_by(&machine.kv, G, member).unwrap().into_iter();
    let asked = owned.filter(|(_, record)| record.target.as_ref() != Some(member));
    asked.map(|(key, record)| (key, record.granted_epoch)).collect()
}

fn release(machine: &mut Machine, member: u8) {
    let partitions = asked(machine, &[member; 16]);
    let reply = machine.run(CommandBody::ReleasePartitions {
        group: G.into(),
        member: [member; 16],
        partitions,
    });
    assert_eq!(reply, Reply::Done);
}

/// Why partitions changed hands in the last entry, each reason once for those that follow each other.
fn reasons(machine: &Machine) -> Vec<MovedBecause> {
    let owners = machine.effects.iter().filter_map(|effect| match effect {
        Effect::Assigned { owners, .. } => Some(owners),
        _ => None,
    });
    let mut reasons: Vec<_> = owners.flatten().map(|change| change.why).collect();
    reasons.dedup();
    reasons
}

fn epoch(machine: &Machine) -> u32 {
    membership(&machine.kv, G).unwrap().unwrap().epoch
}

fn commit(machine: &mut Machine, member: u8, epoch: u32, at: PartitionKey, offset: u64) -> Reply {
    machine.run(CommandBody::CommitMemberOffsets {
        group: G.into(),
        member: [member; 16],
        epoch,
        offsets: vec![(at, offset, String::new())],
    })
}

fn commit_alone(machine: &mut Machine, at: PartitionKey, offset: u64) -> Reply {
    let offsets = vec![(at, offset, String::new())];
    machine.run(CommandBody::CommitOffsets { group: G.into(), offsets })
}

fn fenced() -> Reply {
    Reply::Refused(Refusal::FencedMember(G.into()))
}

#[test]
fn a_partition_moves_only_once_its_owner_gave_it_up() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 4);
    joined(&mut machine, 1, &[topic]);
    assert_eq!(owned(&machine, 1), [0, 1, 2, 3]);
    assert_eq!(reasons(&machine), [MovedBecause::Unowned]);
    joined(&mut machine, 2, &[topic]);
    // The newcomer waits: everything still is the first one's.
    assert_eq!((owned(&machine, 1), owned(&machine, 2)), (vec![0, 1, 2, 3], vec![]));
    assert_eq!(asked(&machine, &[1; 16]).len(), 2);
    release(&mut machine, 1);
    assert_eq!((owned(&machine, 1), owned(&machine, 2)), (vec![0, 1], vec![2, 3]));
    assert_eq!(reasons(&machine), [MovedBecause::Released]);
}

#[test]
fn a_member_that_was_ended_does_not_come_back_under_its_id() {
    let mut machine = Machine::new();
    let (topic, other) = (machine.topic("orders", 2), machine.topic("payments", 2));
    joined(&mut machine, 1, &[topic]);
    // A member changes what it wants.
    let change = GroupJoin { is_member: true, ..wish(1, &[topic, other]) };
    join(&mut machine, change.clone());
    leave(&mut machine, 1);
    // GROUP: ended meanwhile, it may still read what it had; as a member it would be told that it lives.
    assert_eq!(machine.run(CommandBody::JoinGroup(change)), fenced());
}

#[test]
fn who_keeps_its_partitions_is_not_told() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 3);
    for member in [1, 2, 3] {
        joined(&mut machine, member, &[topic]);
        for owner in 1..member {
            release(&mut machine, owner);
        }
    }
    leave(&mut machine, 3);
    machine.run(CommandBody::Continue);
    let told = machine.effects.iter().find_map(|effect| match effect {
        Effect::Assigned { members, .. } => Some(members.clone()),
        _ => None,
    });
    // One inherits the partition; the other reads on.
    assert_eq!(told.unwrap(), [[1; 16], [3; 16]]);
}

#[test]
fn joining_again_is_answered_alike_and_changes_nothing() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 2);
    let first = join(&mut machine, wish(1, &[topic]));
    machine.finish_work();
    let before = machine.kv.pairs.clone();
    assert_eq!(join(&mut machine, wish(1, &[topic])), first);
    assert_eq!(machine.kv.pairs, before);
}

#[test]
fn a_changed_subscription_takes_and_gives_partitions() {
    let mut machine = Machine::new();
    let (orders, clicks) = (machine.topic("orders", 2), machine.topic("clicks", 1));
    joined(&mut machine, 1, &[orders]);
    joined(&mut machine, 1, &[clicks]);
    // What it no longer subscribes to it is to give up, and nobody else gets it.
    assert_eq!(asked(&machine, &[1; 16]).len(), 2);
    assert_eq!(owned(&machine, 1).len(), 3);
    release(&mut machine, 1);
    let left: Vec<_> = partitions(&machine.kv, G).unwrap().into_iter().map(|(k, _)| k).collect();
    assert_eq!(left, [key(clicks, 0)]);
}

#[test]
fn a_member_that_leaves_is_fenced_and_its_partitions_go_at_once() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 2);
    joined(&mut machine, 1, &[topic]);
    joined(&mut machine, 2, &[topic]);
    release(&mut machine, 1);
    let seen = epoch(&machine);
    leave(&mut machine, 2);
    // Fenced from this entry on, not only when the partition has moved.
    assert_eq!(commit(&mut machine, 2, seen, key(topic, 1), 5), fenced());
    machine.finish_work();
    assert_eq!(owned(&machine, 1), [0, 1]);
    assert_eq!(reasons(&machine), [MovedBecause::OwnerGone]);
}

#[test]
fn a_zombie_s_commit_is_refused_with_an_error_of_its_own() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 1);
    joined(&mut machine, 1, &[topic]);
    let seen = epoch(&machine);
    assert_eq!(commit(&mut machine, 1, seen, key(topic, 0), 5), Reply::Offsets(vec![None]));
    let members = vec![[1; 16]];
    machine.run(CommandBody::LeaveGroup { group: G.into(), members, expired: true });
    joined(&mut machine, 2, &[topic]);
    assert_eq!(commit(&mut machine, 1, seen, key(topic, 0), 9), fenced());
    let now = committed(&machine.kv, G, &key(topic, 0)).unwrap().unwrap();
    assert_eq!(now.offset, 5);
}

#[test]
fn a_commit_of_an_earlier_grant_is_stale_even_if_the_partition_came_back() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 2);
    joined(&mut machine, 1, &[topic]);
    let early = epoch(&machine);
    joined(&mut machine, 2, &[topic]);
    let (at, granted) = asked(&machine, &[1; 16])[0];
    release(&mut machine, 1);
    let refusal = Reply::Offsets(vec![Some(Refusal::NotOwner(at))]);
    let seen = epoch(&machine);
    assert_eq!(commit(&mut machine, 1, seen, at, 7), refusal);
    leave(&mut machine, 2);
    machine.finish_work();
    // It owns the partition again: a commit from before, and a release, are told apart.
    assert_eq!(owned(&machine, 1), [0, 1]);
    assert_eq!(commit(&mut machine, 1, early, at, 7), refusal);
    let (group, member) = (G.into(), [1; 16]);
    let partitions = vec![(at, granted)];
    machine.run(CommandBody::ReleasePartitions { group, member, partitions });
    assert_eq!(owned(&machine, 1), [0, 1]);
    let seen = epoch(&machine);
    assert_eq!(commit(&mut machine, 1, seen, at, 8), Reply::Offsets(vec![None]));
}

#[test]
fn an_epoch_before_its_joining_or_beyond_the_group_s_is_stale() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 1);
    joined(&mut machine, 1, &[topic]);
    let seen = epoch(&machine);
    for wrong in [0, seen + 1] {
        let reply = commit(&mut machine, 1, wrong, key(topic, 0), 5);
        assert_eq!(reply, Reply::Refused(Refusal::StaleMember { epoch: seen }));
    }
}

#[test]
fn only_members_commit_while_there_are_any() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 1);
    assert_eq!(commit_alone(&mut machine, key(topic, 0), 3), Reply::Offsets(vec![None]));
    joined(&mut machine, 1, &[topic]);
    let refusal = Refusal::GroupNotEmpty { group: G.into(), members: 1 };
    let refused = Reply::Refused(refusal);
    assert_eq!(commit_alone(&mut machine, key(topic, 0), 0), refused);
    // Nor does an operator remove it.
    assert_eq!(machine.run(CommandBody::DeleteGroup { group: G.into() }), refused);
    leave(&mut machine, 1);
    assert_eq!(commit_alone(&mut machine, key(topic, 0), 0), Reply::Offsets(vec![None]));
}

fn static_wish(member: u8, topic: TopicKey) -> GroupJoin {
    GroupJoin { instance: Some("one".into()), ..wish(member, &[topic]) }
}

#[test]
fn a_static_member_that_starts_again_moves_nothing_and_fences_its_earlier_start() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 4);
    join(&mut machine, static_wish(1, topic));
    joined(&mut machine, 2, &[topic]);
    release(&mut machine, 1);
    let (mine, other, seen) = (owned(&machine, 1), owned(&machine, 2), epoch(&machine));
    join(&mut machine, static_wish(3, topic));
    let left = Effect::MemberLeft { group: G.into(), member: [1; 16], why: LeftBecause::Replaced };
    assert!(machine.effects.contains(&left));
    // Nothing is left to do, and nobody else is asked for anything.
    assert!(!machine.effects.contains(&Effect::WorkPending));
    assert_eq!((owned(&machine, 3), owned(&machine, 2)), (mine, other));
    assert_eq!(commit(&mut machine, 1, seen, key(topic, 0), 1), fenced());
    // The earlier start's end, proposed late, does no harm to the new one.
    let members = vec![[1; 16]];
    machine.run(CommandBody::LeaveGroup { group: G.into(), members, expired: true });
    assert_eq!(owned(&machine, 3).len(), 2);
}

#[test]
fn a_static_member_with_very_much_takes_it_over_in_entries_of_bounded_size() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", MAX_BATCH as u32 + 100);
    join(&mut machine, static_wish(1, topic));
    machine.finish_work();
    assert_eq!(owned(&machine, 1).len(), MAX_BATCH + 100);
    join(&mut machine, static_wish(2, topic));
    let moved = |effect: &Effect| match effect {
        Effect::Assigned { owners, .. } => owners.len(),
        _ => 0,
    };
    assert_eq!(machine.effects.iter().map(moved).sum::<usize>(), MAX_BATCH);
    assert_eq!(reasons(&machine), [MovedBecause::Replaced]);
    machine.finish_work();
    assert_eq!(reasons(&machine), [MovedBecause::OwnerGone]);
    assert_eq!((owned(&machine, 1).len(), owned(&machine, 2).len()), (0, MAX_BATCH + 100));
}

#[test]
fn a_deleted_topic_s_partitions_leave_the_group() {
    let mut machine = Machine::new();
    let (orders, clicks) = (machine.topic("orders", 2), machine.topic("clicks", 1));
    joined(&mut machine, 1, &[orders, clicks]);
    machine.run(CommandBody::DeleteTopic { name: "orders".into() });
    machine.finish_work();
    assert_eq!(reasons(&machine), [MovedBecause::TopicGone]);
    assert_eq!(partitions(&machine.kv, G).unwrap().len(), 1);
    assert!(partition(&machine.kv, G, &key(clicks, 0)).unwrap().is_some());
}

#[test]
fn a_group_leaves_nothing_behind_when_it_is_removed() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 3);
    let before = machine.kv.pairs.clone();
    for partition in 0..3 {
        commit_alone(&mut machine, key(topic, partition), 1);
    }
    join(&mut machine, static_wish(1, topic));
    machine.finish_work();
    leave(&mut machine, 1);
    assert_eq!(machine.run(CommandBody::DeleteGroup { group: G.into() }), Reply::Done);
    machine.finish_work();
    assert_eq!(machine.kv.pairs, before);
    let gone = machine.run(CommandBody::DeleteGroup { group: G.into() });
    assert_eq!(gone, Reply::Refused(Refusal::UnknownGroup(G.into())));
}

#[test]
fn a_group_of_many_offsets_is_removed_in_chunks_and_closed_meanwhile() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 2_500);
    let offsets = (0..2_500).map(|p| (key(topic, p), 1, String::new())).collect();
    machine.run(CommandBody::CommitOffsets { group: G.into(), offsets });
    machine.run(CommandBody::DeleteGroup { group: G.into() });
    let busy = Reply::Refused(Refusal::GroupBusy(G.into()));
    assert_eq!(commit_alone(&mut machine, key(topic, 0), 2), busy);
    assert_eq!(machine.run(CommandBody::JoinGroup(wish(1, &[topic]))), busy);
    machine.finish_work();
    assert_eq!(group_count(&machine.kv).unwrap(), 0);
    assert_eq!(committed(&machine.kv, G, &key(topic, 2_499)).unwrap(), None);
}

#[test]
fn only_a_group_that_is_still_idle_expires() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 1);
    commit_alone(&mut machine, key(topic, 0), 1);
    let since = idle_since_ms(&machine.kv, G).unwrap().unwrap();
    let expire = |idle_before_ms| {
        let groups = vec![G.into(), "none".into()];
        CommandBody::ExpireGroups { groups, idle_before_ms }
    };
    machine.run(expire(since));
    assert_eq!(group_count(&machine.kv).unwrap(), 1);
    joined(&mut machine, 1, &[topic]);
    machine.run(expire(u64::MAX));
    assert_eq!(group_count(&machine.kv).unwrap(), 1, "it has a member");
    machine.time_ms += 5_000;
    leave(&mut machine, 1);
    // From when the last member went, not from the last commit.
    assert_eq!(idle_since_ms(&machine.kv, G).unwrap(), Some(machine.time_ms));
    machine.run(expire(machine.time_ms + 1));
    machine.finish_work();
    assert_eq!(group_count(&machine.kv).unwrap(), 0);
}

#[test]
fn what_is_too_much_is_refused_without_effect() {
    let mut machine = Machine::new();
    let topics: Vec<_> =
        (0..=MAX_SUBSCRIPTIONS as u8).map(|n| machine.topic(&format!("topic-{n}"), 1)).collect();
    let large = machine.topic("large", 9_990);
    for (n, topic) in topics.iter().take(MAX_SUBSCRIPTIONS).enumerate() {
        join(&mut machine, wish(n as u8, &[*topic]));
    }
    machine.finish_work();
    let before = machine.kv.pairs.clone();
    let refused = |machine: &mut Machine, wish: GroupJoin, says: &str| {
        let reply = machine.run(CommandBody::JoinGroup(wish));
        let Reply::Refused(Refusal::Limit(message) | Refusal::Invalid(message)) = reply else {
            panic!("{reply:?}")
        };
        assert!(message.contains(says), "{message}");
    };
    refused(&mut machine, wish(200, &topics[MAX_SUBSCRIPTIONS..]), "different subscriptions");
    let short = GroupJoin { session_timeout_ms: 1, ..wish(200, &topics[..1]) };
    refused(&mut machine, short, "session timeout of 1 ms");
    assert_eq!(machine.kv.pairs, before);
    leave(&mut machine, 0);
    refused(&mut machine, wish(200, &[large, topics[0]]), "allowed are 10000");
    assert!(groups::member(&machine.kv, G, &[200; 16]).unwrap().is_none());
}

#[test]
fn a_large_assignment_goes_in_chunks_and_ends_balanced() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 9_000);
    joined(&mut machine, 1, &[topic]);
    assert_eq!(owned(&machine, 1).len(), 9_000);
    joined(&mut machine, 2, &[topic]);
    assert_eq!(asked(&machine, &[1; 16]).len(), 4_500);
    let shared = membership(&machine.kv, G).unwrap().unwrap();
    assert_eq!(shared.epoch, shared.assigned_epoch);
}

#[test]
fn the_assignor_that_most_members_ask_for_is_used() {
    let mut machine = Machine::new();
    let topic = machine.topic("orders", 3);
    for (member, assignor) in [(1, Assignor::Sticky), (2, Assignor::Range), (3, Assignor::Range)] {
        join(&mut machine, GroupJoin { assignor, ..wish(member, &[topic]) });
    }
    machine.finish_work();
    let shared = membership(&machine.kv, G).unwrap().unwrap();
    assert_eq!(shared.assignor, Assignor::Range);
    assert_eq!([1, 2, 3].map(|member| owned(&machine, member)), [[0], [1], [2]]);
}
