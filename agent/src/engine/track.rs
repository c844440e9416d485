//! One idempotent producer in one partition: what is committed of it, and what is on its way.

use crate::fate::{Alarm, Fate, Known, Written};
use crate::partition::PartitionId;
use crate::ticket::{Pending, Sequence};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use streamhouse_host::{Mistake, is_planted};
use streamhouse_proto::v1::{ErrorCode, ErrorInfo, ProducerProgress};
use streamhouse_segment::sequences::{SequenceRun, Sequences, Standing};

/// What is to be done with a batch.
#[derive(Debug)]
pub(super) enum Decision {
    Write(Pending),
    /// It was answered, or will be with another copy of it.
    Answered,
    /// It waits until the producer was looked up.
    Waits,
}

/// What is committed, as of an index.
#[derive(Debug)]
struct Committed {
    /// The producer's epoch; `None` if there is no such producer.
    current: Option<u16>,
    epoch: u16,
    sequences: Sequences,
    applied: u64,
    /// Nothing is, and the partition has no room for one more producer.
    full: bool,
}

/// A batch that was let through.
#[derive(Debug)]
struct Sent {
    epoch: u16,
    base: u32,
    records: u32,
    fate: Fate,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Track {
    /// `None`: to be looked up.
    committed: Option<Committed>,
    /// The epoch of what comes next, and how many of its records are committed or on their way.
    tip: (u16, u64),
    sent: VecDeque<Sent>,
    /// Some batch was lost: what is behind it cannot be written either, and what is committed is not known.
    alarm: Alarm,
    waiting: VecDeque<Pending>,
    /// How many of those a look-up under way is for: the others came after it was asked.
    asked: usize,
}

impl Track {
    /// `fresh`: the look-up was made for this batch.
    pub(super) fn admit(
        &mut self,
        partition: PartitionId,
        pending: Pending,
        sequence: Sequence,
        fresh: bool,
    ) -> Decision {
        self.tidy();
        let current = self.committed.as_ref().map(|committed| committed.current);
        let news = |current: Option<u16>| current.is_none_or(|now| now < sequence.epoch);
        let Some(current) = current.filter(|current| fresh || !news(*current)) else {
            // Not known, or there is one, or its epoch was raised, since it was looked up.
            self.committed = None;
            self.waiting.push_back(pending);
            return Decision::Waits;
        };
        let name = Name { partition, producer: sequence.producer };
        let epoch = sequence.epoch;
        let error = match current {
            Some(current) if current == epoch => return self.place(name, pending, sequence),
            Some(current) if current > epoch && is_planted(Mistake::ProducerEpochIgnored) => {
                return self.place(name, pending, sequence);
            }
            Some(current) if current > epoch => ErrorInfo::new(
                ErrorCode::ProducerFenced,
                format!("epoch {epoch} of {name} is over, it is {current} now"),
            ),
            Some(_) | None => {
                let message = format!("{name} is not known in epoch {epoch}, or no more");
                ErrorInfo::new(ErrorCode::UnknownProducer, message)
            }
        };
        pending.ticket.refuse(error);
        Decision::Answered
    }

    /// A batch of the current epoch.
    fn place(&mut self, name: Name, mut pending: Pending, sequence: Sequence) -> Decision {
        let Sequence { epoch, base, .. } = sequence;
        if epoch > self.tip.0 {
            self.tip = (epoch, 0);
        }
        let records = pending.records;
        let expected = match self.ahead().judge(base, records) {
            Standing::Next if self.has_no_room() => {
                let message = format!("no room for {name}: the partition remembers too many");
                let error = ErrorInfo::new(ErrorCode::TooManyProducers, message);
                pending.ticket.refuse(error);
                return Decision::Answered;
            }
            Standing::Next => {
                self.tip.1 += u64::from(records);
                let fate = Fate::new(&self.alarm);
                pending.ticket = pending.ticket.with_fate(fate.clone());
                self.sent.push_back(Sent { epoch, base, records, fate });
                return Decision::Write(pending);
            }
            Standing::Had { position }
                if is_planted(Mistake::DuplicateOffByOne)
                    && position + u64::from(records) == self.tip.1 =>
            {
                return Decision::Write(pending);
            }
            Standing::Had { position } => {
                let copy =
                    |sent: &&Sent| (sent.epoch, sent.base, sent.records) == (epoch, base, records);
                let first = self.sent.iter().find(copy);
                match (self.committed_before(epoch, position), first) {
                    (Some((offset, applied)), _) => {
                        pending.ticket.had(offset, applied);
                        return Decision::Answered;
                    }
                    (None, Some(first)) => match first.fate.join(pending.ticket) {
                        None => return Decision::Answered,
                        Some(ticket) => pending.ticket = ticket,
                    },
                    (None, None) => {}
                }
                base
            }
            Standing::OutOfOrder { expected } => expected,
        };
        let message = format!("a batch of {name} begins with {base}, next is {expected}");
        pending.ticket.refuse(ErrorInfo::new(ErrorCode::OutOfOrderSequence, message));
        Decision::Answered
    }

    /// Where the record at that place of the epoch was committed, if it was.
    fn committed_before(&self, epoch: u16, position: u64) -> Option<(Option<u64>, u64)> {
        let committed = self.committed.as_ref().filter(|committed| {
            committed.epoch == epoch && position < committed.sequences.records
        })?;
        Some((committed.sequences.offset_of(position), committed.applied))
    }

    /// DEDUP: at apply the batch would be refused, and all that is in its slice and behind it with it.
    fn has_no_room(&self) -> bool {
        self.sent.is_empty() && self.committed.as_ref().is_some_and(|committed| committed.full)
    }

    /// As if all that is on its way were written.
    fn ahead(&self) -> Sequences {
        Sequences { records: self.tip.1, runs: Vec::new() }
    }

    /// Takes note of what became of the batches that were let through.
    fn tidy(&mut self) {
        if self.alarm.swap(false, Ordering::AcqRel) {
            self.committed = None;
            self.sent.retain(|sent| sent.fate.known() != Known::Lost);
        }
        let Some(committed) = &mut self.committed else { return };
        while let Some(first) = self.sent.front() {
            let Known::Written(written) = first.fate.known() else { break };
            committed.append(first, written);
            self.sent.pop_front();
        }
    }

    /// Takes the answer to a look-up. What is on its way may be in it already, or not.
    pub(super) fn found(&mut self, answer: ProducerProgress, applied: u64) {
        let mut committed = Committed::of(answer, applied);
        self.tip = (committed.epoch, committed.sequences.records);
        for sent in std::mem::take(&mut self.sent) {
            let known = sent.fate.known();
            if known == Known::Lost {
                continue;
            }
            if sent.epoch > self.tip.0 && sent.base == 0 {
                self.tip = (sent.epoch, 0);
            }
            let next = sent.epoch == self.tip.0
                && self.ahead().judge(sent.base, sent.records) == Standing::Next;
            self.tip.1 += if next { u64::from(sent.records) } else { 0 };
            match known {
                Known::Written(written) => committed.append(&sent, written),
                Known::Open | Known::Lost => self.sent.push_back(sent),
            }
        }
        self.committed = Some(committed);
    }

    /// What is committed is to be looked up again.
    pub(super) fn doubt(&mut self) {
        self.committed = None;
    }

    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn take_waiting(&mut self) -> VecDeque<Pending> {
        self.asked = 0;
        std::mem::take(&mut self.waiting)
    }

    /// A look-up is asked for all that waits now.
    pub(super) fn is_asked(&mut self) {
        self.asked = self.waiting.len();
    }

    /// How many of those that wait, the first ones, the look-up is for.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    pub(super) fn take_expired(&mut self, now: Instant, timeout: Duration) -> Vec<Pending> {
        let late = |pending: &Pending| now.saturating_duration_since(pending.arrived) > timeout;
        let count = self.waiting.iter().take_while(|pending| late(pending)).count();
        self.asked = self.asked.saturating_sub(count);
        self.waiting.drain(..count).collect()
    }

    /// Something is on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.waits() || self.sent.iter().any(|sent| sent.fate.known() == Known::Open)
    }

    /// There is no such producer, or no room for it: nothing to remember, the next time may be another.
    pub(super) fn is_useless(&self) -> bool {
        let unknown = |committed: &Committed| committed.current.is_none() || committed.full;
        self.committed.as_ref().is_some_and(unknown) && !self.is_busy()
    }
}

impl Committed {
    fn of(answer: ProducerProgress, applied: u64) -> Self {
        let current = answer.current_epoch.and_then(|epoch| u16::try_from(epoch).ok());
        let full = answer.full;
        let found = answer.committed.unwrap_or_default();
        let run = |run: &streamhouse_proto::v1::SequenceRun| SequenceRun {
            first: run.first,
            records: run.records,
            base_offset: run.base_offset,
        };
        Self {
            current,
            epoch: u16::try_from(found.epoch).unwrap_or_default(),
            sequences: Sequences {
                records: found.records,
                runs: found.runs.iter().map(run).collect(),
            },
            applied,
            full,
        }
    }

    /// The batch was committed; perhaps it was in the look-up's answer.
    fn append(&mut self, sent: &Sent, written: Written) {
        if sent.epoch > self.epoch && sent.base == 0 {
            (self.epoch, self.sequences) = (sent.epoch, Sequences::default());
        }
        let next = self.sequences.judge(sent.base, sent.records) == Standing::Next;
        if sent.epoch == self.epoch && next {
            self.sequences.append(sent.records, written.base_offset);
            self.full = false;
        }
        self.applied = self.applied.max(written.applied);
    }
}

/// Who, and where, for a message.
#[derive(Clone, Copy)]
struct Name {
    partition: PartitionId,
    producer: u64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "producer {} in {}", self.producer, self.partition)
    }
}
