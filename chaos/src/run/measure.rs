//! What a history says about availability and speed: gaps per kind of operation and fault, and each second's figures.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::history::{Event, History, Operation, Outcome, Partition, Read, Value};

use super::bounds::{AFTERMATH_US, Pause};
use super::report::FaultRun;
use super::standstill::Standstill;

/// Kinds of operations whose gaps are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Acknowledgements, partition by partition.
    Send,
    /// The same of each producer by itself, whoever took its place included.
    ClientSend,
    /// Records handed out for the first time, partition by partition.
    Poll,
    /// The same of each consumer of all partitions, and of each group, by itself.
    ReaderPoll,
    /// Answers of metadata clients, all together.
    Metadata,
    /// Offset commits and fetches, all together.
    Offsets,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Send, Self::ClientSend, Self::Poll, Self::ReaderPoll, Self::Metadata, Self::Offsets];

    const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::ClientSend => "send, of one client",
            Self::Poll => "poll",
            Self::ReaderPoll => "poll, of one reader",
            Self::Metadata => "metadata",
            Self::Offsets => "offsets",
        }
    }
}

/// Faults whose pauses are told by name.
const BY_NAME: [&str; 12] = [
    "kill-leader",
    "kill-agent",
    "isolate-leader",
    "isolate-follower",
    "minority-leader",
    "ring",
    "mute-leader",
    "deaf-leader",
    "agent-controllers",
    "agent-store",
    "client-store",
    "client-agents",
];

/// The longest times without an operation of one kind, one for each fault.
#[derive(Debug, Clone, Serialize)]
pub struct Gaps {
    /// The kind.
    pub kind: String,
    /// How many faults that is.
    pub faults: usize,
    /// How many of the times had not ended when clients were told to stop. They count up to then.
    pub not_over: usize,
    /// Half of the faults kept it waiting no longer.
    pub p50_ms: u64,
    /// 99 of 100 faults.
    pub p99_ms: u64,
    /// All.
    pub max_ms: u64,
    /// The fault of the longest.
    pub worst_fault: String,
    /// When that began, seconds into the run.
    pub worst_at_s: f64,
}

/// One second of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Second {
    pub(super) acknowledged: u64,
    pub(super) read: u64,
    /// Milliseconds from the call to the acknowledgement.
    pub(super) latencies: Vec<f64>,
}

/// Whose successes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Who<'a> {
    All,
    /// By the first process in its place.
    Client(u32),
    Group(&'a str),
}

/// One kind of operation in one place, microseconds.
#[derive(Debug, Default)]
struct Place {
    /// When it was first asked for.
    asked: u64,
    successes: Vec<u64>,
    /// When each of them was asked for, of sends.
    sent: Vec<u64>,
}

/// A time without a success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Gap {
    us: u64,
    /// It had not ended when clients were told to stop.
    open: bool,
}

/// Notes for each fault how long partitions were not written in its time, and after its healing.
pub(super) fn pauses(
    history: &History,
    faults: &mut [FaultRun],
    until_us: u64,
    standstill: &Standstill,
) {
    let places = Places::of(history);
    let sends: Vec<&Place> = places.of_kind(Kind::Send).collect();
    let ends = ends(faults, until_us);
    for (fault, end) in faults.iter_mut().zip(ends) {
        fault.pause_us = longest_of(&sends, fault.begun_us, end, until_us).us;
        // Which is the longest may be another question where the machine stood still.
        let gaps = sends.iter().flat_map(|place| place.gaps(fault.begun_us, end, until_us));
        // What lasts into the time of the next fault is that one's from there on.
        let judged = gaps.map(|(begun, ended)| (begun, ended.min(end))).map(|(begun, ended)| {
            let allowed_us = standstill.within(begun, ended);
            let near_us = standstill.within(begun.saturating_sub(AFTERMATH_US), ended);
            Pause { us: ended.saturating_sub(begun) - allowed_us, allowed_us, near_us }
        });
        fault.judged.take(judged);
        let served = |place: &&Place| {
            let first = place.successes.partition_point(|time| *time < fault.healed_us);
            // What was sent before may have been on its way when it was healed.
            let mut after = place.successes[first..].iter().zip(&place.sent[first..]);
            let written = after.find(|(_, sent)| **sent >= fault.healed_us);
            written.map(|(time, _)| time - fault.healed_us)
        };
        let all: Option<Vec<u64>> = sends.iter().map(served).collect();
        fault.writable_us = all.and_then(|all| all.into_iter().max());
    }
}

/// Each fault's time ends where the next begins.
fn ends(faults: &[FaultRun], until_us: u64) -> Vec<u64> {
    faults.iter().skip(1).map(|fault| fault.begun_us).chain([until_us]).collect()
}

/// Of the faults that were really there.
pub(super) fn gaps(history: &History, faults: &[FaultRun], until_us: u64) -> Vec<Gaps> {
    let places = Places::of(history);
    let of_kind = |kind| {
        let places: Vec<&Place> = places.of_kind(kind).collect();
        let times = faults.iter().zip(ends(faults, until_us)).filter(|(fault, _)| fault.installed);
        let longest =
            times.map(|(fault, end)| (longest_of(&places, fault.begun_us, end, until_us), fault));
        longest.collect::<Vec<_>>()
    };
    let mut gaps = Vec::new();
    for kind in Kind::ALL {
        gaps.extend(Gaps::of(kind.name(), of_kind(kind)));
    }
    let writable = faults.iter().filter(|fault| fault.installed).map(|fault| {
        let never = Gap { us: until_us.saturating_sub(fault.healed_us), open: true };
        (fault.writable_us.map_or(never, |us| Gap { us, open: false }), fault)
    });
    gaps.extend(Gaps::of("writable again", writable.collect()));
    let sends = of_kind(Kind::Send);
    for name in BY_NAME {
        let of_name = sends.iter().filter(|(_, fault)| fault.name == name);
        gaps.extend(Gaps::of(&format!("send, {name}"), of_name.copied().collect()));
    }
    gaps
}

impl Gaps {
    fn of(kind: &str, mut longest: Vec<(Gap, &FaultRun)>) -> Option<Self> {
        longest.sort_by_key(|(gap, _)| *gap);
        let (max, worst) = *longest.last()?;
        let rank = |percent: usize| longest[(longest.len() * percent).div_ceil(100).max(1) - 1].0;
        Some(Self {
            kind: kind.to_owned(),
            faults: longest.len(),
            not_over: longest.iter().filter(|(gap, _)| gap.open).count(),
            p50_ms: rank(50).us / 1_000,
            p99_ms: rank(99).us / 1_000,
            max_ms: max.us / 1_000,
            worst_fault: worst.name.to_owned(),
            worst_at_s: worst.begun_us as f64 / 1e6,
        })
    }
}

/// What may lie between two successes of a place that is served: a gap that began so shortly before a fault is its.
const USUAL_US: u64 = 1_000_000;

fn longest_of(places: &[&Place], from: u64, to: u64, end: u64) -> Gap {
    let gaps = places.iter().map(|place| place.longest(from, to, end));
    gaps.max().unwrap_or_default()
}

impl Place {
    /// The longest time without a success that began from `from` to `to`, or was under way at `from` and is counted from
    /// there; one that never ended counts to `end`.
    fn longest(&self, from: u64, to: u64, end: u64) -> Gap {
        let gap = |(begun, ended): (u64, u64)| {
            let us = ended.min(end).saturating_sub(begun);
            Gap { us, open: ended > end && us > 0 }
        };
        self.between(from, to).map(gap).max().unwrap_or_default()
    }

    /// All of them, from when until when.
    fn gaps(&self, from: u64, to: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        self.between(from, to).map(move |(begun, ended)| (begun, ended.min(end)))
    }

    /// The same; one that never ended has no end.
    fn between(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
        let (earliest, latest) = (from.saturating_sub(USUAL_US), to.saturating_sub(USUAL_US));
        let first = self.successes.partition_point(|time| *time < earliest);
        let before = first.checked_sub(1).map_or(self.asked, |before| self.successes[before]);
        // If that was long before the fault, the fault has only the rest.
        let before =
            if before < earliest { Some(from) } else { (before < latest).then_some(before) };
        let begun = self.successes[first..].iter().copied().take_while(move |time| *time < latest);
        let ends = self.successes[first..].iter().copied().chain([u64::MAX]);
        before.into_iter().chain(begun).zip(ends)
    }
}

/// All successes, by place.
#[derive(Default)]
struct Places<'a> {
    places: BTreeMap<(Kind, Who<'a>, Option<Partition>), Place>,
    /// By process: the first one in its place.
    first: HashMap<u32, u32>,
    groups: HashMap<u32, &'a str>,
    /// Where something was acknowledged, and who is to read it.
    written: BTreeSet<Partition>,
    readers: BTreeSet<Who<'a>>,
    furthest: HashMap<(Who<'a>, Partition), u64>,
    /// When what is not answered yet was sent.
    asked: HashMap<Value, u64>,
}

impl<'a> Places<'a> {
    fn of(history: &'a History) -> Self {
        let mut places = Self::default();
        for event in &history.events {
            places.take(event);
        }
        places
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(move |((of, ..), _)| *of == kind).map(|(_, place)| place)
    }

    fn take(&mut self, event: &'a Event) {
        let Event { time_us, process, outcome, operation } = event;
        match operation {
            Operation::Start { follows, .. } => {
                let first = follows.and_then(|follows| self.first.get(&follows).copied());
                self.first.insert(*process, first.unwrap_or(*process));
            }
            Operation::Subscribe { group } => {
                self.groups.insert(*process, group);
            }
            Operation::Send { at, value, .. } => {
                let client = self.client(*process);
                self.note(Kind::Send, Who::All, Some(*at), *outcome, *time_us);
                self.sent(*at, *value, *outcome, *time_us);
                self.note(Kind::ClientSend, client, Some(*at), *outcome, *time_us);
                if *outcome == Outcome::Ok {
                    self.written(*at, *time_us);
                }
            }
            Operation::Poll { reads, .. } => {
                let group = self.groups.get(process).copied().map(Who::Group);
                let reader = group.unwrap_or_else(|| self.client(*process));
                self.reads(reader, *time_us);
                for read in reads {
                    self.read(Kind::Poll, Who::All, read, *time_us);
                    self.read(Kind::ReaderPoll, reader, read, *time_us);
                }
            }
            Operation::Meta { key, .. } if key.starts_with("topic ") => {
                self.note(Kind::Metadata, Who::All, None, *outcome, *time_us);
            }
            Operation::Meta { .. }
            | Operation::CommitOffset { .. }
            | Operation::FetchOffset { .. } => {
                self.note(Kind::Offsets, Who::All, None, *outcome, *time_us);
            }
            _ => {}
        }
    }

    fn client(&self, process: u32) -> Who<'a> {
        Who::Client(self.first.get(&process).copied().unwrap_or(process))
    }

    /// It was asked for, or succeeded.
    fn note(
        &mut self,
        kind: Kind,
        who: Who<'a>,
        at: Option<Partition>,
        outcome: Outcome,
        time_us: u64,
    ) {
        let place = self.places.entry((kind, who, at));
        let place = place.or_insert_with(|| Place { asked: time_us, ..Place::default() });
        if outcome == Outcome::Ok {
            place.successes.push(time_us);
        }
    }

    /// Notes when what is acknowledged was sent.
    fn sent(&mut self, at: Partition, value: Value, outcome: Outcome, time_us: u64) {
        if outcome == Outcome::Invoke {
            self.asked.insert(value, time_us);
            return;
        }
        let sent = self.asked.remove(&value).unwrap_or(time_us);
        if outcome == Outcome::Ok
            && let Some(place) = self.places.get_mut(&(Kind::Send, Who::All, Some(at)))
        {
            place.sent.push(sent);
        }
    }

    /// From the first acknowledgement on everybody can read the partition.
    fn written(&mut self, at: Partition, time_us: u64) {
        if !self.written.insert(at) {
            return;
        }
        self.note(Kind::Poll, Who::All, Some(at), Outcome::Invoke, time_us);
        for reader in self.readers.clone() {
            self.note(Kind::ReaderPoll, reader, Some(at), Outcome::Invoke, time_us);
        }
    }

    /// From its first poll on a reader is to read all that is written.
    fn reads(&mut self, reader: Who<'a>, time_us: u64) {
        if !self.readers.insert(reader) {
            return;
        }
        for at in self.written.clone() {
            self.note(Kind::ReaderPoll, reader, Some(at), Outcome::Invoke, time_us);
        }
    }

    /// What was read before is no success.
    fn read(&mut self, kind: Kind, who: Who<'a>, read: &Read, time_us: u64) {
        let known = self.furthest.entry((who, read.at)).or_default();
        if read.offset >= *known {
            *known = read.offset + 1;
            self.note(kind, who, Some(read.at), Outcome::Ok, time_us);
        }
    }
}

pub(super) fn seconds(history: &History) -> Vec<Second> {
    let mut seconds: Vec<Second> = Vec::new();
    let mut asked: HashMap<Value, u64> = HashMap::new();
    for Event { time_us, outcome, operation, .. } in &history.events {
        let at = (*time_us / 1_000_000) as usize;
        if seconds.len() <= at {
            seconds.resize(at + 1, Second::default());
        }
        match (operation, outcome) {
            (Operation::Send { value, .. }, Outcome::Invoke) => {
                asked.insert(*value, *time_us);
            }
            (Operation::Send { value, .. }, Outcome::Ok) => {
                seconds[at].acknowledged += 1;
                if let Some(asked) = asked.remove(value) {
                    seconds[at].latencies.push((time_us - asked) as f64 / 1_000.0);
                }
            }
            (Operation::Poll { reads, .. }, Outcome::Ok) => seconds[at].read += reads.len() as u64,
            _ => {}
        }
    }
    for second in &mut seconds {
        second.latencies.sort_by(f64::total_cmp);
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::fault;
    use super::*;

    fn sent(outcome: Outcome, second: u64, process: u32, partition: u32) -> Event {
        Event {
            time_us: second * 1_000_000,
            process,
            outcome,
            operation: Operation::Send {
                at: Partition { topic: 0, partition },
                value: Value { process, counter: second },
                offset: (outcome == Outcome::Ok).then_some(second),
                fenced: false,
            },
        }
    }

    fn start(process: u32, follows: Option<u32>) -> Event {
        let operation =
            Operation::Start { client: "producer".to_owned(), duplicates: false, follows };
        Event { time_us: 0, process, outcome: Outcome::Ok, operation }
    }

    fn row<'g>(gaps: &'g [Gaps], kind: &str) -> &'g Gaps {
        gaps.iter().find(|gap| gap.kind == kind).unwrap()
    }

    #[test]
    fn a_fault_is_over_for_producers_when_the_last_partition_is_written_again() {
        let events = [(1, 0), (1, 1), (9, 0), (12, 0), (14, 1), (20, 0), (21, 0)];
        let events = events.map(|(second, at)| sent(Outcome::Ok, second, 1, at));
        let history = History { events: events.to_vec() };
        let mut faults = [fault(2, 10), fault(30, 31)];
        pauses(&history, &mut faults, 40_000_000, &Standstill::default());
        // The one partition from 1 to 14; the other from 14 on, for good.
        assert_eq!((faults[0].pause_us, faults[0].writable_us), (26_000_000, Some(4_000_000)));
        assert_eq!(faults[1].writable_us, None);
        // One that was never written again counts for as long as that was seen.
        let gaps = gaps(&history, &faults, 40_000_000);
        let again = row(&gaps, "writable again");
        assert_eq!((again.faults, again.not_over, again.max_ms), (2, 1, 9_000));
    }

    #[test]
    fn what_was_sent_before_a_healing_does_not_show_that_it_is_over() {
        let sends = [(Outcome::Invoke, 8, 7), (Outcome::Ok, 11, 7), (Outcome::Invoke, 11, 8)];
        let sends = sends.into_iter().chain([(Outcome::Ok, 17, 8)]);
        let event = |(outcome, second, counter): (Outcome, u64, u64)| {
            let mut event = sent(outcome, second, 1, 0);
            if let Operation::Send { value, .. } = &mut event.operation {
                value.counter = counter;
            }
            event
        };
        let history = History { events: sends.map(event).collect() };
        let mut faults = [fault(2, 10)];
        pauses(&history, &mut faults, 40_000_000, &Standstill::default());
        assert_eq!(faults[0].writable_us, Some(7_000_000));
    }

    #[test]
    fn what_the_machine_stood_still_is_taken_from_the_pause_and_nothing_else() {
        let events = [1, 5, 9, 10, 14].map(|second| sent(Outcome::Ok, second, 1, 0));
        let history = History { events: events.to_vec() };
        let mut faults = [fault(2, 10)];
        // A part of the first gap, all but a second of the last, and some of a time that is no pause of it.
        let stood = [(0, 500_000), (4_500_000, 6_000_000), (10_000_000, 13_000_000)];
        pauses(&history, &mut faults, 14_000_000, &Standstill::of(&stood));
        assert_eq!(faults[0].pause_us, 4_000_000);
        assert_eq!((faults[0].judged.us, faults[0].judged.allowed_us), (3_500_000, 500_000));
    }

    #[test]
    fn pauses_of_a_fault_that_was_not_there_are_nobody_s() {
        let events = [1, 10, 20].map(|second| sent(Outcome::Ok, second, 1, 0));
        let history = History { events: events.to_vec() };
        let faults = [FaultRun { installed: false, ..fault(2, 9) }, fault(11, 12)];
        let gaps = gaps(&history, &faults, 21_000_000);
        for kind in ["send", "writable again", "send, kill-agent"] {
            assert_eq!(row(&gaps, kind).faults, 1, "{kind}");
        }
    }

    #[test]
    fn a_partition_that_never_took_a_record_has_a_pause() {
        let events = [1, 2, 10, 20, 30]
            .map(|second| sent(Outcome::Ok, second, 1, 0))
            .into_iter()
            .chain([sent(Outcome::Invoke, 4, 1, 1), sent(Outcome::Info, 29, 1, 1)]);
        let history = History { events: events.collect() };
        let mut faults = [fault(2, 10)];
        pauses(&history, &mut faults, 40_000_000, &Standstill::default());
        assert_eq!((faults[0].pause_us, faults[0].writable_us), (36_000_000, None));
    }

    #[test]
    fn a_client_that_is_stuck_has_a_pause_though_others_are_not() {
        let mut events = vec![start(1, None), start(2, None), start(3, Some(2))];
        for second in 1..40 {
            events.push(sent(Outcome::Ok, second, 1, 0));
            // The other one is stuck from 5 on, and goes on under another number at 25.
            match second {
                1..=5 => events.push(sent(Outcome::Ok, second, 2, 0)),
                25.. => events.push(sent(Outcome::Ok, second, 3, 0)),
                _ => {}
            }
        }
        let history = History { events };
        let faults = [fault(4, 6)];
        let gaps = gaps(&history, &faults, 39_000_000);
        assert_eq!(row(&gaps, "send").max_ms, 1_000);
        let client = row(&gaps, "send, of one client");
        assert_eq!((client.max_ms, client.not_over), (20_000, 0));
    }

    #[test]
    fn a_gap_counts_for_the_fault_in_whose_time_it_began_and_its_rest_for_the_next() {
        let successes = [9, 10, 50, 55, 60].map(|s| s * 1_000_000).to_vec();
        let place = Place { successes, ..Place::default() };
        let longest = |from, to| {
            let [from, to, end] = [from, to, 90].map(|s| s * 1_000_000);
            let gap = place.longest(from, to, end);
            (gap.us / 1_000_000, gap.open)
        };
        // It began with the last success before the fault, and reaches into the time of the next.
        assert_eq!(longest(11, 30), (40, false));
        assert_eq!(longest(30, 54), (20, false));
        assert_eq!(longest(51, 54), (5, false));
        // Nothing came any more.
        assert_eq!(longest(57, 80), (30, true));
        assert_eq!(longest(80, 90), (10, true));
    }
}
