//! Random histories: whatever happens, DENSE, FENCE and the bookkeeping of
//! leases hold, and two replicas agree (PURE).

use crate::machine::{Machine, key, slice_at};
use proptest::prelude::*;
use std::collections::BTreeMap;
use streamhouse_controller::state::command::{
    CommandBody, ObjectCommit, ObjectContents, PartitionKey, ProducerBatch, ProducerEpoch,
    ProducerRequest,
};
use streamhouse_controller::state::leases::held_by;
use streamhouse_controller::state::reply::{BatchFault, ObjectReply, Refusal, Reply};
use streamhouse_controller::state::segments::segments_from;
use streamhouse_controller::state::sequences;
use streamhouse_controller::state::sessions::live;
use streamhouse_controller::state::topics::{topic_count, topics};

#[derive(Debug, Clone)]
enum Step {
    Join(u8),
    End(u8),
    Drain(u8),
    ReleaseAll(u8),
    Create(u8),
    Delete(u8),
    /// Session, topic, partition, offset error, epoch error, count, resend.
    Commit {
        by: u8,
        topic: u8,
        partition: u8,
        skew: i8,
        epoch: i8,
        count: u8,
        again: bool,
    },
    Abandon {
        by: u8,
        topic: u8,
        partition: u8,
    },
    /// Producer, by name.
    Init(u8),
    /// The holder commits a batch: producer, topic, partition, error of the
    /// epoch and of the sequence number, records.
    Produce {
        producer: u8,
        topic: u8,
        partition: u8,
        epoch: i8,
        skew: i8,
        count: u8,
    },
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..4u8).prop_map(Step::Join),
        1 => (0..6u8).prop_map(Step::End),
        1 => (0..6u8).prop_map(Step::Drain),
        1 => (0..6u8).prop_map(Step::ReleaseAll),
        1 => (0..3u8).prop_map(Step::Create),
        1 => (0..3u8).prop_map(Step::Delete),
        8 => commit(),
        1 => (0..6u8, 0..3u8, 0..4u8)
            .prop_map(|(by, topic, partition)| Step::Abandon { by, topic, partition }),
        1 => (0..3u8).prop_map(Step::Init),
        8 => produce(),
        1 => (1..20_000u32).prop_map(Step::Wait),
    ]
}

fn produce() -> impl Strategy<Value = Step> {
    (0..3u8, 0..3u8, 0..2u8, -1..1i8, -2..3i8, 1..4u8).prop_map(
        |(producer, topic, partition, epoch, skew, count)| Step::Produce {
            producer,
            topic,
            partition,
            epoch,
            skew,
            count,
        },
    )
}

fn commit() -> impl Strategy<Value = Step> {
    let error = (-1..2i8, -1..2i8);
    (0..6u8, 0..3u8, 0..4u8, error, 1..5u8, any::<bool>()).prop_map(
        |(by, topic, partition, (skew, epoch), count, again)| Step::Commit {
            by,
            topic,
            partition,
            skew,
            epoch,
            count,
            again,
        },
    )
}

#[derive(Default)]
struct History {
    machine: Machine,
    sessions: Vec<u64>,
    sequences: BTreeMap<u64, u64>,
    topics: BTreeMap<u8, [u8; 16]>,
    epochs: BTreeMap<([u8; 16], u32), u32>,
    producers: BTreeMap<u8, ProducerEpoch>,
    /// DEDUP: epoch and records of each producer in each partition, as they
    /// were accepted.
    written: BTreeMap<(PartitionKey, u64), (u16, u64)>,
}

impl History {
    fn session(&self, pick: u8) -> Option<u64> {
        (!self.sessions.is_empty()).then(|| self.sessions[pick as usize % self.sessions.len()])
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Join(n) => {
                let id = self.machine.session(&format!("agent-{n}:1"));
                self.sessions.push(id);
            }
            Step::End(pick) => {
                if let Some(session) = self.session(*pick) {
                    self.machine.run(CommandBody::EndSession { session });
                }
            }
            Step::Drain(pick) => {
                if let Some(session) = self.session(*pick) {
                    self.machine.run(CommandBody::DrainSession { session });
                }
            }
            Step::ReleaseAll(pick) => {
                if let Some(session) = self.session(*pick) {
                    let held = held_by(&self.machine.kv, session, usize::MAX).unwrap();
                    let leases = held
                        .into_iter()
                        .map(|p| (p, self.machine.partition(p).lease_epoch))
                        .collect();
                    self.machine.run(CommandBody::ReleaseLeases { session, leases });
                }
            }
            Step::Create(n) => {
                if let Reply::Topic(id) = self.machine.create(&format!("topic-{n}"), 4) {
                    self.topics.insert(*n, id);
                }
            }
            Step::Delete(n) => {
                self.machine.run(CommandBody::DeleteTopic { name: format!("topic-{n}") });
                self.topics.remove(n);
            }
            Step::Commit { by, topic, partition, skew, epoch, count, again } => {
                self.commit(*by, *topic, *partition, (*skew, *epoch), *count, *again);
            }
            Step::Abandon { by, topic, partition } => {
                let (Some(session), Some(topic)) = (self.session(*by), self.topics.get(topic))
                else {
                    return;
                };
                let sequence = self.sequences.get(&session).copied().unwrap_or(0) + 1;
                let contents = ObjectContents::Abandoned(vec![key(*topic, u32::from(*partition))]);
                let object = ObjectCommit { sequence, size: 0, contents };
                if let ObjectReply::Processed(_) = self.machine.commit_object(session, object) {
                    self.sequences.insert(session, sequence);
                }
            }
            Step::Init(n) => {
                let name = Some(format!("producer-{n}"));
                let asked = ProducerRequest { name, producer: None };
                if let Reply::Producer(given) = self.machine.run(CommandBody::InitProducer(asked)) {
                    let before = self.producers.insert(*n, given);
                    assert!(before.is_none_or(|before| before < given), "epochs only rise");
                }
            }
            Step::Produce { producer, topic, partition, epoch, skew, count } => {
                self.produce(*producer, (*topic, *partition), (*epoch, *skew), *count);
            }
            Step::Wait(ms) => {
                self.machine.time_ms += u64::from(*ms);
                self.machine.finish_work();
            }
        }
    }

    fn commit(&mut self, by: u8, topic: u8, p: u8, error: (i8, i8), count: u8, again: bool) {
        let (Some(session), Some(topic)) = (self.session(by), self.topics.get(&topic)) else {
            return;
        };
        let key = key(*topic, u32::from(p));
        let before = self.machine.partition(key);
        let base = before.next_offset.saturating_add_signed(error.0.into());
        let epoch = before.lease_epoch.saturating_add_signed(error.1.into());
        let slice = slice_at(key, epoch, base, count.into());
        let sequence = self.sequences.get(&session).copied().unwrap_or(0) + 1;
        let reply = self.machine.commit(session, sequence, vec![slice.clone()]);
        let after = self.machine.partition(key);
        if let ObjectReply::Processed(slices) = &reply {
            self.sequences.insert(session, sequence);
            // FENCE: accepted if and only if holder, epoch and offset agree.
            let right = before.holder == session
                && epoch == before.lease_epoch
                && base == before.next_offset;
            assert_eq!(slices[0].refusal.is_none(), right);
        }
        if again {
            // RETRY: the same answer, and nothing happens twice.
            assert_eq!(self.machine.commit(session, sequence, vec![slice]), reply);
            assert_eq!(self.machine.partition(key), after);
        }
    }

    fn produce(&mut self, n: u8, (topic, p): (u8, u8), error: (i8, i8), count: u8) {
        let (Some(current), Some(topic)) = (self.producers.get(&n), self.topics.get(&topic)) else {
            return;
        };
        let (current, at) = (*current, key(*topic, p.into()));
        let session = self.machine.partition(at).holder;
        if session == 0 {
            return;
        }
        let epoch = current.epoch.saturating_add_signed(error.0.into());
        let (known, records) = self.written.get(&(at, current.id)).copied().unwrap_or_default();
        let records = if known == epoch { records } else { 0 };
        let base = records.saturating_add_signed(error.1.into());
        let mut slice = self.machine.slice(at, count.into());
        slice.producers = vec![ProducerBatch {
            producer: ProducerEpoch { id: current.id, epoch },
            base_sequence: base as u32,
            records: count.into(),
            offset_delta: 0,
        }];
        let sequence = self.sequences.get(&session).copied().unwrap_or(0) + 1;
        let reply = self.machine.commit(session, sequence, vec![slice]);
        self.sequences.insert(session, sequence);
        let ObjectReply::Processed(slices) = &reply else { panic!("{reply:?}") };
        // DEDUP: accepted if and only if the epoch is current and it is next.
        let next = epoch == current.epoch && base == records;
        assert_eq!(slices[0].refusal.is_none(), next, "{slices:?}");
        if next {
            self.written.insert((at, current.id), (epoch, records + u64::from(count)));
        } else if epoch == current.epoch && base + u64::from(count) <= records {
            let faults = slices[0].refusal.as_ref().map(|refusal| match refusal {
                Refusal::Batches(faults) => faults[0].fault,
                other => panic!("{other:?}"),
            });
            assert!(matches!(faults, Some(BatchFault::Committed(_))), "{faults:?}");
        }
    }

    fn check(&mut self) {
        for ((at, id), written) in &self.written {
            if self.topics.values().any(|topic| *topic == at.topic) {
                let found = sequences::committed(&self.machine.kv, at, *id).unwrap().unwrap();
                assert_eq!((found.epoch, found.records), *written);
            }
        }
        let records = self.machine.kv.pairs.keys().filter(|key| key[0] == 0x11).count();
        assert_eq!(topic_count(&self.machine.kv).unwrap(), records as u64);
        let sessions: BTreeMap<_, _> = live(&self.machine.kv).unwrap().into_iter().collect();
        let mut held: BTreeMap<u64, u32> = BTreeMap::new();
        for (id, topic) in topics(&self.machine.kv).unwrap() {
            for number in 0..topic.partitions {
                let key = key(id, number);
                let partition = self.machine.partition(key);
                // Epochs only rise.
                let last = self.epochs.insert((id, number), partition.lease_epoch);
                assert!(last.is_none_or(|last| last <= partition.lease_epoch));
                if partition.holder == 0 {
                    let able = sessions.values().any(|session| !session.draining);
                    assert!(!able, "a partition waits although a session could take it");
                } else {
                    assert!(sessions.contains_key(&partition.holder));
                    *held.entry(partition.holder).or_default() += 1;
                }
                // DENSE: from log start to next offset without gap or overlap.
                let mut next = partition.log_start;
                let entries = segments_from(&self.machine.kv, &key, 0, usize::MAX).unwrap();
                assert_eq!(entries.len() as u64, partition.segments);
                for (base, entry) in entries {
                    assert_eq!(base, next);
                    next = entry.last_offset + 1;
                }
                assert_eq!(next, partition.next_offset);
            }
        }
        let counted: BTreeMap<_, _> =
            sessions.iter().filter(|(_, s)| s.leases > 0).map(|(id, s)| (*id, s.leases)).collect();
        assert_eq!(held, counted, "the sessions' counts are those of the partitions");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_history_keeps_the_invariants(steps in prop::collection::vec(step(), 1..120)) {
        let mut history = History { machine: Machine::new(), ..History::default() };
        let mut replica = History { machine: Machine::new(), ..History::default() };
        for step in &steps {
            history.take(step);
            history.check();
            replica.take(step);
        }
        prop_assert_eq!(history.machine.kv.pairs, replica.machine.kv.pairs);
    }
}
