//! Each key of the metadata by itself: is there an order of its operations, within the times at which they were under
//! way, that explains every answer?
//!
//! The search is Wing and Gong's (1993) with Lowe's memory of configurations (2017): operations done so far and the
//! state they lead to. An operation that may have happened can take its place once, at any time after it was asked, or
//! never. What a creation without an answer has made is of some value that only it has made: one that no other creation
//! was answered with, and that nobody has seen before.
//!
//! What such operations multiply is kept small without leaving an order out. Those without a value of their own
//! (creations, deletions) are as good as each other, so of several that may come next only the one asked first is
//! tried. Where one changes nothing it does not come about, which explains as much. Where all else are reads and
//! writes, no two of one value, a write without an answer comes about right before a read of its value, or never:
//! whatever else follows it could follow what it replaced.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::anomaly::{AnomalyKind, Report};
use crate::history::{Answer, Ask, History, Operation, Outcome};

/// BOUND: configurations of one key that are looked at before it is called undecided, and steps that this may take.
const CONFIGURATIONS: usize = 1_000_000;
const STEPS: u64 = 4_000_000_000;

/// What a key is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State<'a> {
    Absent,
    Value(&'a str),
    /// Made by a creation whose answer was lost: some value that nobody has seen yet.
    Unseen,
}

struct Op<'a> {
    ask: &'a Ask,
    /// `None`: it may have happened.
    answer: Option<&'a Answer>,
    invoked: usize,
    /// When it was answered; never, where that is not known.
    returned: usize,
    /// One that is as good as this one and was asked earlier.
    twin: Option<usize>,
    /// It happened, if at all, right before one of these.
    shown_by: Vec<usize>,
}

impl Op<'_> {
    fn may_have_happened(&self) -> bool {
        self.returned == usize::MAX
    }
}

impl<'a> Op<'a> {
    /// Whose value the cluster chose, and that was told of.
    fn chosen(&self) -> Option<&'a str> {
        match (self.ask, self.answer) {
            (Ask::Write(_), _) => None,
            (_, Some(Answer::Value(value))) => Some(value),
            _ => None,
        }
    }
}

pub(super) fn check(history: &History, report: &mut Report) {
    let keys = operations(history);
    check_values(&keys, report);
    for (key, ops) in keys {
        match explain(&ops) {
            Verdict::Explained => {}
            Verdict::Undecided => {
                let operations = ops.len();
                let why = format!("too much happened to {key}: {operations} operations");
                report.undecided.push(why);
            }
            Verdict::Unexplained { placed, next } => {
                let detail = format!(
                    "no order explains the {} operations of {key}: {placed} of them can be placed, \
                     then {:?} answered {:?} cannot",
                    ops.len(),
                    ops[next].ask,
                    ops[next].answer,
                );
                let proof = vec![ops[next].invoked, ops[next].returned];
                report.found(AnomalyKind::NonlinearizableMeta, detail, proof);
            }
        }
    }
}

/// What the cluster chose for one key it chooses for no other.
fn check_values(keys: &BTreeMap<&str, Vec<Op<'_>>>, report: &mut Report) {
    let mut owners: HashMap<&str, (&str, usize)> = HashMap::new();
    let created = keys.iter().filter(|(_, ops)| !ops.iter().all(is_of_register));
    for (key, op) in created.flat_map(|(key, ops)| ops.iter().map(move |op| (*key, op))) {
        let Some(value) = op.chosen() else { continue };
        let (owner, seen) = *owners.entry(value).or_insert((key, op.returned));
        if owner != key {
            let detail = format!("{owner} and {key} were both {value}");
            report.found(AnomalyKind::NonlinearizableMeta, detail, vec![seen, op.returned]);
        }
    }
}

fn is_of_register(op: &Op<'_>) -> bool {
    matches!(op.ask, Ask::Read | Ask::Write(_))
}

/// Each key's operations: those that were answered by when they were asked, then those that may have happened. Those
/// that certainly did not happen are left out, and reads without an answer, which say nothing.
fn operations(history: &History) -> BTreeMap<&str, Vec<Op<'_>>> {
    let mut keys: BTreeMap<&str, Vec<Op<'_>>> = BTreeMap::new();
    let mut open: HashMap<(u32, &str), usize> = HashMap::new();
    let mut dropped: HashSet<(&str, usize)> = HashSet::new();
    for (event, line) in history.events.iter().enumerate() {
        let Operation::Meta { key, ask, answer } = &line.operation else { continue };
        let ops = keys.entry(key).or_default();
        if line.outcome == Outcome::Invoke {
            open.insert((line.process, key), ops.len());
            let (returned, shown_by) = (usize::MAX, Vec::new());
            ops.push(Op { ask, answer: None, invoked: event, returned, twin: None, shown_by });
            continue;
        }
        let Some(op) = open.remove(&(line.process, key)) else { continue };
        match line.outcome {
            Outcome::Ok => {
                ops[op].answer = answer.as_ref();
                ops[op].returned = event;
            }
            Outcome::Fail => drop(dropped.insert((key, ops[op].invoked))),
            Outcome::Info | Outcome::Invoke => {}
        }
    }
    for (key, ops) in &mut keys {
        ops.retain(|op| {
            let silent = op.answer.is_none() && *op.ask == Ask::Read;
            !silent && !dropped.contains(&(*key, op.invoked))
        });
        // What was answered is tried first: it must find its place, the rest need not.
        ops.sort_by_key(|op| (op.may_have_happened(), op.invoked));
        link_reads(ops);
        link_twins(ops);
    }
    keys
}

/// Writes that may have happened, and of which nobody has seen anything, are left out; the others are linked to the
/// reads that show them.
fn link_reads(ops: &mut Vec<Op<'_>>) {
    if !ops.iter().all(is_of_register) {
        return;
    }
    let seen: HashSet<&str> = ops.iter().filter_map(Op::chosen).collect();
    ops.retain(|op| match op.ask {
        Ask::Write(value) => !op.may_have_happened() || seen.contains(value.as_str()),
        _ => true,
    });
    let mut reads: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, op) in ops.iter().enumerate() {
        if let Some(value) = op.chosen() {
            reads.entry(value).or_default().push(place);
        }
    }
    for op in ops.iter_mut().filter(|op| op.may_have_happened()) {
        if let Ask::Write(value) = op.ask {
            op.shown_by = reads.get(value.as_str()).cloned().unwrap_or_default();
        }
    }
}

fn link_twins(ops: &mut [Op<'_>]) {
    let (mut creation, mut deletion) = (None, None);
    for (place, op) in ops.iter_mut().enumerate().filter(|(_, op)| op.may_have_happened()) {
        match op.ask {
            Ask::Create => op.twin = creation.replace(place),
            Ask::Delete => op.twin = deletion.replace(place),
            Ask::Read | Ask::Write(_) => {}
        }
    }
}

/// The state after the operation, if it can have been answered so in this one. `is_new` tells whether a value can be
/// that of a creation that nobody has seen anything of.
fn step<'a>(
    state: &State<'a>,
    op: &Op<'a>,
    is_new: impl Fn(&str, &Ask) -> bool,
) -> Option<State<'a>> {
    let is = |value: &str| match state {
        State::Value(known) => *known == value,
        State::Unseen => is_new(value, op.ask),
        State::Absent => false,
    };
    let absent = *state == State::Absent;
    match (op.ask, op.answer) {
        (Ask::Read, Some(Answer::Value(value))) => is(value).then_some(State::Value(value)),
        (Ask::Read | Ask::Delete, Some(Answer::Absent)) => absent.then_some(State::Absent),
        (Ask::Write(value), Some(Answer::Value(written))) => {
            (value == written).then_some(State::Value(value))
        }
        (Ask::Write(value), None) => Some(State::Value(value)),
        (Ask::Create, Some(Answer::Value(value))) => {
            (absent && is_new(value, op.ask)).then_some(State::Value(value))
        }
        (Ask::Create, Some(Answer::Exists)) => (!absent).then(|| state.clone()),
        // What changes nothing need not have happened.
        (Ask::Create, None) => absent.then_some(State::Unseen),
        (Ask::Delete, Some(Answer::Value(value))) => is(value).then_some(State::Absent),
        (Ask::Delete, None) => (!absent).then_some(State::Absent),
        // A read without an answer was left out; the rest are answers to other questions.
        (Ask::Read, None | Some(Answer::Exists))
        | (Ask::Write(_) | Ask::Create, Some(Answer::Absent))
        | (Ask::Write(_) | Ask::Delete, Some(Answer::Exists)) => None,
    }
}

enum Verdict {
    Explained,
    Undecided,
    /// So many could be placed, and this one not after them.
    Unexplained {
        placed: usize,
        next: usize,
    },
}

/// Operations done, as a set of bits.
type Done = Vec<u64>;

struct Search<'o, 'a> {
    ops: &'o [Op<'a>],
    /// How many were answered: those come first.
    certain: usize,
    /// Values that answered creations have made.
    made: HashSet<&'a str>,
    done: Done,
    /// Of each value that the cluster chose: by how many of those done it was told. That follows from `done`, so it is
    /// no part of a configuration.
    told: HashMap<&'a str, u32>,
    /// Configurations: by state, what was done. And how many.
    seen: HashMap<State<'a>, HashSet<Done>>,
    configurations: usize,
    /// What was placed, in order: the operation, the state before it.
    placed: Vec<(usize, State<'a>)>,
    deepest: (usize, usize),
    steps: u64,
}

fn explain(ops: &[Op<'_>]) -> Verdict {
    let certain = ops.iter().filter(|op| !op.may_have_happened()).count();
    let made = ops.iter().filter(|op| *op.ask == Ask::Create);
    let mut search = Search {
        ops,
        certain,
        made: made.filter_map(Op::chosen).collect(),
        done: vec![0; ops.len().div_ceil(64)],
        told: HashMap::new(),
        seen: HashMap::new(),
        configurations: 0,
        placed: Vec::new(),
        deepest: (0, 0),
        steps: 0,
    };
    search.run()
}

impl<'a> Search<'_, 'a> {
    fn run(&mut self) -> Verdict {
        let (mut state, mut from, mut left) = (State::Absent, 0, self.certain);
        loop {
            // What may have happened need not have: only answered operations must be placed.
            if left == 0 {
                return Verdict::Explained;
            }
            if self.configurations > CONFIGURATIONS || self.steps > STEPS {
                return Verdict::Undecided;
            }
            if let Some((op, next)) = self.next(&state, from) {
                left -= usize::from(!self.ops[op].may_have_happened());
                self.placed.push((op, std::mem::replace(&mut state, next)));
                from = 0;
                continue;
            }
            self.note_depth();
            let Some((op, before)) = self.placed.pop() else {
                let (placed, next) = self.deepest;
                return Verdict::Unexplained { placed, next };
            };
            self.undo(op);
            left += usize::from(!self.ops[op].may_have_happened());
            (state, from) = (before, op + 1);
        }
    }

    /// The next operation from `from` on that may come next and leads to a new configuration; it is then done.
    fn next(&mut self, state: &State<'a>, from: usize) -> Option<(usize, State<'a>)> {
        let first_return = self.first_return();
        self.steps += self.ops.len() as u64;
        let mut places = from..self.ops.len();
        while let Some(op) = places.next() {
            if self.ops[op].invoked > first_return {
                // Nor can those behind it, of its kind.
                places.start = places.start.max(self.certain);
                match op < self.certain {
                    true => continue,
                    false => return None,
                }
            }
            if self.is_done(op) || self.is_pointless(op, first_return) {
                continue;
            }
            let is_new = |value: &str, ask: &Ask| {
                !self.told.contains_key(value)
                    && (*ask == Ask::Create || !self.made.contains(value))
            };
            let Some(next) = step(state, &self.ops[op], is_new) else { continue };
            self.steps += 16 + 2 * self.done.len() as u64;
            self.place(op);
            if self.is_new(&next) {
                return Some((op, next));
            }
            self.undo(op);
        }
        None
    }

    /// Whether it is a configuration that was not seen yet; it is then noted.
    fn is_new(&mut self, state: &State<'a>) -> bool {
        if let Some(seen) = self.seen.get_mut(state) {
            if seen.contains(&self.done) {
                return false;
            }
            seen.insert(self.done.clone());
        } else {
            self.seen.insert(state.clone(), [self.done.clone()].into());
        }
        self.configurations += 1;
        true
    }

    fn place(&mut self, op: usize) {
        self.done[op / 64] |= 1 << (op % 64);
        if let Some(value) = self.ops[op].chosen() {
            *self.told.entry(value).or_default() += 1;
        }
    }

    fn undo(&mut self, op: usize) {
        self.done[op / 64] &= !(1 << (op % 64));
        let Some(value) = self.ops[op].chosen() else { return };
        if let Some(times) = self.told.get_mut(value) {
            *times -= 1;
            if *times == 0 {
                self.told.remove(value);
            }
        }
    }

    /// Another one that is as good comes first, or no read of it can come next.
    fn is_pointless(&self, op: usize, first_return: usize) -> bool {
        let Op { twin, shown_by, .. } = &self.ops[op];
        let can_be_next =
            |read: &usize| !self.is_done(*read) && self.ops[*read].invoked <= first_return;
        twin.is_some_and(|twin| !self.is_done(twin))
            || (!shown_by.is_empty() && !shown_by.iter().any(can_be_next))
    }

    fn is_done(&self, op: usize) -> bool {
        self.done[op / 64] & (1 << (op % 64)) != 0
    }

    /// Nothing asked after this can come before what was answered then.
    fn first_return(&self) -> usize {
        let open = (0..self.certain).filter(|op| !self.is_done(*op));
        open.map(|op| self.ops[op].returned).min().unwrap_or(usize::MAX)
    }

    fn note_depth(&mut self) {
        if self.placed.len() < self.deepest.0 {
            return;
        }
        let open = (0..self.certain).filter(|op| !self.is_done(*op));
        let next = open.min_by_key(|op| self.ops[*op].returned).unwrap_or(0);
        self.deepest = (self.placed.len(), next);
    }
}
