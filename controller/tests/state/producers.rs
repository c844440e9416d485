//! DEDUP: ids, epochs and sequences of idempotent producers.

use crate::machine::{Machine, accepted, key, processed, request};
use streamhouse_controller::state::command::{
    CommandBody, PartitionKey, ProducerBatch, ProducerEpoch, ProducerRequest, SliceCommit,
};
use streamhouse_controller::state::producers::{self, KEPT_MS, NAME_KEPT_MS};
use streamhouse_controller::state::reply::{BatchFault, BatchRefusal, ObjectReply, Refusal, Reply};
use streamhouse_controller::state::sequences::{MAX_PARTITION_PRODUCERS, committed};

struct Rig {
    machine: Machine,
    session: u64,
    at: PartitionKey,
    sequence: u64,
}

impl Rig {
    fn new() -> Self {
        let mut machine = Machine::new();
        let session = machine.session("a:1");
        let topic = machine.topic("orders", 1);
        Self { machine, session, at: key(topic, 0), sequence: 0 }
    }

    fn ask(&mut self, name: Option<&str>, producer: Option<ProducerEpoch>) -> Reply {
        let asked = ProducerRequest { name: name.map(str::to_owned), producer };
        self.machine.run(CommandBody::InitProducer(asked))
    }

    fn producer(&mut self) -> ProducerEpoch {
        given(self.ask(None, None))
    }

    /// A slice of those batches: whose, first sequence number, records.
    fn slice(&self, batches: &[(ProducerEpoch, u32, u32)]) -> SliceCommit {
        let count = batches.iter().map(|(_, _, records)| u64::from(*records)).sum();
        let mut slice = self.machine.slice(self.at, count);
        let mut offset_delta = 0;
        for (producer, base_sequence, records) in batches.iter().copied() {
            slice.producers.push(ProducerBatch { producer, base_sequence, records, offset_delta });
            offset_delta += u64::from(records);
        }
        slice
    }

    fn commit(&mut self, batches: &[(ProducerEpoch, u32, u32)]) -> ObjectReply {
        let slice = self.slice(batches);
        self.sequence += 1;
        self.machine.commit(self.session, self.sequence, vec![slice])
    }

    /// Commits a slice that must be refused for its batches: place and fault.
    fn faults(&mut self, batches: &[(ProducerEpoch, u32, u32)]) -> Vec<(u32, BatchFault)> {
        let before = self.machine.partition(self.at);
        let slices = processed(self.commit(batches));
        let after = self.machine.partition(self.at);
        assert_eq!(after.next_offset, before.next_offset, "nothing of it is visible");
        assert_eq!(after.lease_epoch, before.lease_epoch + 1, "what is behind it falls with it");
        match &slices[0].refusal {
            Some(Refusal::Batches(refused)) => {
                refused.iter().map(|BatchRefusal { index, fault }| (*index, *fault)).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn given(reply: Reply) -> ProducerEpoch {
    match reply {
        Reply::Producer(given) => given,
        other => panic!("{other:?}"),
    }
}

fn refused(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_producer_has_an_id_of_its_own_and_a_name_keeps_its() {
    let mut rig = Rig::new();
    let (first, second) = (rig.producer(), rig.producer());
    assert_eq!((first.epoch, second.epoch), (0, 0));
    assert_ne!(first.id, second.id);
    let named = given(rig.ask(Some("loader"), None));
    let heir = given(rig.ask(Some("loader"), None));
    assert_eq!(heir, ProducerEpoch { id: named.id, epoch: 1 });
    assert_ne!(given(rig.ask(Some("other"), None)).id, named.id);
    assert!(matches!(refused(rig.ask(Some("a\nb"), None)), Refusal::Invalid(_)));
    assert!(matches!(refused(rig.ask(Some(&"x".repeat(256)), None)), Refusal::Invalid(_)));
}

#[test]
fn a_repeated_request_for_an_epoch_raises_it_once() {
    // RETRY
    let mut rig = Rig::new();
    let body = |name: &str| {
        CommandBody::InitProducer(ProducerRequest { name: Some(name.into()), producer: None })
    };
    let first = given(rig.machine.run_as(request(1), body("loader")));
    assert_eq!(given(rig.machine.run_as(request(1), body("loader"))), first);
    assert_eq!(given(rig.machine.run_as(request(2), body("loader"))).epoch, first.epoch + 1);
}

#[test]
fn only_who_has_the_current_epoch_gets_the_next() {
    let mut rig = Rig::new();
    let first = rig.producer();
    let second = given(rig.ask(None, Some(first)));
    assert_eq!(second, ProducerEpoch { epoch: 1, ..first });
    let late = refused(rig.ask(None, Some(first)));
    assert_eq!(late, Refusal::ProducerFenced { producer: first, current: 1 });
    let ahead = ProducerEpoch { epoch: 5, ..first };
    assert_eq!(refused(rig.ask(None, Some(ahead))), Refusal::UnknownProducer(first.id));
    let nobody = ProducerEpoch { id: 999, epoch: 0 };
    assert_eq!(refused(rig.ask(None, Some(nobody))), Refusal::UnknownProducer(999));
}

#[test]
fn when_the_epochs_of_an_id_are_used_up_another_takes_its_place() {
    let mut rig = Rig::new();
    let mut now = given(rig.ask(Some("loader"), None));
    let id = now.id;
    for _ in 0..i16::MAX {
        now = given(rig.ask(None, Some(now)));
    }
    assert_eq!((now.id, now.epoch), (id, i16::MAX.unsigned_abs()));
    accepted(rig.commit(&[(now, 0, 5)]));
    let next = given(rig.ask(None, Some(now)));
    assert_ne!(next.id, id);
    assert_eq!(next.epoch, 0);
    // The last epoch is fenced like every other, and the name has gone over.
    let fence = BatchFault::Fenced { current: now.epoch + 1 };
    assert_eq!(rig.faults(&[(now, 5, 1)]), [(0, fence)]);
    assert!(matches!(refused(rig.ask(None, Some(now))), Refusal::ProducerFenced { .. }));
    assert_eq!(given(rig.ask(Some("loader"), None)), ProducerEpoch { epoch: 1, ..next });
}

#[test]
fn batches_in_sequence_are_accepted_and_move_it_with_the_index() {
    let mut rig = Rig::new();
    let producer = rig.producer();
    accepted(rig.commit(&[(producer, 0, 5)]));
    accepted(rig.commit(&[(producer, 5, 1), (producer, 6, 4)]));
    let state = committed(&rig.machine.kv, &rig.at, producer.id).unwrap().unwrap();
    assert_eq!((state.epoch, state.records), (producer.epoch, 10));
    assert_eq!(rig.machine.partition(rig.at).next_offset, 10);
    assert_eq!(rig.machine.partition(rig.at).producers, 1);
}

#[test]
fn what_was_committed_before_is_named_with_its_offset() {
    let mut rig = Rig::new();
    let (a, b) = (rig.producer(), rig.producer());
    accepted(rig.commit(&[(a, 0, 5), (b, 0, 3), (a, 5, 2)]));
    let faults = rig.faults(&[(a, 0, 5), (a, 5, 2), (b, 0, 3)]);
    assert_eq!(
        faults,
        [
            (0, BatchFault::Committed(Some(0))),
            (1, BatchFault::Committed(Some(8))),
            (2, BatchFault::Committed(Some(5))),
        ]
    );
}

#[test]
fn a_duplicate_is_known_as_one_when_its_offset_no_longer_is() {
    let mut rig = Rig::new();
    let (a, b) = (rig.producer(), rig.producer());
    // Each batch of one stands behind one of the other: no two share a run.
    for number in 0..70 {
        accepted(rig.commit(&[(a, number, 1), (b, number, 1)]));
    }
    assert_eq!(rig.faults(&[(a, 0, 1)]), [(0, BatchFault::Committed(None))]);
    // The last 64 are kept, as many as may be in flight.
    assert_eq!(rig.faults(&[(a, 6, 1)]), [(0, BatchFault::Committed(Some(12)))]);
    assert_eq!(rig.faults(&[(a, 69, 1)]), [(0, BatchFault::Committed(Some(138)))]);
}

#[test]
fn a_gap_is_refused_and_so_is_a_batch_that_was_cut_differently() {
    let mut rig = Rig::new();
    let producer = rig.producer();
    accepted(rig.commit(&[(producer, 0, 5)]));
    let expected = BatchFault::OutOfOrder { expected: 5 };
    assert_eq!(rig.faults(&[(producer, 6, 1)]), [(0, expected)]);
    assert_eq!(rig.faults(&[(producer, 3, 4)]), [(0, expected)]);
    accepted(rig.commit(&[(producer, 5, 1)]));
}

#[test]
fn an_unknown_state_and_a_newer_epoch_admit_only_sequence_zero() {
    let mut rig = Rig::new();
    let first = rig.producer();
    let begin = BatchFault::OutOfOrder { expected: 0 };
    assert_eq!(rig.faults(&[(first, 1, 1)]), [(0, begin)]);
    accepted(rig.commit(&[(first, 0, 5)]));
    let second = given(rig.ask(None, Some(first)));
    assert_eq!(rig.faults(&[(second, 5, 1)]), [(0, begin)]);
    accepted(rig.commit(&[(second, 0, 1)]));
    let state = committed(&rig.machine.kv, &rig.at, first.id).unwrap().unwrap();
    assert_eq!((state.epoch, state.records), (1, 1));
}

#[test]
fn an_epoch_that_was_raised_fences_what_is_on_its_way_under_the_one_before() {
    let mut rig = Rig::new();
    let first = given(rig.ask(Some("loader"), None));
    accepted(rig.commit(&[(first, 0, 5)]));
    let heir = given(rig.ask(Some("loader"), None));
    assert_eq!(rig.faults(&[(first, 5, 1)]), [(0, BatchFault::Fenced { current: 1 })]);
    // Not even one that was committed before is a duplicate to a predecessor.
    assert_eq!(rig.faults(&[(first, 0, 5)]), [(0, BatchFault::Fenced { current: 1 })]);
    accepted(rig.commit(&[(heir, 0, 1)]));
    let nobody = ProducerEpoch { id: 999, epoch: 0 };
    assert_eq!(rig.faults(&[(nobody, 0, 1)]), [(0, BatchFault::Unknown)]);
    let never = ProducerEpoch { epoch: 9, ..heir };
    assert_eq!(rig.faults(&[(never, 0, 1)]), [(0, BatchFault::Unknown)]);
}

#[test]
fn a_refused_slice_names_the_guilty_and_the_innocent_go_in_the_next() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.producer(), rig.producer(), rig.producer());
    accepted(rig.commit(&[(a, 0, 2)]));
    let batches = [(b, 0, 1), (a, 0, 2), (a, 2, 2), (c, 7, 1), (b, 1, 1)];
    let faults = rig.faults(&batches);
    assert_eq!(
        faults,
        [(1, BatchFault::Committed(Some(0))), (3, BatchFault::OutOfOrder { expected: 0 })]
    );
    // Sequences moved for nobody.
    assert!(committed(&rig.machine.kv, &rig.at, b.id).unwrap().is_none());
    assert_eq!(rig.machine.partition(rig.at).producers, 1);
    accepted(rig.commit(&[(b, 0, 1), (a, 2, 2), (b, 1, 1)]));
    assert_eq!(rig.machine.partition(rig.at).producers, 2);
}

#[test]
fn a_batch_twice_in_one_slice_is_written_once() {
    let mut rig = Rig::new();
    let a = rig.producer();
    let faults = rig.faults(&[(a, 0, 2), (a, 0, 2)]);
    assert_eq!(faults, [(1, BatchFault::Committed(Some(0)))]);
}

#[test]
fn two_slices_of_one_object_follow_each_other() {
    let mut rig = Rig::new();
    let a = rig.producer();
    let first = rig.slice(&[(a, 0, 2)]);
    let mut second = rig.slice(&[(a, 2, 3)]);
    (second.base_offset, second.last_offset) = (2, 4);
    accepted(rig.machine.commit(rig.session, 1, vec![first, second]));
    let state = committed(&rig.machine.kv, &rig.at, a.id).unwrap().unwrap();
    assert_eq!(state.records, 5);
}

#[test]
fn a_repeated_commit_is_answered_as_it_was_and_is_no_duplicate() {
    // RETRY comes before DEDUP.
    let mut rig = Rig::new();
    let a = rig.producer();
    let slice = rig.slice(&[(a, 0, 2)]);
    let first = rig.machine.commit(rig.session, 1, vec![slice.clone()]);
    assert_eq!(rig.machine.commit(rig.session, 1, vec![slice]), first);
    accepted(first);
}

#[test]
fn a_slice_that_misplaces_its_batches_is_refused() {
    let mut rig = Rig::new();
    let a = rig.producer();
    let good = rig.slice(&[(a, 0, 2), (a, 2, 2)]);
    type Change = fn(&mut Vec<ProducerBatch>);
    let changes: [Change; 6] = [
        |batches| batches[1].offset_delta = 1,
        |batches| batches[1].offset_delta = 3,
        |batches| batches[0].records = 0,
        |batches| batches[0].base_sequence = 1 << 31,
        |batches| batches[0].producer.epoch = 1 << 15,
        |batches| batches[1].offset_delta = u64::MAX,
    ];
    for (number, change) in (1..).zip(changes) {
        let mut slice =
            SliceCommit { producers: good.producers.clone(), ..rig.slice(&[(a, 0, 4)]) };
        change(&mut slice.producers);
        let replies = processed(rig.machine.commit(rig.session, number, vec![slice]));
        assert!(matches!(replies[0].refusal, Some(Refusal::Invalid(_))), "{replies:?}");
    }
}

#[test]
fn what_was_idle_for_a_day_is_forgotten_and_what_was_not_is_not() {
    let mut rig = Rig::new();
    let (idle, busy) = (rig.producer(), rig.producer());
    let named = given(rig.ask(Some("loader"), None));
    accepted(rig.commit(&[(idle, 0, 1), (busy, 0, 1), (named, 0, 1)]));
    for hour in 1..=25 {
        rig.machine.time_ms += 3_600_000;
        rig.machine.finish_work();
        accepted(rig.commit(&[(busy, hour, 1)]));
    }
    // CLOCK: nothing goes before its time.
    let kv = &rig.machine.kv;
    assert!(producers::producer(kv, idle.id).unwrap().is_none());
    assert!(committed(kv, &rig.at, idle.id).unwrap().is_none());
    assert!(committed(kv, &rig.at, busy.id).unwrap().is_some());
    assert_eq!(rig.machine.partition(rig.at).producers, 1);
    assert_eq!(producers::count(kv).unwrap(), 2);
    assert_eq!(rig.faults(&[(idle, 1, 1)]), [(0, BatchFault::Unknown)]);
    // A name is kept for a week; then it begins anew, under another id.
    assert_eq!(given(rig.ask(Some("loader"), None)), ProducerEpoch { epoch: 1, ..named });
    rig.machine.time_ms += NAME_KEPT_MS + KEPT_MS;
    rig.machine.finish_work();
    assert_ne!(given(rig.ask(Some("loader"), None)).id, named.id);
    assert_ne!(rig.producer().id, idle.id, "ids are never reused");
}

#[test]
fn an_expiry_waits_for_the_whole_day() {
    let mut rig = Rig::new();
    let a = rig.producer();
    accepted(rig.commit(&[(a, 0, 1)]));
    rig.machine.time_ms += KEPT_MS;
    rig.machine.finish_work();
    accepted(rig.commit(&[(a, 1, 1)]));
}

#[test]
fn a_deleted_topic_takes_its_sequences_along() {
    let mut rig = Rig::new();
    let before = rig.machine.kv.pairs.keys().filter(|key| key[0] >= 0x65).count();
    let all: Vec<_> = (0..2_500).map(|_| rig.producer()).collect();
    let batches: Vec<_> = all.iter().map(|producer| (*producer, 0, 1)).collect();
    accepted(rig.commit(&batches));
    rig.machine.run(CommandBody::DeleteTopic { name: "orders".into() });
    rig.machine.finish_work();
    let left = rig.machine.kv.pairs.keys().filter(|key| key[0] >= 0x65).count();
    assert_eq!(left, before);
}

#[test]
fn a_partition_remembers_only_so_many_producers() {
    let mut rig = Rig::new();
    let all: Vec<_> = (0..=MAX_PARTITION_PRODUCERS).map(|_| rig.producer()).collect();
    let (last, others) = all.split_last().unwrap();
    let batches: Vec<_> = others.iter().map(|producer| (*producer, 0, 1)).collect();
    accepted(rig.commit(&batches));
    assert_eq!(rig.faults(&[(*last, 0, 1)]), [(0, BatchFault::TooMany)]);
    accepted(rig.commit(&[(others[0], 1, 1)]));
}
