//! The assignors: what each promises of whatever it is given.

use crate::machine::key;
use proptest::prelude::*;
use std::collections::BTreeMap;
use streamhouse_controller::state::assignors::{Assignment, Assignor, Work, assign};

const ALL: [Assignor; 3] = [Assignor::Sticky, Assignor::Range, Assignor::RoundRobin];

/// Members that all subscribe to all topics.
fn equals(members: usize, topics: &[u32]) -> Work {
    Work {
        topics: topics.iter().enumerate().map(|(n, count)| ([n as u8 + 1; 16], *count)).collect(),
        subscriptions: vec![(0..topics.len()).collect()],
        members: vec![0; members],
        before: BTreeMap::new(),
    }
}

fn loads(work: &Work, assignment: &Assignment) -> Vec<usize> {
    let mut loads = vec![0; work.members.len()];
    assignment.values().for_each(|member| loads[*member] += 1);
    loads
}

fn partitions_of(assignment: &Assignment, member: usize) -> Vec<(u8, u32)> {
    let own = assignment.iter().filter(|(_, owner)| **owner == member);
    own.map(|(key, _)| (key.topic[0], key.partition)).collect()
}

#[test]
fn range_gives_the_same_partitions_of_topics_of_one_size_to_the_same_member() {
    let assignment = assign(Assignor::Range, &equals(2, &[3, 3]));
    assert_eq!(partitions_of(&assignment, 0), [(1, 0), (1, 1), (2, 0), (2, 1)]);
    assert_eq!(partitions_of(&assignment, 1), [(1, 2), (2, 2)]);
}

#[test]
fn round_robin_deals_across_topics_and_passes_over_who_does_not_subscribe() {
    let mut work = equals(2, &[3, 2]);
    let assignment = assign(Assignor::RoundRobin, &work);
    assert_eq!(partitions_of(&assignment, 0), [(1, 0), (1, 2), (2, 1)]);
    work.subscriptions.push(vec![1]);
    work.members = vec![0, 1];
    let assignment = assign(Assignor::RoundRobin, &work);
    assert_eq!(partitions_of(&assignment, 1), [(2, 0)]);
}

#[test]
fn sticky_takes_from_the_most_loaded_only_what_a_newcomer_needs() {
    let mut work = equals(4, &[16]);
    work.before = assign(Assignor::Sticky, &work);
    work.members.push(0);
    let assignment = assign(Assignor::Sticky, &work);
    let moved = assignment.iter().filter(|(key, member)| work.before[*key] != **member);
    assert_eq!(moved.count(), 3, "16 partitions of five members: one has to have three");
    assert_eq!(loads(&work, &assignment), [4, 3, 3, 3, 3]);
}

#[test]
fn sticky_does_not_overshoot_when_one_member_has_little() {
    let mut work = equals(4, &[16]);
    for (partition, member) in (0..16).zip([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]) {
        work.before.insert(key([1; 16], partition), member);
    }
    let assignment = assign(Assignor::Sticky, &work);
    let moved = assignment.iter().filter(|(key, member)| work.before[*key] != **member);
    assert_eq!((moved.count(), loads(&work, &assignment)), (3, vec![4; 4]));
}

fn any_work() -> impl Strategy<Value = Work> {
    let topics = prop::collection::vec(1..12u32, 1..5);
    topics.prop_flat_map(|topics| {
        let count = topics.len();
        let subscription = prop::collection::btree_set(0..count, 0..=count);
        let subscriptions = prop::collection::vec(subscription, 1..4);
        (Just(topics), subscriptions).prop_flat_map(|(topics, subscriptions)| {
            let members = prop::collection::vec(0..subscriptions.len(), 0..7);
            let before = prop::collection::vec((0..topics.len(), 0..14u32, 0..7usize), 0..40);
            (Just(topics), Just(subscriptions), members, before).prop_map(
                |(topics, subscriptions, members, before)| {
                    let before = before.into_iter().filter(|(.., m)| *m < members.len());
                    Work {
                        before: before.map(|(t, p, m)| (key([t as u8 + 1; 16], p), m)).collect(),
                        subscriptions: subscriptions
                            .into_iter()
                            .map(|one| one.into_iter().collect())
                            .collect(),
                        members,
                        ..equals(0, &topics)
                    }
                },
            )
        })
    })
}

/// How many partitions no longer have whom they had, where that one could
/// have kept them.
fn moves(work: &Work, assignment: &Assignment) -> usize {
    let kept = |key, member| assignment.get(key).is_none_or(|now| now == member);
    work.before.iter().filter(|(key, member)| !kept(*key, *member)).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_partition_with_a_subscriber_has_one_and_the_same_input_gives_the_same(
        work in any_work()
    ) {
        for assignor in ALL {
            let assignment = assign(assignor, &work);
            let wanted: Vec<_> = work.partitions().map(|(_, key)| key).collect();
            prop_assert_eq!(assignment.keys().copied().collect::<Vec<_>>(), wanted);
            for (key, member) in &assignment {
                let topic = usize::from(key.topic[0]) - 1;
                prop_assert!(work.subscriptions[work.members[*member]].contains(&topic));
            }
            prop_assert_eq!(assign(assignor, &work), assignment);
        }
    }

    #[test]
    fn range_and_round_robin_follow_their_rules_whatever_members_subscribe_to(work in any_work()) {
        let subscribes = |member: usize, topic: usize| {
            work.subscriptions[work.members[member]].contains(&topic)
        };
        let count = work.members.len();
        let (mut dealt, mut turn) = (Assignment::new(), 0);
        for (topic, key) in work.partitions() {
            let next = (turn..turn + count).find(|turn| subscribes(turn % count, topic)).unwrap();
            dealt.insert(key, next % count);
            turn = (next + 1) % count;
        }
        prop_assert_eq!(assign(Assignor::RoundRobin, &work), dealt);
        let ranges = assign(Assignor::Range, &work);
        for (topic, (id, partitions)) in work.topics.iter().enumerate() {
            let subscribers: Vec<_> = (0..count).filter(|m| subscribes(*m, topic)).collect();
            let among = subscribers.len() as u32;
            let shares = subscribers.iter().enumerate().flat_map(|(nth, member)| {
                let more = u32::from((nth as u32) < partitions % among);
                std::iter::repeat_n(*member, (partitions / among + more) as usize)
            });
            let of_topic: Vec<_> =
                ranges.iter().filter(|(key, _)| key.topic == *id).map(|(_, m)| *m).collect();
            prop_assert_eq!(of_topic, shares.collect::<Vec<_>>());
        }
    }

    #[test]
    fn sticky_is_balanced_with_the_fewest_moves_among_equals(
        members in 1..9usize,
        topics in prop::collection::vec(1..20u32, 1..4),
        before in prop::collection::vec(any::<prop::sample::Index>(), 60),
        known in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut work = equals(members, &topics);
        let keys: Vec<_> = work.partitions().map(|(_, key)| key).collect();
        for (key, (member, known)) in keys.iter().zip(before.iter().zip(known)) {
            if known {
                work.before.insert(*key, member.index(members));
            }
        }
        let assignment = assign(Assignor::Sticky, &work);
        let loads = loads(&work, &assignment);
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{:?}", loads);
        // Those with the most may keep the larger shares; nobody can keep more than its share.
        let mut had = vec![0; members];
        work.before.values().for_each(|member| had[*member] += 1);
        had.sort_unstable_by(|a, b| b.cmp(a));
        let (share, larger) = (keys.len() / members, keys.len() % members);
        let kept: usize = had
            .iter()
            .enumerate()
            .map(|(n, had)| (*had).min(share + usize::from(n < larger)))
            .sum();
        prop_assert_eq!(moves(&work, &assignment), work.before.len() - kept);
    }

    #[test]
    fn sticky_leaves_no_single_move_that_would_balance_better(work in any_work()) {
        let assignment = assign(Assignor::Sticky, &work);
        let loads = loads(&work, &assignment);
        for (key, member) in &assignment {
            let topic = usize::from(key.topic[0]) - 1;
            for (other, load) in loads.iter().enumerate() {
                let could = work.subscriptions[work.members[other]].contains(&topic);
                prop_assert!(!could || load + 1 >= loads[*member]);
            }
        }
        // And what it decided once, it decides again.
        let again = Work { before: assignment.clone(), ..work };
        prop_assert_eq!(assign(Assignor::Sticky, &again), assignment);
    }
}
