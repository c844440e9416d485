//! Random histories of a group: whatever comes in whatever order, no partition
//! has two owners, nobody gets one whose owner may still read it, and in the
//! end everything is read.

use crate::groups::{asked, wish};
use crate::machine::{Machine, key};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use streamhouse_controller::state::assignors::Assignor;
use streamhouse_controller::state::command::{CommandBody, GroupJoin, PartitionKey, TopicKey};
use streamhouse_controller::state::groups::{self, MemberId, membership, owned_by, partitions};
use streamhouse_controller::state::reply::{Effect, LeftBecause, MovedBecause, OwnerChange, Reply};

#[derive(Debug, Clone)]
enum Step {
    /// Member, topics, instance, assignor.
    Join(u8, u8, Option<u8>, u8),
    Leave(u8, bool),
    /// The member gives up what it was asked for as it knows it: perhaps with
    /// an old epoch, perhaps twice.
    Release(u8, bool),
    /// A commit by what the member knows; it may be a zombie.
    Commit(u8, u8),
    Assign,
    DeleteTopic(u8),
    CreateTopic(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let instance = prop::option::weighted(0.4, 0..3u8);
    prop_oneof![
        4 => (0..12u8, 1..8u8, instance, 0..3u8)
            .prop_map(|(m, t, i, a)| Step::Join(m, t, i, a)),
        2 => (0..12u8, any::<bool>()).prop_map(|(m, expired)| Step::Leave(m, expired)),
        6 => (0..12u8, any::<bool>()).prop_map(|(m, old)| Step::Release(m, old)),
        3 => (0..12u8, 0..12u8).prop_map(|(m, p)| Step::Commit(m, p)),
        4 => Just(Step::Assign),
        1 => (0..3u8).prop_map(Step::DeleteTopic),
        1 => (0..3u8).prop_map(Step::CreateTopic),
    ]
}

const PARTITIONS: u32 = 4;

#[derive(Default)]
struct History {
    machine: Machine,
    topics: BTreeMap<u8, TopicKey>,
    /// Who may read each partition, kept from what was told alone.
    readers: BTreeMap<PartitionKey, MemberId>,
    /// Members that were told they are none any more.
    ended: BTreeSet<MemberId>,
    /// The instance under which each id joined, which it keeps.
    instances: BTreeMap<MemberId, Option<u8>>,
    /// Grants as a member last knew them.
    known: BTreeMap<MemberId, Vec<(PartitionKey, u32)>>,
    grants: BTreeSet<(PartitionKey, MemberId, u32)>,
    /// Who gives something up, and what, by the entry that is being applied.
    given_up: Vec<(PartitionKey, MemberId)>,
    epoch: u32,
}

impl History {
    fn new() -> Self {
        let mut history = Self { machine: Machine::new(), ..Self::default() };
        for topic in 0..3 {
            history.create(topic);
        }
        history
    }

    fn create(&mut self, topic: u8) {
        if let Reply::Topic(id) = self.machine.create(&format!("topic-{topic}"), PARTITIONS) {
            self.topics.insert(topic, id);
        }
    }

    fn run(&mut self, body: CommandBody) -> Reply {
        let reply = self.machine.run(body);
        self.follow();
        reply
    }

    /// Takes what the entry told, and checks that it could be told.
    fn follow(&mut self) {
        let effects = self.machine.effects.clone();
        for effect in &effects {
            if let Effect::MemberLeft { member, why, .. } = effect {
                self.ended.insert(*member);
                // Only a static member's successor takes over in the same entry.
                if *why != LeftBecause::Replaced {
                    self.readers.retain(|_, reader| reader != member);
                }
            }
        }
        for effect in &effects {
            let Effect::Assigned { owners, epoch, .. } = effect else { continue };
            assert!(*epoch >= self.epoch, "epochs rise");
            for change in owners {
                let reader = self.readers.remove(&change.partition);
                assert!(reader.is_none() || reader == change.was, "{change:?} over {reader:?}");
                assert!(self.is_so(change, &effects), "{change:?}");
                if let Some(owner) = change.now {
                    // No grant while another may read: it gave the partition up before this very
                    // entry, or it is a member no more.
                    let free = reader.is_none_or(|reader| self.ended.contains(&reader));
                    assert!(free, "{change:?} over {reader:?}");
                    let grant = (change.partition, owner, *epoch);
                    assert!(self.grants.insert(grant), "partition, owner and epoch name one grant");
                    self.readers.insert(change.partition, owner);
                }
            }
        }
        self.check();
    }

    /// Whether a partition moved for the reason that is told.
    fn is_so(&self, change: &OwnerChange, effects: &[Effect]) -> bool {
        let Some(was) = change.was else { return change.why == MovedBecause::Unowned };
        match change.why {
            MovedBecause::Unowned => false,
            MovedBecause::Released => self.given_up.contains(&(change.partition, was)),
            MovedBecause::OwnerGone => self.ended.contains(&was),
            MovedBecause::Replaced => effects.contains(&Effect::MemberLeft {
                group: "g".into(),
                member: was,
                why: LeftBecause::Replaced,
            }),
            MovedBecause::TopicGone => {
                let there = self.topics.values().any(|topic| *topic == change.partition.topic);
                change.now.is_none() && !there
            }
        }
    }

    fn check(&mut self) {
        let kv = &self.machine.kv;
        let Some(shared) = membership(kv, "g").unwrap() else { return };
        assert!(shared.epoch >= self.epoch);
        self.epoch = shared.epoch;
        let members: BTreeSet<_> =
            groups::members(kv, "g").unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(members.len(), shared.members as usize);
        assert!(members.is_disjoint(&self.ended), "an id is used once");
        let mut owned = 0;
        for (key, record) in partitions(kv, "g").unwrap() {
            let Some(owner) = record.owner.filter(|owner| members.contains(owner)) else {
                continue;
            };
            owned += 1;
            assert_eq!(self.readers.get(&key), Some(&owner));
            assert!(record.granted_epoch <= shared.epoch);
        }
        let indexed = members.iter().map(|id| owned_by(kv, "g", id).unwrap().len());
        assert_eq!(indexed.sum::<usize>(), owned, "what members own is what partitions say");
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Join(member, topics, instance, assignor) => {
                self.join(*member, *topics, *instance, *assignor);
            }
            Step::Leave(member, expired) => {
                let (members, expired) = (vec![[*member; 16]], *expired);
                self.run(CommandBody::LeaveGroup { group: "g".into(), members, expired });
            }
            Step::Release(member, old) => self.release([*member; 16], *old),
            Step::Commit(member, pick) => self.commit([*member; 16], *pick),
            Step::Assign => {
                self.run(CommandBody::Continue);
            }
            Step::DeleteTopic(topic) => {
                self.run(CommandBody::DeleteTopic { name: format!("topic-{topic}") });
                self.topics.remove(topic);
            }
            Step::CreateTopic(topic) => self.create(*topic),
        }
    }

    fn join(&mut self, member: u8, topics: u8, instance: Option<u8>, assignor: u8) {
        let id = [member; 16];
        // The contract: an id is of one membership.
        if self.ended.contains(&id) {
            return;
        }
        let instance = *self.instances.entry(id).or_insert(instance);
        let wanted = self.topics.iter().filter(|(n, _)| topics & (1 << **n) != 0);
        let wanted: Vec<_> = wanted.map(|(_, id)| *id).collect();
        let assignor =
            [Assignor::Sticky, Assignor::Range, Assignor::RoundRobin][usize::from(assignor)];
        let instance = instance.map(|n| format!("instance-{n}"));
        let join = GroupJoin { instance, assignor, ..wish(member, &wanted) };
        let reply = self.run(CommandBody::JoinGroup(join));
        assert!(matches!(reply, Reply::Member { .. }), "{reply:?}");
    }

    fn release(&mut self, member: MemberId, old: bool) {
        let now = asked(&self.machine, &member);
        let before = self.known.insert(member, now.clone()).unwrap_or_default();
        let partitions = if old { before } else { now.clone() };
        for (key, granted_epoch) in &partitions {
            // From the moment it gives a partition up it does not read it; if
            // the release is of an earlier grant it is not about this one.
            if now.contains(&(*key, *granted_epoch)) {
                self.readers.remove(key);
                self.given_up.push((*key, member));
            }
        }
        let body = CommandBody::ReleasePartitions { group: "g".into(), member, partitions };
        self.run(body);
        self.given_up.clear();
    }

    fn commit(&mut self, member: MemberId, pick: u8) {
        let topic = self.topics.values().nth(usize::from(pick) % 3).copied().unwrap_or([0; 16]);
        let at = key(topic, u32::from(pick) % PARTITIONS);
        let (epoch, reads) = (self.epoch, self.readers.get(&at) == Some(&member));
        let (group, offsets) = ("g".into(), vec![(at, u64::from(pick), String::new())]);
        let reply = self.run(CommandBody::CommitMemberOffsets { group, member, epoch, offsets });
        // GROUP: accepted if and only if it may read the partition.
        let exists = self.topics.values().any(|id| *id == topic);
        assert_eq!(reply == Reply::Offsets(vec![None]), reads && exists, "{reply:?}");
    }

    /// Everybody does what it is asked for, until nothing is asked.
    fn settle(&mut self) {
        for _ in 0..50 {
            self.machine.finish_work();
            self.follow_all();
            let members = groups::members(&self.machine.kv, "g").unwrap();
            let asked: Vec<_> = members
                .iter()
                .map(|(id, _)| *id)
                .filter(|id| !asked(&self.machine, id).is_empty())
                .collect();
            if asked.is_empty() {
                return;
            }
            for member in asked {
                self.release(member, false);
            }
        }
        panic!("the group does not settle");
    }

    /// After work of which the effects were not followed one by one.
    fn follow_all(&mut self) {
        self.readers.clear();
        let members: BTreeSet<_> =
            groups::members(&self.machine.kv, "g").unwrap().into_iter().map(|(id, _)| id).collect();
        for (key, record) in partitions(&self.machine.kv, "g").unwrap() {
            if let Some(owner) = record.owner.filter(|owner| members.contains(owner)) {
                self.readers.insert(key, owner);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_partition_is_ever_granted_to_two_members(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let (mut history, mut replica) = (History::new(), History::new());
        for step in &steps {
            history.take(step);
            replica.take(step);
        }
        prop_assert_eq!(&history.machine.kv.pairs, &replica.machine.kv.pairs);
        history.settle();
        // Whoever subscribes to a topic: each of its partitions is read.
        let kv = &history.machine.kv;
        let mut wanted = BTreeSet::new();
        for (_, member) in groups::members(kv, "g").unwrap() {
            let topics = groups::subscription(kv, "g", &member.subscription).unwrap().unwrap();
            wanted.extend(topics.topics);
        }
        let there = history.topics.values().filter(|id| wanted.contains(*id));
        let expected: BTreeSet<_> =
            there.flat_map(|id| (0..PARTITIONS).map(|n| key(*id, n))).collect();
        let read: BTreeSet<_> = history.readers.keys().copied().collect();
        prop_assert_eq!(read, expected);
    }
}
