//! Histories: what each process asked and what it was told, in the order of
//! one clock.

use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};

/// What a record carries: who sent it, and as which of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Value {
    /// The sending process.
    pub process: u32,
    /// Counts up per process.
    pub counter: u64,
}

/// One record that a consumer was handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Where.
    pub partition: u32,
    /// At which offset.
    pub offset: u64,
    /// What it carried; `None` if its payload was not what any process sends.
    pub value: Option<Value>,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Operation {
    /// One record to one partition; the offset is known once it is `ok`.
    Send {
        /// Where to.
        partition: u32,
        /// What.
        value: Value,
        /// The acknowledged offset.
        offset: Option<u64>,
    },
    /// What a poll returned, in the order handed out.
    Poll {
        /// The records.
        reads: Vec<Read>,
    },
    /// The consumer was given other partitions, or sought: its next poll may
    /// begin anywhere.
    Assign,
    /// A poll whose reads are the whole log of each partition, after healing.
    Drain {
        /// The records.
        reads: Vec<Read>,
    },
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
    /// Which client process.
    pub process: u32,
    /// How far it got.
    pub outcome: Outcome,
    /// What was asked.
    #[serde(flatten)]
    pub operation: Operation,
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
    /// Reads JSON lines.
    pub fn read(input: impl BufRead) -> Result<Self, HistoryError> {
        let mut events = Vec::new();
        for (at, line) in input.lines().enumerate() {
            let event = serde_json::from_str(&line?);
            events.push(event.map_err(|error| HistoryError::Line { line: at + 1, error })?);
        }
        Ok(Self { events })
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
