//! Whether a history is one: what is asked comes before its answer, each answer is to one question and says what such
//! an answer says, and time does not go back. What is not so was not told by a cluster: it voids the run, it never
//! passes it.

use std::collections::{HashMap, HashSet};

use super::anomaly::Report;
use crate::history::{Ask, Event, History, Operation, Outcome, Partition, Value};

/// BOUND: lines that are told; the rest are counted.
const TOLD: usize = 20;

/// An operation that is two events.
#[derive(PartialEq, Eq, Hash)]
enum Asked<'a> {
    Send(Value),
    Commit(u32, &'a str, Partition),
    Fetch(u32, &'a str, Partition),
    Meta(u32, &'a str),
    Probe(u32, Partition),
    /// Asked again where there was no answer.
    Lease(u32, Partition),
}

/// What was asked of it, as the answer has it, too.
#[derive(PartialEq)]
enum What<'a> {
    To(Partition),
    Offset(u64),
    Ask(&'a Ask),
    Nothing,
}

#[derive(Default)]
struct Form<'a> {
    /// What was not answered yet.
    open: HashMap<Asked<'a>, What<'a>>,
    started: HashSet<u32>,
    time_us: u64,
    problems: Vec<String>,
    more: usize,
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut form = Form::default();
    for (at, event) in history.events.iter().enumerate() {
        form.take(at, event);
    }
    report.undecided.append(&mut form.problems);
    if form.more > 0 {
        report.undecided.push(format!("{} more lines cannot be", form.more));
    }
}

impl<'a> Form<'a> {
    fn take(&mut self, at: usize, event: &'a Event) {
        if event.time_us < self.time_us {
            self.cannot_be(at, "is earlier than the one before it");
        }
        self.time_us = event.time_us;
        if lacks(event) {
            self.cannot_be(at, "lacks what such an answer says");
        }
        if says_too_much(event) {
            self.cannot_be(at, "has reads of a poll that did not succeed");
        }
        if let Operation::Start { .. } = event.operation
            && !self.started.insert(event.process)
        {
            self.cannot_be(at, "begins a process a second time");
        }
        let Some((asked, what)) = asked(event) else { return };
        if event.outcome == Outcome::Invoke {
            let again = matches!(asked, Asked::Lease(..));
            if self.open.insert(asked, what).is_some() && !again {
                self.cannot_be(at, "asks what is being asked already");
            }
            return;
        }
        match self.open.remove(&asked) {
            None => self.cannot_be(at, "answers what was not asked, or was answered before"),
            Some(before) if before != what => {
                self.cannot_be(at, "answers another question than was asked");
            }
            Some(_) => {}
        }
    }

    fn cannot_be(&mut self, at: usize, why: &str) {
        if self.problems.len() < TOLD {
            self.problems.push(format!("line {} of the history {why}", at + 1));
        } else {
            self.more += 1;
        }
    }
}

fn asked(event: &Event) -> Option<(Asked<'_>, What<'_>)> {
    let process = event.process;
    Some(match &event.operation {
        Operation::Send { at, value, .. } => (Asked::Send(*value), What::To(*at)),
        Operation::CommitOffset { group, at, offset, .. } => {
            (Asked::Commit(process, group, *at), What::Offset(*offset))
        }
        Operation::FetchOffset { group, at, .. } => {
            (Asked::Fetch(process, group, *at), What::Nothing)
        }
        Operation::Meta { key, ask, .. } => (Asked::Meta(process, key), What::Ask(ask)),
        Operation::Probe { at, .. } => (Asked::Probe(process, *at), What::Nothing),
        Operation::Lease { at, .. } => (Asked::Lease(process, *at), What::Nothing),
        _ => return None,
    })
}

/// A success without what it says. Of committed offsets nothing is an answer: there is none.
fn lacks(event: &Event) -> bool {
    event.outcome == Outcome::Ok
        && match &event.operation {
            Operation::Send { offset, .. } => offset.is_none(),
            Operation::Meta { answer, .. } => answer.is_none(),
            _ => false,
        }
}

fn says_too_much(event: &Event) -> bool {
    let (Operation::Poll { reads, .. } | Operation::Drain { reads }) = &event.operation else {
        return false;
    };
    event.outcome != Outcome::Ok && !reads.is_empty()
}
