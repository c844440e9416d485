//! GC: what may be deleted, decided by the state alone.

use crate::machine::{GENERATION, Machine, accepted, key};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use streamhouse_controller::state::collector::{
    CollectorReply, CollectorStep, HOLD_MS, KeptBackups, MAX_HOLDS, MAX_OBJECTS, ObjectName,
    SweepReport, Terms, Verdict, collector, judge, last_sweep,
};
use streamhouse_controller::state::command::{
    CommandBody, GenerationKey, ObjectCommit, ObjectContents,
};
use streamhouse_controller::state::partitions::partition;
use streamhouse_controller::state::reply::{Refusal, Reply};
use streamhouse_controller::state::segments::{Source, segments_from};
use streamhouse_controller::state::sessions;

const GRACE_MS: u64 = 60_000;
const NO_BACKUPS: KeptBackups = KeptBackups { oldest_index: None, of_others: false };

fn name(session: u64, sequence: u64) -> ObjectName {
    ObjectName { generation: GENERATION, session, sequence }
}

impl Machine {
    fn verdict_with(&self, backups: KeptBackups, object: ObjectName) -> Verdict {
        let terms = Terms { index: self.index, now_ms: self.time_ms, grace_ms: GRACE_MS, backups };
        judge(&self.kv, &terms, &object).unwrap()
    }

    fn verdict(&self, object: ObjectName) -> Verdict {
        self.verdict_with(NO_BACKUPS, object)
    }

    fn collect(&mut self, step: CollectorStep) -> Reply {
        self.run(CommandBody::Collect(step))
    }

    fn acquire(&mut self, session: u64) -> Reply {
        let known = sessions::session(&self.kv, session).unwrap();
        let instance = known.map_or([0; 16], |known| known.instance);
        self.collect(CollectorStep::Acquire { session, instance })
    }

    fn allow(&mut self, session: u64, epoch: u64, objects: Vec<ObjectName>) -> Reply {
        let backups = NO_BACKUPS;
        self.collect(CollectorStep::Allow { session, epoch, grace_ms: GRACE_MS, backups, objects })
    }
}

fn granted(epoch: u64) -> Reply {
    Reply::Collector(CollectorReply::Granted { epoch })
}

fn done() -> Reply {
    Reply::Collector(CollectorReply::Done)
}

fn held(holder: u64) -> Reply {
    Reply::Collector(CollectorReply::Held { holder })
}

fn allowed(verdict: Verdict) -> Reply {
    Reply::Collector(CollectorReply::Allowed(vec![verdict]))
}

/// One agent, one topic of one partition, one object in the index.
fn one_object() -> (Machine, u64) {
    let mut machine = Machine::new();
    let agent = machine.session("agent:1");
    let topic = machine.topic("t", 1);
    let slice = machine.slice(key(topic, 0), 10);
    accepted(machine.commit(agent, 1, vec![slice]));
    (machine, agent)
}

#[test]
fn what_the_index_refers_to_is_reachable_whatever_becomes_of_its_writer() {
    let (mut machine, agent) = one_object();
    assert_eq!(machine.verdict(name(agent, 1)), Verdict::Reachable);
    machine.run(CommandBody::EndSession { session: agent });
    machine.time_ms += 10 * sessions::RESULTS_KEPT_MS;
    machine.finish_work();
    assert!(sessions::session(&machine.kv, agent).unwrap().is_none(), "the session is forgotten");
    assert_eq!(machine.verdict(name(agent, 1)), Verdict::Reachable);
}

#[test]
fn a_live_session_may_still_commit_what_comes_after_its_last_object() {
    let (mut machine, agent) = one_object();
    assert_eq!(machine.verdict(name(agent, 2)), Verdict::Undecided);
    // Age alone proves nothing.
    machine.time_ms += 10 * sessions::RESULTS_KEPT_MS;
    assert_eq!(machine.verdict(name(agent, 2)), Verdict::Undecided);
    // Its PUT is given up; whatever lands of it later is below what the session can commit.
    let contents = ObjectContents::Abandoned(Vec::new());
    machine.commit_object(agent, ObjectCommit { sequence: 2, size: 0, contents });
    assert_eq!(machine.verdict(name(agent, 2)), Verdict::Unreachable);
}

#[test]
fn what_an_ended_session_did_not_commit_is_unreachable_after_the_grace() {
    let (mut machine, agent) = one_object();
    machine.run(CommandBody::EndSession { session: agent });
    assert_eq!(machine.verdict(name(agent, 2)), Verdict::Waiting);
    machine.time_ms += GRACE_MS;
    assert_eq!(machine.verdict(name(agent, 2)), Verdict::Unreachable);
}

#[test]
fn a_deleted_topic_frees_its_objects_after_the_grace() {
    let (mut machine, agent) = one_object();
    machine.run(CommandBody::DeleteTopic { name: "t".into() });
    machine.finish_work();
    assert_eq!(machine.verdict(name(agent, 1)), Verdict::Waiting, "a reader may hold a plan");
    machine.time_ms += GRACE_MS;
    assert_eq!(machine.verdict(name(agent, 1)), Verdict::Unreachable);
}

#[test]
fn what_a_backup_that_is_being_taken_may_refer_to_stays_until_that_must_have_ended() {
    let (mut machine, agent) = one_object();
    // Begun, and not to be seen in the bucket yet.
    assert_eq!(machine.collect(CollectorStep::Hold), done());
    machine.run(CommandBody::DeleteTopic { name: "t".into() });
    machine.finish_work();
    machine.time_ms += GRACE_MS;
    assert_eq!(machine.acquire(agent), granted(1));
    let object = name(agent, 1);
    assert_eq!(machine.allow(agent, 1, vec![object]), allowed(Verdict::InBackup));
    machine.time_ms += HOLD_MS - GRACE_MS;
    machine.acquire(agent);
    assert_eq!(machine.allow(agent, 1, vec![object]), allowed(Verdict::Unreachable));
}

#[test]
fn a_backup_that_begins_after_an_object_left_the_index_does_not_keep_it() {
    let (mut machine, agent) = one_object();
    machine.run(CommandBody::DeleteTopic { name: "t".into() });
    machine.finish_work();
    machine.collect(CollectorStep::Hold);
    machine.time_ms += GRACE_MS;
    assert_eq!(machine.verdict(name(agent, 1)), Verdict::Unreachable);
}

#[test]
fn holds_are_bounded_and_the_last_one_stands_for_all_that_are_too_many() {
    let (mut machine, agent) = one_object();
    for _ in 0..MAX_HOLDS {
        machine.collect(CollectorStep::Hold);
        machine.time_ms += 1_000;
    }
    machine.run(CommandBody::DeleteTopic { name: "t".into() });
    machine.finish_work();
    // One that begins now refers to it no more, but the hold that stands for it is older, and keeps it.
    machine.collect(CollectorStep::Hold);
    let begun = machine.time_ms;
    assert_eq!(collector(&machine.kv).unwrap().holds.len(), MAX_HOLDS);
    machine.time_ms = begun + HOLD_MS - 1;
    assert_eq!(machine.verdict(name(agent, 1)), Verdict::InBackup);
    machine.time_ms = begun + HOLD_MS;
    assert_eq!(machine.verdict(name(agent, 1)), Verdict::Unreachable);
    machine.collect(CollectorStep::Hold);
    assert_eq!(collector(&machine.kv).unwrap().holds.len(), 1, "those that are over are forgotten");
}

#[test]
fn an_object_that_a_kept_backup_may_refer_to_stays() {
    let (mut machine, agent) = one_object();
    let taken_at = machine.index;
    machine.run(CommandBody::DeleteTopic { name: "t".into() });
    machine.finish_work();
    machine.time_ms += GRACE_MS;
    let kept = |index| KeptBackups { oldest_index: Some(index), of_others: false };
    assert_eq!(machine.verdict_with(kept(taken_at), name(agent, 1)), Verdict::InBackup);
    // One that was taken after the topic was gone does not hold it.
    assert_eq!(machine.verdict_with(kept(machine.index), name(agent, 1)), Verdict::Unreachable);
    // What never was in the index is in no backup.
    machine.run(CommandBody::EndSession { session: agent });
    machine.time_ms += GRACE_MS;
    assert_eq!(machine.verdict_with(kept(taken_at), name(agent, 2)), Verdict::Unreachable);
}

#[test]
fn older_generations_wait_for_an_operator_and_others_are_never_touched() {
    let mut machine = Machine::new();
    let own = GenerationKey { counter: 1, random: 7 };
    assert_eq!(own, GENERATION);
    let older = ObjectName { generation: GenerationKey { counter: 0, random: 1 }, ..name(5, 1) };
    let twin = ObjectName { generation: GenerationKey { counter: 1, random: 8 }, ..name(5, 1) };
    assert_eq!(machine.verdict(older), Verdict::Unconfirmed);
    let wrong = CollectorStep::ConfirmGeneration(twin.generation);
    assert!(matches!(machine.collect(wrong), Reply::Refused(Refusal::Invalid(_))));
    machine.collect(CollectorStep::ConfirmGeneration(own));
    assert_eq!(machine.verdict(older), Verdict::Unreachable);
    let of_others = KeptBackups { oldest_index: None, of_others: true };
    assert_eq!(machine.verdict_with(of_others, older), Verdict::InBackup);
    assert_eq!(machine.verdict(twin), Verdict::Foreign);
    assert_eq!(machine.verdict(name(1_000, 1)), Verdict::Foreign, "no such session was opened");
}

#[test]
fn one_session_collects_at_a_time() {
    let (mut machine, first) = one_object();
    let second = machine.session("agent:2");
    assert_eq!(machine.acquire(first), granted(1));
    assert_eq!(machine.acquire(first), granted(1), "asking again changes nothing");
    assert_eq!(machine.acquire(second), held(first));
    machine.run(CommandBody::EndSession { session: first });
    assert_eq!(machine.acquire(first), Reply::Refused(Refusal::SessionEnded(first)));
    assert_eq!(machine.acquire(second), granted(2));
    // The first one wakes up.
    assert_eq!(machine.allow(first, 1, vec![name(first, 9)]), held(second));
    let report = SweepReport::default();
    let late = CollectorStep::Report { session: first, epoch: 1, report };
    assert_eq!(machine.collect(late), held(second));
    assert_eq!(last_sweep(&machine.kv).unwrap(), None);
}

#[test]
fn a_collector_that_lives_and_does_nothing_is_replaced() {
    let (mut machine, first) = one_object();
    let second = machine.session("agent:2");
    assert_eq!(machine.acquire(first), granted(1));
    machine.time_ms += 3_600_000;
    assert_eq!(machine.acquire(second), granted(2));
    assert_eq!(machine.allow(first, 1, vec![name(first, 1)]), held(second));
}

#[test]
fn nothing_is_allowed_while_it_is_paused() {
    let (mut machine, agent) = one_object();
    let contents = ObjectContents::Abandoned(Vec::new());
    machine.commit_object(agent, ObjectCommit { sequence: 2, size: 0, contents });
    assert_eq!(machine.acquire(agent), granted(1));
    machine.collect(CollectorStep::SetPaused(true));
    let reply = machine.allow(agent, 1, vec![name(agent, 2)]);
    assert_eq!(reply, Reply::Collector(CollectorReply::Paused));
    machine.collect(CollectorStep::SetPaused(false));
    assert_eq!(machine.allow(agent, 1, vec![name(agent, 2)]), allowed(Verdict::Unreachable));
    assert_eq!(machine.allow(agent, 1, vec![name(agent, 1)]), allowed(Verdict::Reachable));
    let many = vec![name(agent, 2); MAX_OBJECTS + 1];
    assert!(matches!(machine.allow(agent, 1, many), Reply::Refused(Refusal::Limit(_))));
    assert_eq!(collector(&machine.kv).unwrap().epoch, 1, "a pause takes the grant from nobody");
}

#[derive(Debug, Clone)]
enum Step {
    Join(u8),
    End(u8),
    Create(u8),
    Delete(u8),
    Commit {
        by: u8,
        topic: u8,
        fits: bool,
    },
    Abandon(u8),
    Wait(u32),
    Backup,
    Prune,
    /// Somebody collects all that may be deleted now.
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..3u8).prop_map(Step::Join),
        1 => any::<u8>().prop_map(Step::End),
        1 => (0..2u8).prop_map(Step::Create),
        1 => (0..2u8).prop_map(Step::Delete),
        8 => (any::<u8>(), 0..2u8, any::<bool>())
            .prop_map(|(by, topic, fits)| Step::Commit { by, topic, fits }),
        1 => any::<u8>().prop_map(Step::Abandon),
        2 => (1..50_000_000u32).prop_map(Step::Wait),
        1 => Just(Step::Backup),
        1 => Just(Step::Prune),
        3 => Just(Step::Collect),
    ]
}

#[derive(Default)]
struct History {
    machine: Machine,
    sessions: Vec<u64>,
    sequences: BTreeMap<u64, u64>,
    topics: BTreeMap<u8, [u8; 16]>,
    /// What each kept backup refers to, by its index.
    backups: BTreeMap<u64, BTreeSet<ObjectName>>,
    /// What a collector was allowed to delete, and may delete at any time from then on.
    allowed: BTreeSet<ObjectName>,
}

impl History {
    fn session(&self, pick: u8) -> Option<u64> {
        (!self.sessions.is_empty()).then(|| self.sessions[pick as usize % self.sessions.len()])
    }

    /// Everything that was ever PUT, or might have been.
    fn objects(&self) -> Vec<ObjectName> {
        let of = |session: &u64| {
            let last = self.sequences.get(session).copied().unwrap_or(0);
            let session = *session;
            (1..=last + 2).map(move |sequence| name(session, sequence))
        };
        self.sessions.iter().flat_map(of).collect()
    }

    fn referred_to(&self) -> BTreeSet<ObjectName> {
        let mut found = BTreeSet::new();
        for topic in self.topics.values() {
            let key = key(*topic, 0);
            for (_, entry) in segments_from(&self.machine.kv, &key, 0, usize::MAX).unwrap() {
                let Source::L0 { generation, session, sequence } = entry.source;
                found.insert(ObjectName { generation, session, sequence });
            }
        }
        found
    }

    fn kept(&self) -> KeptBackups {
        KeptBackups { oldest_index: self.backups.keys().next().copied(), of_others: false }
    }

    fn commit(&mut self, by: u8, topic: u8, fits: bool) {
        let (Some(session), Some(topic)) = (self.session(by), self.topics.get(&topic).copied())
        else {
            return;
        };
        let key = key(topic, 0);
        if partition(&self.machine.kv, &key).unwrap().is_none() {
            return;
        }
        let mut slice = self.machine.slice(key, 3);
        if !fits {
            slice.base_offset += 1;
            slice.last_offset += 1;
        }
        let sequence = self.next(session);
        self.machine.commit(session, sequence, vec![slice]);
    }

    fn next(&mut self, session: u64) -> u64 {
        let last = self.sequences.entry(session).or_default();
        *last += 1;
        *last
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Join(n) => {
                let session = self.machine.session(&format!("agent-{n}:1"));
                self.sessions.push(session);
            }
            Step::End(pick) => {
                if let Some(session) = self.session(*pick) {
                    self.machine.run(CommandBody::EndSession { session });
                }
            }
            Step::Create(n) => {
                if let Reply::Topic(id) = self.machine.create(&format!("topic-{n}"), 1) {
                    self.topics.insert(*n, id);
                }
            }
            Step::Delete(n) => {
                self.machine.run(CommandBody::DeleteTopic { name: format!("topic-{n}") });
            }
            Step::Commit { by, topic, fits } => self.commit(*by, *topic, *fits),
            Step::Abandon(by) => {
                if let Some(session) = self.session(*by) {
                    let sequence = self.next(session);
                    let contents = ObjectContents::Abandoned(Vec::new());
                    let object = ObjectCommit { sequence, size: 0, contents };
                    self.machine.commit_object(session, object);
                }
            }
            Step::Wait(ms) => self.machine.time_ms += u64::from(*ms),
            Step::Backup => {
                self.backups.insert(self.machine.index, self.referred_to());
            }
            Step::Prune => {
                self.backups.pop_first();
            }
            Step::Collect => self.collect(),
        }
        self.machine.finish_work();
    }

    fn collect(&mut self) {
        let live = sessions::live(&self.machine.kv).unwrap();
        let Some((holder, _)) = live.last() else { return };
        // Whoever has it, it is taken over: a grant protects no data.
        self.machine.time_ms += 3_600_000;
        let Reply::Collector(CollectorReply::Granted { epoch }) = self.machine.acquire(*holder)
        else {
            panic!("the grant is free");
        };
        let objects = self.objects();
        for some in objects.chunks(MAX_OBJECTS) {
            let step = CollectorStep::Allow {
                session: *holder,
                epoch,
                grace_ms: GRACE_MS,
                backups: self.kept(),
                objects: some.to_vec(),
            };
            let Reply::Collector(CollectorReply::Allowed(verdicts)) = self.machine.collect(step)
            else {
                panic!("the collector holds the grant");
            };
            let may = some.iter().zip(verdicts).filter(|(_, v)| *v == Verdict::Unreachable);
            self.allowed.extend(may.map(|(name, _)| *name));
        }
    }

    /// What was ever allowed may be deleted by now: nothing refers to it, nor does a backup.
    fn check(&self) {
        let referred = self.referred_to();
        assert!(self.allowed.is_disjoint(&referred), "an object of the index may be deleted");
        for (index, backup) in &self.backups {
            assert!(self.allowed.is_disjoint(backup), "so may one of the backup of {index}");
        }
        for object in &self.allowed {
            let verdict = self.machine.verdict_with(self.kept(), *object);
            assert_eq!(verdict, Verdict::Unreachable, "{object:?} was unreachable before");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_reachable_is_ever_deleted_and_everything_unreachable_is_in_the_end(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut history = History { machine: Machine::new(), ..History::default() };
        for step in &steps {
            history.take(step);
            history.check();
        }
        // The end: no writer, no old backup, and the grace is over.
        for session in history.sessions.clone() {
            history.machine.run(CommandBody::EndSession { session });
        }
        history.machine.finish_work();
        history.machine.time_ms += GRACE_MS;
        history.backups.clear();
        let referred = history.referred_to();
        for object in history.objects() {
            let expected =
                if referred.contains(&object) { Verdict::Reachable } else { Verdict::Unreachable };
            prop_assert_eq!(history.machine.verdict(object), expected, "{:?}", object);
        }
    }
}
