//! DEDUP at the agent: what it answers by itself, and what it makes of a refused slice.

use super::testing::partition;
use super::tests::{Rig, accepted, object, refused, shape};
use super::{Action, Found, Question, UploadOrder};
use crate::run::Run;
use crate::ticket::{Arrival, Pending, Sequence, Ticket};
use bytes::Bytes;
use std::time::Duration;
use streamhouse_proto::v1::{
    BatchRefusal, CommittedSequences, ErrorCode, ErrorInfo, LostLease, ProducerProgress,
    SequenceRun, SliceResult,
};

const PRODUCER: u64 = 40;

impl Rig {
    /// A batch of one record to partition 0; the tag is its size and correlation.
    fn produce(&mut self, producer: u64, epoch: u16, base: u32, tag: usize) {
        self.produce_in(&Run::default(), (producer, epoch, base), tag);
    }

    fn produce_in(&mut self, run: &Run, (producer, epoch, base): (u64, u16, u32), tag: usize) {
        let ticket = Ticket::new(self.tickets.clone(), tag as u64, None).in_run(run.clone());
        let sequence = Some(Sequence { producer, epoch, base });
        let batch = Bytes::from(vec![0; tag]);
        let pending = Pending { batch, records: 1, sequence, arrived: self.now, ticket };
        self.engine.admit(Arrival { partition: partition(0), pending });
    }

    /// Who is looked up now.
    fn asked(&mut self) -> Vec<Question> {
        let asked = self.decide().into_iter().find_map(|action| match action {
            Action::LookUp(questions) => Some(questions),
            _ => None,
        });
        asked.expect("a look-up is decided")
    }

    /// Answers the look-up that is decided now: the producer's epoch, and that many records at these offsets.
    fn tell(&mut self, epoch: u32, records: u64, base_offset: u64) {
        let questions = self.asked();
        self.tell_about(questions, epoch, records, base_offset);
    }

    fn tell_about(&mut self, questions: Vec<Question>, epoch: u32, records: u64, base: u64) {
        let runs = vec![SequenceRun { first: 0, records, base_offset: base }];
        let committed = (records > 0).then_some(CommittedSequences { epoch, records, runs });
        let progress = ProducerProgress { current_epoch: Some(epoch), committed, full: false };
        let answers = vec![progress; questions.len()];
        self.engine.on_found(Found { questions, answer: Some((answers, 45)) });
    }

    /// A producer of which nothing is committed is known from here on.
    fn known() -> Self {
        let mut rig = Self::new();
        rig.produce(PRODUCER, 0, 0, 1);
        rig.tell(0, 0, 0);
        rig
    }

    /// The object under way is stored and committed, with this result; what goes out next, now that nothing is under
    /// way.
    fn commit_as(&mut self, sequence: u64, result: SliceResult) -> Option<UploadOrder> {
        self.engine.on_stored(sequence);
        let (mut next, mut committed) = (None, false);
        for action in self.decide() {
            match action {
                Action::Upload(order) => next = Some(order),
                Action::Commit(objects) => committed = objects[0].sequence == sequence,
                other => panic!("{other:?}"),
            }
        }
        assert!(committed, "object {sequence} is committed");
        self.answer(vec![object(sequence, vec![result])]);
        next
    }
}

fn guilty(index: u32, fault: Result<u64, ErrorCode>) -> BatchRefusal {
    let error = fault.err().map(|code| ErrorInfo::new(code, "wrong"));
    BatchRefusal { index, error, base_offset: fault.ok() }
}

#[test]
fn only_the_first_batch_of_a_producer_waits_for_its_look_up() {
    let mut rig = Rig::new();
    rig.produce(PRODUCER, 0, 0, 1);
    rig.produce(PRODUCER, 0, 1, 2);
    rig.send(0, 3);
    let actions = rig.decide();
    let [Action::Upload(order), Action::LookUp(asked)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(shape(order), [(0, 1, 0, vec![3])], "others do not wait");
    assert_eq!(asked, &[Question { partition: partition(0), producer: PRODUCER }]);
    rig.tell_about(asked.clone(), 0, 0, 0);
    rig.produce(PRODUCER, 0, 2, 4);
    let next = rig.commit_as(1, accepted()).expect("they go out");
    assert_eq!(rig.answered(), [(3, Ok(0))]);
    assert_eq!(shape(&next), [(0, 1, 1, vec![1, 2, 4])], "in their order, not looked up again");
}

#[test]
fn a_copy_of_a_committed_batch_is_acknowledged_at_once_with_its_offset() {
    let mut rig = Rig::new();
    rig.produce(PRODUCER, 3, 7, 1);
    rig.tell(3, 10, 100);
    assert_eq!(rig.answered(), [(1, Ok(107))]);
    // One that was committed here is known, too.
    rig.produce(PRODUCER, 3, 10, 2);
    rig.upload();
    rig.commit_as(1, accepted());
    rig.produce(PRODUCER, 3, 10, 3);
    assert_eq!(rig.answered(), [(2, Ok(0)), (3, Ok(0))]);
    assert!(rig.decide().is_empty(), "nothing is written for it");
}

#[test]
fn a_copy_of_a_batch_on_its_way_shares_its_fate() {
    let mut rig = Rig::known();
    rig.upload();
    rig.produce(PRODUCER, 0, 0, 2);
    assert_eq!(rig.answered(), []);
    rig.commit_as(1, accepted());
    assert_eq!(rig.answered(), [(2, Ok(0)), (1, Ok(0))]);

    let mut rig = Rig::known();
    rig.upload();
    rig.produce(PRODUCER, 0, 0, 2);
    rig.commit_as(1, refused(2, 0, false));
    let lost = Err(ErrorCode::NotLeaseHolder);
    assert_eq!(rig.answered(), [(2, lost), (1, lost)]);
}

#[test]
fn a_gap_is_refused_and_what_follows_it_on_its_stream() {
    let mut rig = Rig::known();
    let run = Run::default();
    rig.produce_in(&run, (PRODUCER, 0, 2), 3);
    rig.produce_in(&run, (PRODUCER, 0, 1), 2);
    let gap = Err(ErrorCode::OutOfOrderSequence);
    assert_eq!(rig.answered(), [(3, gap), (2, Err(ErrorCode::NotLeaseHolder))]);
    // In order it is taken.
    rig.produce(PRODUCER, 0, 1, 4);
    rig.produce(PRODUCER, 0, 2, 5);
    assert_eq!(shape(&rig.upload()), [(0, 1, 0, vec![1, 4, 5])]);
}

#[test]
fn an_epoch_that_is_over_is_fenced_and_one_that_never_was_is_unknown() {
    let mut rig = Rig::new();
    rig.produce(PRODUCER, 2, 0, 1);
    rig.tell(3, 5, 100);
    assert_eq!(rig.answered(), [(1, Err(ErrorCode::ProducerFenced))]);
    // Raised since it was looked up, perhaps: it is looked up again, once.
    rig.produce(PRODUCER, 4, 0, 2);
    rig.tell(4, 0, 0);
    assert_eq!(rig.answered(), []);
    assert_eq!(shape(&rig.upload()), [(0, 1, 0, vec![2])]);
    rig.produce(PRODUCER, 9, 0, 3);
    rig.tell(4, 0, 0);
    assert_eq!(rig.answered(), [(3, Err(ErrorCode::UnknownProducer))]);
}

#[test]
fn what_comes_while_a_look_up_is_under_way_is_not_judged_by_it() {
    // A producer that is made, or raises its epoch, after the look-up was asked, and sends at once.
    for answer in [None, Some(3)] {
        let mut rig = Rig::new();
        rig.produce(PRODUCER, 3, 0, 1);
        let questions = rig.asked();
        rig.produce(PRODUCER, 4, 0, 2);
        let progress = ProducerProgress { current_epoch: answer, ..Default::default() };
        rig.engine.on_found(Found { questions, answer: Some((vec![progress], 45)) });
        let first: Vec<_> = rig.answered();
        assert!(first.iter().all(|(tag, _)| *tag == 1), "{first:?}");
        rig.tell(4, 0, 0);
        assert_eq!(rig.answered(), [], "it is known now");
    }
}

#[test]
fn a_producer_for_which_there_is_no_room_is_refused_alone_and_asked_for_again() {
    let mut rig = Rig::new();
    let full = |rig: &mut Rig| {
        let questions = rig.asked();
        let progress =
            ProducerProgress { current_epoch: Some(0), full: true, ..Default::default() };
        rig.engine.on_found(Found { questions, answer: Some((vec![progress], 45)) });
    };
    for tag in [1, 2] {
        rig.produce(PRODUCER, 0, 0, tag);
        full(&mut rig);
        assert_eq!(rig.answered(), [(tag as u64, Err(ErrorCode::TooManyProducers))]);
    }
    // Its neighbours' slices stand, and once there is room, so do its own.
    rig.send(0, 3);
    rig.produce(PRODUCER, 0, 0, 4);
    let first = rig.decide();
    let [Action::Upload(order), Action::LookUp(asked)] = &first[..] else { panic!("{first:?}") };
    assert_eq!(shape(order), [(0, 1, 0, vec![3])]);
    rig.tell_about(asked.clone(), 0, 0, 0);
    let next = rig.commit_as(1, accepted()).expect("it goes out");
    assert_eq!(shape(&next), [(0, 1, 1, vec![4])]);
}

#[test]
fn a_producer_that_there_is_not_is_asked_for_again_when_it_comes_again() {
    let mut rig = Rig::new();
    for tag in [1, 2] {
        rig.produce(PRODUCER, 0, 0, tag);
        let questions = rig.asked();
        let answer = Some((vec![ProducerProgress::default()], 45));
        rig.engine.on_found(Found { questions, answer });
        assert_eq!(rig.answered(), [(tag as u64, Err(ErrorCode::UnknownProducer))]);
    }
}

#[test]
fn a_refused_slice_s_innocent_batches_go_again_in_order_and_the_guilty_are_answered() {
    let mut rig = Rig::known();
    rig.send(0, 2);
    rig.produce(PRODUCER, 0, 1, 3);
    rig.produce(PRODUCER, 0, 2, 4);
    assert_eq!(shape(&rig.upload()), [(0, 1, 0, vec![1, 2, 3, 4])]);
    // Places are counted among the batches of idempotent producers: 1, 3 and 4.
    let refused_batches = vec![guilty(0, Ok(70)), guilty(2, Err(ErrorCode::ProducerFenced))];
    rig.commit_as(1, SliceResult { refused_batches, ..refused(2, 90, true) });
    assert_eq!(rig.answered(), [(1, Ok(70)), (4, Err(ErrorCode::ProducerFenced))]);
    assert_eq!(shape(&rig.upload()), [(0, 2, 90, vec![2, 3])]);
    rig.commit_as(2, accepted());
    assert_eq!(rig.answered(), [(2, Ok(90)), (3, Ok(91))]);
}

#[test]
fn a_producer_is_looked_up_again_after_a_batch_of_it_was_lost() {
    let mut rig = Rig::known();
    rig.upload();
    let error = guilty(0, Err(ErrorCode::OutOfOrderSequence));
    rig.commit_as(1, SliceResult { refused_batches: vec![error], ..refused(2, 0, true) });
    assert_eq!(rig.answered(), [(1, Err(ErrorCode::OutOfOrderSequence))]);
    rig.produce(PRODUCER, 0, 0, 2);
    rig.tell(0, 5, 100);
    assert_eq!(rig.answered(), [(2, Ok(100))]);
}

#[test]
fn what_is_on_its_way_counts_when_a_producer_is_looked_up_again() {
    let mut rig = Rig::known();
    rig.upload();
    rig.produce(PRODUCER, 0, 1, 2);
    // The lease was news: somebody else may have written. What was found has none of ours yet.
    rig.lease(0, 1, 0, true);
    rig.lease(0, 1, 0, false);
    rig.produce(PRODUCER, 0, 2, 3);
    let questions = rig.asked();
    // One of them is committed before the answer comes, which does not have it.
    let second = rig.commit_as(1, accepted()).expect("it goes out");
    assert_eq!(shape(&second), [(0, 1, 1, vec![2])]);
    rig.tell_about(questions, 0, 0, 0);
    rig.produce(PRODUCER, 0, 0, 4);
    rig.produce(PRODUCER, 0, 3, 5);
    assert_eq!(rig.answered(), [(1, Ok(0)), (4, Ok(0))]);
    let third = rig.commit_as(2, accepted()).expect("it goes out");
    assert_eq!(shape(&third), [(0, 1, 2, vec![3, 5])]);
}

#[test]
fn what_waits_for_a_look_up_fails_with_the_lease() {
    let mut rig = Rig::new();
    rig.produce(PRODUCER, 0, 0, 1);
    let questions = rig.asked();
    let partition = Some(partition(0).to_wire());
    rig.news(|news| {
        news.lost.push(LostLease { partition, epoch: 2, ..Default::default() });
    });
    assert_eq!(rig.answered(), [(1, Err(ErrorCode::NotLeaseHolder))]);
    rig.tell_about(questions, 0, 0, 0);
    assert!(rig.decide().is_empty());
}

#[test]
fn a_lease_is_given_back_when_what_waits_for_a_look_up_is_written() {
    let mut rig = Rig::new();
    rig.produce(PRODUCER, 0, 0, 1);
    let questions = rig.asked();
    rig.lease(0, 1, 0, true);
    assert!(rig.decide().is_empty(), "not yet");
    rig.tell_about(questions, 0, 0, 0);
    rig.upload();
    rig.commit_as(1, accepted());
    assert_eq!(rig.answered(), [(1, Ok(0))]);
    let actions = rig.decide();
    assert!(
        matches!(&actions[..], [Action::Release(leases)] if leases == &[(partition(0), 1)]),
        "{actions:?}"
    );
}

#[test]
fn a_look_up_that_is_not_answered_fails_the_batch_in_time() {
    let mut rig = Rig::new();
    rig.produce(PRODUCER, 0, 0, 1);
    let questions = rig.asked();
    rig.now += Duration::from_secs(121);
    rig.decide();
    assert_eq!(rig.answered(), [(1, Err(ErrorCode::StoreUnavailable))]);
    rig.engine.on_found(Found { questions, answer: None });
    rig.produce(PRODUCER, 0, 0, 2);
    let questions = rig.asked();
    rig.engine.on_found(Found { questions, answer: None });
    assert_eq!(rig.answered(), [(2, Err(ErrorCode::Overloaded))]);
}
