//! Each key of the metadata by itself: is there an order of its operations, within the times at which they were under
//! way, that explains every answer?
//!
//! The search is Wing and Gong's (1993) with Lowe's memory of configurations (2017): operations done so far and the
//! state they lead to. An operation that may have happened can take its place at any time after it was asked, or never.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::anomaly::{AnomalyKind, Report};
use crate::history::{Answer, Ask, History, Operation, Outcome};

/// BOUND: configurations of one key that are looked at before it is called undecided.
const CONFIGURATIONS: usize = 2_000_000;

/// What a key is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State<'a> {
    Absent,
    Value(&'a str),
    /// Made by a creation whose answer was lost: some value that nobody has seen yet.
    Unseen(usize),
}

struct Op<'a> {
    ask: &'a Ask,
    /// `None`: it may have happened.
    answer: Option<&'a Answer>,
    invoked: usize,
    /// When it was answered; never, where that is not known.
    returned: usize,
}

pub(super) fn check(history: &History, report: &mut Report) {
    for (key, ops) in operations(history) {
        match explain(&ops) {
            Verdict::Explained => {}
            Verdict::Undecided => report.undecided.push(key.to_owned()),
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

/// Each key's operations by when they were asked. Those that certainly did not happen are left out, and reads without
/// an answer, which say nothing.
fn operations(history: &History) -> BTreeMap<&str, Vec<Op<'_>>> {
    let mut keys: BTreeMap<&str, Vec<Op<'_>>> = BTreeMap::new();
    let mut open: HashMap<(u32, &str), usize> = HashMap::new();
    let mut dropped: HashSet<(&str, usize)> = HashSet::new();
    for (event, line) in history.events.iter().enumerate() {
        let Operation::Meta { key, ask, answer } = &line.operation else { continue };
        let ops = keys.entry(key).or_default();
        if line.outcome == Outcome::Invoke {
            open.insert((line.process, key), ops.len());
            ops.push(Op { ask, answer: None, invoked: event, returned: usize::MAX });
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
    }
    keys
}

/// The state after the operation, if it can have been answered so in this one.
fn step<'a>(state: &State<'a>, op: &Op<'a>) -> Option<State<'a>> {
    let is = |value: &str| match state {
        State::Value(known) => *known == value,
        State::Unseen(_) => true,
        State::Absent => false,
    };
    match (op.ask, op.answer) {
        (Ask::Read, Some(Answer::Value(value))) => is(value).then_some(State::Value(value)),
        (Ask::Read | Ask::Delete, Some(Answer::Absent)) => {
            (*state == State::Absent).then_some(State::Absent)
        }
        (Ask::Write(value), _) => Some(State::Value(value)),
        (Ask::Create, Some(Answer::Value(value))) => {
            (*state == State::Absent).then_some(State::Value(value))
        }
        (Ask::Create, Some(Answer::Exists)) => (*state != State::Absent).then(|| state.clone()),
        (Ask::Create, None) => Some(match state {
            State::Absent => State::Unseen(op.invoked),
            there => there.clone(),
        }),
        (Ask::Delete, Some(Answer::Value(value))) => is(value).then_some(State::Absent),
        (Ask::Delete, None) => Some(State::Absent),
        // A read without an answer was left out; the rest are answers to other questions.
        (Ask::Read, None | Some(Answer::Exists))
        | (Ask::Create, Some(Answer::Absent))
        | (Ask::Delete, Some(Answer::Exists)) => None,
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
    done: Done,
    seen: HashSet<(Done, State<'a>)>,
    /// What was placed, in order: the operation, the state before it.
    placed: Vec<(usize, State<'a>)>,
    deepest: (usize, usize),
}

fn explain(ops: &[Op<'_>]) -> Verdict {
    let certain = ops.iter().filter(|op| op.returned != usize::MAX).count();
    let mut search = Search {
        ops,
        done: vec![0; ops.len().div_ceil(64)],
        seen: HashSet::new(),
        placed: Vec::new(),
        deepest: (0, 0),
    };
    search.run(certain)
}

impl<'a> Search<'_, 'a> {
    fn run(&mut self, certain: usize) -> Verdict {
        let (mut state, mut from, mut left) = (State::Absent, 0, certain);
        loop {
            // What may have happened need not have: only answered operations must be placed.
            if left == 0 {
                return Verdict::Explained;
            }
            if self.seen.len() > CONFIGURATIONS {
                return Verdict::Undecided;
            }
            if let Some((op, next)) = self.next(&state, from) {
                left -= usize::from(self.ops[op].returned != usize::MAX);
                self.placed.push((op, std::mem::replace(&mut state, next)));
                from = 0;
                continue;
            }
            self.note_depth();
            let Some((op, before)) = self.placed.pop() else {
                let (placed, next) = self.deepest;
                return Verdict::Unexplained { placed, next };
            };
            self.done[op / 64] &= !(1 << (op % 64));
            left += usize::from(self.ops[op].returned != usize::MAX);
            (state, from) = (before, op + 1);
        }
    }

    /// The next operation from `from` on that may come next and leads to a new configuration; it is then done.
    fn next(&mut self, state: &State<'a>, from: usize) -> Option<(usize, State<'a>)> {
        let first_return = self.first_return();
        for op in from..self.ops.len() {
            if self.ops[op].invoked > first_return {
                return None;
            }
            if self.is_done(op) {
                continue;
            }
            let Some(next) = step(state, &self.ops[op]) else { continue };
            self.done[op / 64] |= 1 << (op % 64);
            if self.seen.insert((self.done.clone(), next.clone())) {
                return Some((op, next));
            }
            self.done[op / 64] &= !(1 << (op % 64));
        }
        None
    }

    fn is_done(&self, op: usize) -> bool {
        self.done[op / 64] & (1 << (op % 64)) != 0
    }

    /// Nothing asked after this can come before what was answered then.
    fn first_return(&self) -> usize {
        let open = (0..self.ops.len()).filter(|op| !self.is_done(*op));
        open.map(|op| self.ops[op].returned).min().unwrap_or(usize::MAX)
    }

    fn note_depth(&mut self) {
        if self.placed.len() < self.deepest.0 {
            return;
        }
        let open = (0..self.ops.len()).filter(|op| !self.is_done(*op));
        let next = open.min_by_key(|op| self.ops[*op].returned).unwrap_or(0);
        self.deepest = (self.placed.len(), next);
    }
}
