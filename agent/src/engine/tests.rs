//! The engine as a whole: batches and answers in, decisions out.

use super::testing::partition;
use super::{Action, Built, CommitAnswer, Engine, FlushRule, Rules, SessionIds, UploadOrder};
use crate::clock;
use crate::run::Run;
use crate::ticket::{Arrival, Pending, Ticket};
use bytes::Bytes;
use std::time::{Duration, Instant};
use streamhouse_proto::v1::{
    AttachResponse, CommitObjectsResponse, ErrorCode, ErrorInfo, Lease, LostLease, ObjectCommit,
    ObjectResult, ProduceResult, SliceResult,
};
use streamhouse_segment::{ClusterId, Generation, SessionId};
use tokio::sync::mpsc;

/// Longer than any test lets pass without meaning to.
const TTL: Duration = Duration::from_secs(600);

pub(super) struct Rig {
    pub(super) engine: Engine,
    pub(super) now: Instant,
    pub(super) tickets: mpsc::UnboundedSender<ProduceResult>,
    answers: mpsc::UnboundedReceiver<ProduceResult>,
}

impl Rig {
    /// An engine that holds partitions 0 and 1 in epoch 1.
    pub(super) fn new() -> Self {
        let ids = SessionIds {
            cluster: ClusterId::from_bytes([1; 16]),
            generation: Generation { counter: 1, random: 2 },
            session: SessionId(7),
        };
        let flush = FlushRule {
            bytes: 1 << 20,
            interval: Duration::from_millis(100),
            max_slices: 16,
            max_batches: 64,
        };
        let rules = Rules { flush, max_uploads: 4, delivery_timeout: Duration::from_secs(120) };
        let (tickets, answers) = mpsc::unbounded_channel();
        let mut rig = Self {
            engine: Engine::new(ids, rules, TTL, clock::now()),
            now: clock::now(),
            tickets,
            answers,
        };
        rig.lease(0, 1, 0, false);
        rig.lease(1, 1, 0, false);
        rig
    }

    pub(super) fn news(&mut self, change: impl FnOnce(&mut AttachResponse)) {
        let mut news = AttachResponse { leader: true, term: 1, ..Default::default() };
        change(&mut news);
        self.engine.on_news(&news, self.now);
    }

    pub(super) fn lease(&mut self, number: u32, epoch: u32, next_offset: u64, revoking: bool) {
        let partition = Some(partition(number).to_wire());
        let lease =
            Lease { partition, epoch, epoch_start_offset: next_offset, next_offset, revoking };
        self.news(|news| news.leases.push(lease));
    }

    /// A batch of one record and `tag` bytes, which is also its correlation.
    pub(super) fn send(&mut self, number: u32, tag: usize) {
        self.send_in(Run::default(), number, tag);
    }

    fn send_in(&mut self, run: Run, number: u32, tag: usize) {
        let ticket = Ticket::new(self.tickets.clone(), tag as u64, None).in_run(run);
        let batch = Bytes::from(vec![0; tag]);
        let pending = Pending { batch, records: 1, sequence: None, arrived: self.now, ticket };
        self.engine.admit(Arrival { partition: partition(number), pending });
    }

    pub(super) fn decide(&mut self) -> Vec<Action> {
        self.engine.decide(self.now, 1_000)
    }

    pub(super) fn upload(&mut self) -> UploadOrder {
        match self.decide().pop() {
            Some(Action::Upload(order)) => order,
            other => panic!("expected an upload, got {other:?}"),
        }
    }

    pub(super) fn commit(&mut self) -> Vec<ObjectCommit> {
        let commits = self.decide().into_iter().find_map(|action| match action {
            Action::Commit(objects) => Some(objects),
            _ => None,
        });
        commits.expect("a commit is decided")
    }

    /// Sends one batch and has it uploaded as an object of its own.
    fn store(&mut self, number: u32, tag: usize) {
        self.send(number, tag);
        let order = self.upload();
        let built = Built { chunks: vec![Bytes::from(vec![0; tag])], slices: Vec::new() };
        self.engine.on_built(order.id.sequence, built);
        self.engine.on_stored(order.id.sequence);
    }

    pub(super) fn answer(&mut self, results: Vec<ObjectResult>) {
        let response = CommitObjectsResponse { results, applied: 50 };
        self.engine.on_committed(CommitAnswer::Answered(response), self.now);
    }

    /// The answers so far: correlation, and base offset or error.
    pub(super) fn answered(&mut self) -> Vec<(u64, Result<u64, ErrorCode>)> {
        let mut all = Vec::new();
        while let Ok(result) = self.answers.try_recv() {
            let answer = match &result.error {
                None => Ok(result.base_offset),
                Some(error) => Err(error.code()),
            };
            all.push((result.correlation, answer));
        }
        all
    }
}

pub(super) fn object(sequence: u64, slices: Vec<SliceResult>) -> ObjectResult {
    ObjectResult { sequence, error: None, slices }
}

pub(super) fn accepted() -> SliceResult {
    SliceResult { accepted: true, still_holder: true, ..Default::default() }
}

pub(super) fn refused(lease_epoch: u32, next_offset: u64, still_holder: bool) -> SliceResult {
    let error = Some(ErrorInfo::new(ErrorCode::StaleCommit, "stale"));
    SliceResult { error, lease_epoch, next_offset, still_holder, ..Default::default() }
}

pub(super) fn shape(order: &UploadOrder) -> Vec<(u32, u32, u64, Vec<usize>)> {
    let of = |(start, batches): &(streamhouse_segment::object::SliceStart, Vec<Bytes>)| {
        let sizes = batches.iter().map(Bytes::len).collect();
        (start.partition, start.lease_epoch, start.base_offset, sizes)
    };
    order.slices.iter().map(of).collect()
}

#[test]
fn batches_are_acknowledged_with_their_real_offsets_by_the_commit_s_answer() {
    let mut rig = Rig::new();
    rig.send(0, 1);
    rig.send(0, 2);
    rig.send(1, 3);
    let order = rig.upload();
    assert_eq!(shape(&order), [(0, 1, 0, vec![1, 2]), (1, 1, 0, vec![3])]);
    rig.engine.on_stored(1);
    assert_eq!(rig.commit()[0].sequence, 1);
    assert_eq!(rig.answered(), [], "a stored object is not yet a commit");
    rig.answer(vec![object(1, vec![accepted(), accepted()])]);
    assert_eq!(rig.answered(), [(1, Ok(0)), (2, Ok(1)), (3, Ok(0))]);
}

#[test]
fn a_refused_slice_and_all_behind_it_are_resubmitted_in_order_and_once() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    assert_eq!(rig.commit().len(), 1);
    rig.store(0, 2);
    rig.store(0, 3);
    rig.send(0, 4);
    // 4 is already under way with 5 still in the buffer, when 1 is refused and the epoch raised.
    let fourth = rig.upload();
    rig.send(0, 5);
    rig.answer(vec![object(1, vec![refused(2, 10, true)])]);
    assert_eq!(rig.answered(), []);
    // The upload of 4 ends; its batch has been taken back all the same.
    rig.engine.on_stored(fourth.id.sequence);
    let actions = rig.decide();
    let [Action::Upload(order), Action::Commit(objects)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(shape(order), [(0, 2, 10, vec![1, 2, 3, 4, 5])]);
    assert_eq!(objects.len(), 3, "the stale objects are committed so that they are accounted for");
    let stale = |sequence| object(sequence, vec![refused(2, 10, true)]);
    rig.answer(vec![stale(2), stale(3), stale(4)]);
    assert_eq!(rig.answered(), []);
    rig.engine.on_stored(5);
    rig.commit();
    rig.answer(vec![object(5, vec![accepted()])]);
    let expected: Vec<_> = (1..=5).map(|tag| (tag, Ok(9 + tag))).collect();
    assert_eq!(rig.answered(), expected);
}

#[test]
fn a_refusal_reaches_the_objects_behind_it_in_the_same_request() {
    let mut rig = Rig::new();
    rig.store(1, 9);
    rig.commit();
    // While that commit is awaited two more objects are finished; both go into the next request.
    rig.store(0, 1);
    rig.store(0, 2);
    rig.answer(vec![object(1, vec![accepted()])]);
    assert_eq!(rig.commit().len(), 2);
    rig.send(0, 3);
    let stale = |sequence| object(sequence, vec![refused(2, 0, true)]);
    rig.answer(vec![stale(2), stale(3)]);
    assert_eq!(shape(&rig.upload()), [(0, 2, 0, vec![1, 2, 3])]);
}

#[test]
fn a_raised_epoch_told_by_the_leader_first_waits_for_the_commit_s_answer() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    rig.lease(0, 2, 0, false);
    rig.send(0, 2);
    assert!(rig.decide().is_empty(), "2 must not overtake 1, which may come back");
    rig.answer(vec![object(1, vec![refused(2, 0, true)])]);
    assert_eq!(shape(&rig.upload()), [(0, 2, 0, vec![1, 2])]);
}

#[test]
fn an_abandoned_object_is_resubmitted_under_the_raised_epoch() {
    let mut rig = Rig::new();
    rig.send(0, 1);
    rig.send(1, 2);
    rig.upload();
    rig.engine.on_given_up(1);
    let commit = rig.commit();
    assert!(commit[0].abandoned);
    assert_eq!(commit[0].abandoned_partitions.len(), 2);
    rig.answer(vec![object(1, vec![refused(2, 0, true), refused(2, 0, true)])]);
    let order = rig.upload();
    assert_eq!(shape(&order), [(1, 2, 0, vec![2]), (0, 2, 0, vec![1])]);
    assert_eq!(order.outcomes.len(), 2);
    assert_eq!(order.id.sequence, 2);
}

#[test]
fn outcomes_of_an_object_that_was_given_up_are_told_by_the_next() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    rig.answer(vec![object(1, vec![accepted()])]);
    rig.send(0, 2);
    let told = rig.upload().outcomes;
    assert_eq!(told.len(), 1);
    rig.engine.on_given_up(2);
    assert!(rig.commit()[0].abandoned);
    rig.send(1, 3);
    assert_eq!(rig.upload().outcomes, told, "no object in the store has told them yet");
    rig.engine.on_stored(3);
    rig.send(1, 4);
    assert_eq!(rig.upload().outcomes, [], "now one has");
}

#[test]
fn an_object_that_cannot_be_built_fails_its_own_batches_and_nothing_else() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    rig.send(0, 2);
    rig.upload();
    // Behind it, one of the same partition and one of another, already stored.
    rig.send(0, 3);
    rig.send(1, 4);
    rig.now += Duration::from_millis(100);
    let later = rig.upload();
    rig.engine.on_stored(later.id.sequence);
    rig.engine.on_unbuildable(2, "too large");
    assert_eq!(rig.answered(), [(2, Err(ErrorCode::InvalidArgument))]);
    rig.answer(vec![object(1, vec![accepted()])]);
    let objects = rig.commit();
    assert!(objects[0].abandoned && !objects[1].abandoned);
    assert_eq!(objects[0].abandoned_partitions, [partition(0).to_wire()]);
    let stale = refused(2, 1, true);
    let third = object(3, vec![stale.clone(), accepted()]);
    rig.answer(vec![object(2, vec![stale]), third]);
    assert_eq!(rig.answered(), [(1, Ok(0)), (4, Ok(0))]);
    assert_eq!(shape(&rig.upload()), [(0, 2, 1, vec![3])]);
}

#[test]
fn a_batch_too_old_to_be_resubmitted_fails() {
    let mut rig = Rig::new();
    rig.send(0, 1);
    rig.upload();
    rig.engine.on_given_up(1);
    rig.commit();
    rig.now += Duration::from_secs(121);
    rig.answer(vec![object(1, vec![refused(2, 0, true)])]);
    assert_eq!(rig.answered(), [(1, Err(ErrorCode::StoreUnavailable))]);
}

#[test]
fn a_lost_lease_fails_what_is_buffered_and_waits_for_what_is_in_flight() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    rig.send(1, 2);
    rig.upload();
    rig.send(0, 3);
    rig.news(|news| {
        news.lost.push(LostLease {
            partition: Some(partition(0).to_wire()),
            epoch: 2,
            address: "b:1".to_owned(),
        });
    });
    rig.send(0, 4);
    let moved = Err(ErrorCode::NotLeaseHolder);
    assert_eq!(rig.answered(), [(3, moved), (4, moved)]);
    rig.answer(vec![object(1, vec![accepted()])]);
    assert_eq!(rig.answered(), [(1, Ok(0))]);
}

#[test]
fn what_is_behind_a_refused_batch_is_refused_until_its_producer_starts_over() {
    let mut rig = Rig::new();
    let run = Run::default();
    let lost =
        LostLease { partition: Some(partition(0).to_wire()), epoch: 2, ..Default::default() };
    rig.news(|news| news.lost.push(lost));
    rig.send_in(run.clone(), 0, 1);
    // The lease comes back while the batch behind is on its way.
    rig.lease(0, 3, 0, false);
    rig.send_in(run, 0, 2);
    let refused = Err(ErrorCode::NotLeaseHolder);
    assert_eq!(rig.answered(), [(1, refused), (2, refused)]);
    assert!(rig.decide().is_empty());
    // Another producer's batches, and what the first one sends again, are taken.
    rig.send(0, 3);
    rig.send_in(Run::default(), 0, 1);
    assert_eq!(shape(&rig.upload()), [(0, 3, 0, vec![3, 1])]);
}

#[test]
fn a_batch_that_is_too_old_takes_those_behind_it_along() {
    let mut rig = Rig::new();
    let run = Run::default();
    rig.send_in(run.clone(), 0, 1);
    rig.now += Duration::from_secs(121);
    rig.send_in(run, 0, 2);
    rig.send(0, 3);
    assert_eq!(shape(&rig.upload()), [(0, 1, 0, vec![3])]);
    let moved = Err(ErrorCode::NotLeaseHolder);
    assert_eq!(rig.answered(), [(1, Err(ErrorCode::StoreUnavailable)), (2, moved)]);
}

#[test]
fn a_deleted_topic_fails_its_batches_and_not_its_neighbours() {
    let mut rig = Rig::new();
    rig.send(0, 1);
    rig.send(1, 2);
    rig.upload();
    rig.engine.on_stored(1);
    rig.send(0, 3);
    rig.commit();
    let gone = SliceResult {
        error: Some(ErrorInfo::new(ErrorCode::UnknownTopic, "no such topic")),
        ..Default::default()
    };
    rig.answer(vec![object(1, vec![gone, accepted()])]);
    let answers = rig.answered();
    assert!(answers.contains(&(1, Err(ErrorCode::UnknownTopic))));
    assert!(answers.contains(&(2, Ok(0))));
}

#[test]
fn a_revoked_lease_is_given_back_when_its_last_answer_is_in() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    rig.store(1, 9);
    rig.send(1, 10);
    rig.upload();
    rig.send(0, 2);
    rig.lease(0, 1, 0, true);
    rig.send(0, 3);
    assert_eq!(rig.answered(), [(3, Err(ErrorCode::NotLeaseHolder))]);
    // Although an upload is in flight: somebody waits for the lease.
    assert_eq!(shape(&rig.upload()), [(0, 1, 1, vec![2])]);
    rig.engine.on_stored(3);
    rig.engine.on_stored(4);
    rig.answer(vec![object(1, vec![accepted()])]);
    assert_eq!(rig.commit().len(), 3);
    rig.answer(vec![2, 3, 4].into_iter().map(|n| object(n, vec![accepted()])).collect());
    let actions = rig.decide();
    let [Action::Release(leases)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(leases, &[(partition(0), 1)]);
    assert!(rig.decide().is_empty(), "given back once");
}

#[test]
fn a_drain_ends_when_everything_is_answered_and_given_back() {
    let mut rig = Rig::new();
    rig.send(0, 1);
    rig.engine.drain();
    rig.send(0, 2);
    assert_eq!(rig.answered(), [(2, Err(ErrorCode::NotLeaseHolder))]);
    // What is buffered leaves; leases are given back only when the controllers ask for them.
    assert!(matches!(&rig.decide()[..], [Action::Upload(_)]));
    rig.lease(0, 1, 0, true);
    rig.lease(1, 1, 0, true);
    let actions = rig.decide();
    let [Action::Release(leases)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(leases, &[(partition(1), 1)]);
    rig.engine.on_released(1);
    rig.engine.on_stored(1);
    rig.commit();
    assert!(!rig.engine.is_done());
    rig.answer(vec![object(1, vec![accepted()])]);
    assert!(matches!(&rig.decide()[..], [Action::Release(_)]));
    assert!(!rig.engine.is_done());
    rig.engine.on_released(1);
    assert!(rig.engine.is_done());
    assert_eq!(rig.answered(), [(1, Ok(0))]);
}

#[test]
fn when_the_session_ends_only_what_was_sent_to_be_committed_is_awaited() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    rig.store(0, 2);
    rig.send(0, 3);
    rig.upload();
    rig.send(0, 4);
    rig.news(|news| news.ended = true);
    assert_eq!(rig.answered(), [], "from a leader that has not applied our registration yet");
    rig.news(|news| (news.ended, news.applied) = (true, 7));
    let certain = Err(ErrorCode::NotLeaseHolder);
    assert_eq!(rig.answered(), [(4, certain), (2, certain), (3, certain)]);
    assert!(matches!(&rig.decide()[..], [Action::SessionOver]));
    assert!(!rig.engine.is_done());
    // RETRY: the commit had been applied, and its first result is the answer.
    rig.answer(vec![object(1, vec![accepted()])]);
    assert_eq!(rig.answered(), [(1, Ok(0))]);
    assert!(rig.engine.is_done());
}

#[test]
fn the_next_session_takes_nothing_that_is_behind_what_the_last_one_left_open() {
    let (mut last, mut next) = (Rig::new(), Rig::new());
    let run = Run::default();
    last.send_in(run.clone(), 0, 1);
    last.upload();
    last.engine.on_stored(1);
    last.commit();
    last.news(|news| (news.ended, news.applied) = (true, 7));
    // The partition is ours again before anybody knows what became of the first batch.
    next.send_in(run, 0, 2);
    let refused = Err(ErrorCode::NotLeaseHolder);
    assert_eq!(next.answered(), [(2, refused)]);
    assert!(next.decide().is_empty());
    let error = Some(ErrorInfo::new(ErrorCode::SessionEnded, "ended"));
    last.answer(vec![ObjectResult { sequence: 1, error, slices: Vec::new() }]);
    assert_eq!(last.answered(), [(1, refused)]);
    // Now its producer knows of both, and begins anew.
    let anew = Run::default();
    next.send_in(anew.clone(), 0, 1);
    next.send_in(anew, 0, 2);
    assert_eq!(shape(&next.upload()), [(0, 1, 0, vec![1, 2])]);
}

#[test]
fn a_fenced_commit_fails_for_certain_and_an_unanswered_one_in_doubt() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    let error = Some(ErrorInfo::new(ErrorCode::SessionEnded, "ended"));
    rig.answer(vec![ObjectResult { sequence: 1, error, slices: Vec::new() }]);
    assert_eq!(rig.answered(), [(1, Err(ErrorCode::NotLeaseHolder))]);
    assert!(matches!(&rig.decide()[..], [Action::SessionOver]));

    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    rig.engine.on_committed(CommitAnswer::Unknown, rig.now);
    assert_eq!(rig.answered(), [(1, Err(ErrorCode::OutcomeUnknown))]);
}

#[test]
fn another_holder_s_answer_fails_the_slice_and_the_buffer() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    rig.store(1, 2);
    rig.send(1, 5);
    rig.upload();
    rig.send(0, 3);
    rig.answer(vec![object(1, vec![refused(2, 0, false)])]);
    let moved = Err(ErrorCode::NotLeaseHolder);
    assert_eq!(rig.answered(), [(1, moved), (3, moved)]);
}

#[test]
fn a_session_that_hears_no_leader_for_its_ttl_ends() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    rig.send(0, 2);
    // A follower's word is no sign that the session lives, nor is a leader's that does not know it.
    rig.now += TTL - Duration::from_millis(1);
    rig.news(|news| news.leader = false);
    rig.news(|news| news.ended = true);
    rig.now += Duration::from_millis(1);
    assert!(rig.engine.wake_at().is_some_and(|at| at <= rig.now), "it wakes up for this");
    let actions = rig.decide();
    assert!(matches!(actions.last(), Some(Action::SessionOver)), "{actions:?}");
    rig.send(0, 3);
    let gone = rig.answered();
    assert!(gone.iter().all(|(_, answer)| *answer == Err(ErrorCode::NotLeaseHolder)), "{gone:?}");
    assert_eq!(gone.len(), 2, "what was sent to be committed awaits its answer");
}

#[test]
fn a_leader_s_news_keep_the_session() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.now += TTL - Duration::from_millis(1);
        rig.news(|_| ());
        assert!(rig.decide().is_empty());
    }
}

#[test]
fn a_batch_that_waits_for_too_long_fails_without_a_flush() {
    let mut rig = Rig::new();
    // A raised epoch that was told by the leader first: nothing is flushed before the commit's answer.
    rig.store(0, 1);
    rig.commit();
    rig.lease(0, 2, 0, false);
    rig.send(0, 2);
    assert!(rig.decide().is_empty());
    let wake = rig.engine.wake_at().unwrap();
    assert!(wake <= rig.now + Duration::from_secs(1), "although nothing is due to be flushed");
    rig.now += Duration::from_secs(121);
    assert!(rig.decide().is_empty());
    assert_eq!(rig.answered(), [(2, Err(ErrorCode::StoreUnavailable))]);
}

#[test]
fn nothing_is_kept_of_a_deleted_partition() {
    let mut rig = Rig::new();
    rig.store(0, 1);
    rig.commit();
    let lose = |rig: &mut Rig, number| {
        let partition = Some(partition(number).to_wire());
        let lost = LostLease { partition, epoch: u32::MAX, address: String::new() };
        rig.news(|news| news.lost.push(lost));
    };
    lose(&mut rig, 0);
    lose(&mut rig, 1);
    assert_eq!(rig.engine.leases.known(), 1, "one still awaits an answer");
    let gone = SliceResult {
        error: Some(ErrorInfo::new(ErrorCode::UnknownTopic, "no such topic")),
        ..Default::default()
    };
    rig.answer(vec![object(1, vec![gone])]);
    assert_eq!(rig.engine.leases.known(), 0);
    // Of another session's partition nothing is kept in the first place.
    lose(&mut rig, 7);
    assert_eq!(rig.engine.leases.known(), 0);
}
