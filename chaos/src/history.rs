//! Histories: what each process asked and what it was told, in the order of one clock.
//!
//! JSON lines. Most operations are two events, `invoke` and then `ok`, `fail` (it certainly did not happen) or `info`
//! (it may have happened; the process then takes a new number). What the harness finds out by looking is one `ok`.

use std::fmt;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

/// A partition of a topic. Topics are numbered in the order in which they came about: one that was deleted and created
/// again is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub struct Partition {
    /// The topic's number.
    pub topic: u32,
    /// The partition's number in it.
    pub partition: u32,
}

impl From<(u32, u32)> for Partition {
    fn from((topic, partition): (u32, u32)) -> Self {
        Self { topic, partition }
    }
}

impl From<Partition> for (u32, u32) {
    fn from(at: Partition) -> Self {
        (at.topic, at.partition)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// What a record carries: who sent it, and as which of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u64)", into = "(u32, u64)")]
pub struct Value {
    /// The sending process.
    pub process: u32,
    /// Counts up per process.
    pub counter: u64,
}

impl From<(u32, u64)> for Value {
    fn from((process, counter): (u32, u64)) -> Self {
        Self { process, counter }
    }
}

impl From<Value> for (u32, u64) {
    fn from(value: Value) -> Self {
        (value.process, value.counter)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of process {}", self.counter, self.process)
    }
}

/// One record that a consumer was handed: topic, partition, offset, and what it carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Partition, u64, Option<Value>)", into = "(Partition, u64, Option<Value>)")]
pub struct Read {
    /// Where.
    pub at: Partition,
    /// At which offset.
    pub offset: u64,
    /// What it carried; `None` if its payload was not what any process sends.
    pub value: Option<Value>,
}

impl From<(Partition, u64, Option<Value>)> for Read {
    fn from((at, offset, value): (Partition, u64, Option<Value>)) -> Self {
        Self { at, offset, value }
    }
}

impl From<Read> for (Partition, u64, Option<Value>) {
    fn from(read: Read) -> Self {
        (read.at, read.offset, read.value)
    }
}

/// What is asked of one key of the metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// What is it?
    Read,
    /// Let it be this, whatever it was.
    Write(String),
    /// Let it come about; the cluster chooses its value.
    Create,
    /// Let it be gone.
    Delete,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is, was made, or was until now, this.
    Value(String),
    /// It is not there.
    Absent,
    /// It was there already.
    Exists,
}

/// What a consumer says of the log itself, and not of its way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// The index leaves offsets out.
    IndexGap,
    /// An object that the index names is not in the store.
    MissingObject,
    /// The bytes are not those that were written.
    Corrupt,
}

/// Why a consumer was handed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What it says of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<Alarm>,
    /// The error's text.
    pub text: String,
}

/// What was asked, or seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Operation {
    /// A client begins as this process.
    Start {
        /// What kind of client.
        client: String,
        /// It may write a record twice when an answer was lost.
        duplicates: bool,
        /// Whose place it takes, if it is not the first in its place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        follows: Option<u32>,
    },
    /// The process ended without a word.
    Crash,
    /// One record to one partition.
    Send {
        /// Where to.
        at: Partition,
        /// What.
        value: Value,
        /// The acknowledged offset, once it is `ok`.
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        /// It failed because its writer was told that it holds the lease no more.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fenced: bool,
    },
    /// What a poll returned, in the order handed out. Members of groups also tell when it began.
    Poll {
        /// The records.
        reads: Vec<Read>,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    /// The consumer was given other partitions: its next poll may begin anywhere.
    Assign,
    /// The consumer reads on from this offset, in this partition.
    Seek {
        /// The partition.
        at: Partition,
        /// The offset.
        offset: u64,
    },
    /// A poll whose reads are the whole log of some partitions, after healing.
    Drain {
        /// The records.
        reads: Vec<Read>,
    },
    /// The consumer takes part in the group.
    Subscribe {
        /// The group.
        group: String,
    },
    /// A member was told that these partitions are its own from now on.
    Own {
        /// The group.
        group: String,
        /// The partitions.
        at: Vec<Partition>,
    },
    /// A member gives these partitions up, or was told that it has lost them.
    Disown {
        /// The group.
        group: String,
        /// The partitions.
        at: Vec<Partition>,
    },
    /// The producer took the name, and with it the place, of this process: whatever that one sends from now on is refused.
    TakeOver {
        /// The one before.
        from: u32,
    },
    /// A client has ended that may write a record twice: of the records of these processes at most so many stand twice, by
    /// its own account.
    Repeated {
        /// Every process that the client was.
        processes: Vec<u32>,
        /// How many records.
        most: u64,
    },
    /// A consumer's offset.
    CommitOffset {
        /// The group.
        group: String,
        /// Of which partition.
        at: Partition,
        /// The next offset to read.
        offset: u64,
        /// The committer was a member of the group.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        member: bool,
    },
    /// What a group has committed.
    FetchOffset {
        /// The group.
        group: String,
        /// Of which partition.
        at: Partition,
        /// The next offset to read; `None` without a commit, and in an `invoke`.
        offset: Option<u64>,
    },
    /// A read or a change of one key of the metadata.
    Meta {
        /// The key: what is linearizable by itself.
        key: String,
        /// What was asked.
        ask: Ask,
        /// What was answered, once it is `ok`.
        #[serde(skip_serializing_if = "Option::is_none")]
        answer: Option<Answer>,
    },
    /// A fresh write and read of a partition after healing.
    Probe {
        /// The partition.
        at: Partition,
        /// Why it did not succeed.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        problem: String,
    },
    /// A fault is installed: `ok` with what really was.
    Fault {
        /// Its name.
        fault: String,
        /// On what, and what of the cluster that was.
        detail: String,
    },
    /// A fault is over.
    Heal {
        /// Its name.
        fault: String,
        /// What was done.
        detail: String,
    },
    /// A controller's state at one applied index.
    Replica {
        /// The controller.
        controller: u64,
        /// The index.
        applied: u64,
        /// The hash.
        hash: String,
    },
    /// A partition's lease, read linearizably: an `invoke` before, and this as `ok`.
    Lease {
        /// The partition.
        at: Partition,
        /// Its epoch; 0 in an `invoke`.
        epoch: u32,
        /// The holder's session; 0 if there is none.
        session: u64,
        /// The first offset that is kept.
        #[serde(default)]
        log_start: u64,
        /// One past the last committed offset.
        high_watermark: u64,
    },
    /// An entry of the final index, in the index's order.
    Entry {
        /// The partition.
        at: Partition,
        /// First offset.
        base: u64,
        /// Last offset.
        last: u64,
        /// Lease epoch.
        epoch: u32,
        /// The session that wrote it.
        session: u64,
        /// The object's key.
        object: String,
    },
    /// What the final index covers of a partition.
    Extent {
        /// The partition.
        at: Partition,
        /// The first offset that is kept.
        log_start: u64,
        /// One past the last.
        high_watermark: u64,
    },
    /// The store has an object, from now on.
    Stored {
        /// Its key.
        object: String,
    },
    /// The store has been asked to delete an object, and did.
    Deleted {
        /// Its key.
        object: String,
    },
    /// An object that the final index names is not in the store.
    Missing {
        /// Its key.
        object: String,
    },
    /// A slice in the store is not what the index says.
    Damaged {
        /// The object's key.
        object: String,
        /// The partition.
        at: Partition,
        /// The slice's first offset.
        base: u64,
        /// What is wrong.
        problem: String,
    },
    /// An object that nothing can ever refer to was still there after the grace.
    Orphan {
        /// Its key.
        object: String,
    },
    /// Every partition has been read to its end: what was acknowledged before and not read is not there.
    Drained,
    /// Controllers, index and bucket have been looked at: what is not told of them is not there.
    Audited,
}

/// How far an operation got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was asked.
    Invoke,
    /// It happened.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// It may have happened.
    Info,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds on the harness's clock.
    pub time_us: u64,
    /// Which client process; the harness itself is 0.
    pub process: u32,
    /// How far it got.
    pub outcome: Outcome,
    /// What was asked.
    #[serde(flatten)]
    pub operation: Operation,
}

/// How far a run got: by that, what is nowhere in its history was looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reached {
    /// What stands before this place was acknowledged before everything was read.
    pub(crate) drained: usize,
    /// Index and bucket are told of, as a whole.
    pub(crate) audited: bool,
}

impl Reached {
    /// The end.
    pub(crate) const END: Self = Self { drained: usize::MAX, audited: true };
}

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// In the order of the clock.
    pub events: Vec<Event>,
}

/// A history that cannot be read. It voids the run; it never passes it.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file.
    #[error("reading the history: {0}")]
    Io(#[from] std::io::Error),
    /// A line.
    #[error("line {line} of the history: {error}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        error: serde_json::Error,
    },
}

impl History {
    /// Reads JSON lines. The last one may be cut short: then the suite was killed.
    pub fn read(input: impl BufRead) -> Result<Self, HistoryError> {
        let mut events = Vec::new();
        let mut cut = None;
        for (at, line) in input.lines().enumerate() {
            let line = line?;
            if let Some(error) = cut {
                return Err(error);
            }
            match serde_json::from_str(&line) {
                Ok(event) => events.push(event),
                Err(error) => {
                    let ends_early = error.is_eof();
                    let error = HistoryError::Line { line: at + 1, error };
                    if !ends_early {
                        return Err(error);
                    }
                    cut = Some(error);
                }
            }
        }
        Ok(Self { events })
    }

    /// Whether the run was held to its end. What is nowhere in another one may only not have been looked for.
    pub fn is_whole(&self) -> bool {
        let Reached { drained, audited } = self.reached();
        drained > 0 && audited
    }

    pub(crate) fn reached(&self) -> Reached {
        let last = |operation| self.events.iter().rposition(|event| event.operation == operation);
        let audited = last(Operation::Audited).is_some();
        // What the probe writes after the drain has had its time to be read in a run that went on to the audit.
        let drained = last(Operation::Drained);
        let drained = drained.map_or(0, |at| if audited { usize::MAX } else { at });
        Reached { drained, audited }
    }

    /// Writes JSON lines.
    pub fn write(&self, mut output: impl Write) -> Result<(), HistoryError> {
        for (at, event) in self.events.iter().enumerate() {
            let line = serde_json::to_string(event);
            let line = line.map_err(|error| HistoryError::Line { line: at + 1, error })?;
            writeln!(output, "{line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_may_be_cut_short_and_no_other() {
        let event =
            Event { time_us: 1, process: 2, outcome: Outcome::Ok, operation: Operation::Crash };
        let history = History { events: vec![event.clone(), event] };
        let mut lines = Vec::new();
        history.write(&mut lines).unwrap();
        let cut = &lines[..lines.len() - 9];
        assert_eq!(History::read(cut).unwrap().events, history.events[..1]);
        let error = History::read(&[cut, b"\n", &lines].concat()[..]).unwrap_err();
        assert!(error.to_string().starts_with("line 2 "), "{error}");
        assert!(!history.is_whole());
    }
}
