//! The checker's time and memory grow with the history, not faster.

use std::time::Instant;

use streamhouse_chaos::{Event, History, Operation, Outcome, Partition, Read, Value, check};

const PARTITIONS: u32 = 8;
const IN_A_POLL: usize = 500;

fn place(counter: u64) -> (Partition, u64) {
    let partition = (counter % u64::from(PARTITIONS)) as u32;
    (Partition { topic: 0, partition }, counter / u64::from(PARTITIONS))
}

/// So many acknowledged sends of eight producers in turns, a consumer that reads behind them and commits, a watcher, a
/// drain.
fn history(sends: u64) -> History {
    let mut history = History::default();
    let mut read = Vec::new();
    let mut note = |process, outcome, operation| {
        let time_us = history.events.len() as u64;
        history.events.push(Event { time_us, process, outcome, operation });
    };
    let value = |counter| Value { process: 1 + (counter % 8) as u32, counter };
    for counter in 0..sends {
        let ((at, offset), value) = (place(counter), value(counter));
        let send = |offset| Operation::Send { at, value, offset, fenced: false };
        note(value.process, Outcome::Invoke, send(None));
        note(value.process, Outcome::Ok, send(Some(offset)));
        read.push(Read { at, offset, value: Some(value) });
        if read.len() < IN_A_POLL {
            continue;
        }
        let reads = std::mem::take(&mut read);
        note(20, Outcome::Ok, Operation::Poll { reads, failure: None });
        let lease = |epoch, high_watermark| Operation::Lease {
            at,
            epoch,
            session: u64::from(epoch),
            log_start: 0,
            high_watermark,
        };
        note(21, Outcome::Invoke, lease(0, 0));
        note(21, Outcome::Ok, lease(1, offset + 1));
        let commit = Operation::CommitOffset { group: "g".into(), at, offset, member: false };
        note(22, Outcome::Invoke, commit.clone());
        note(22, Outcome::Ok, commit);
    }
    let all: Vec<u64> = (0..sends).collect();
    for some in all.chunks(IN_A_POLL) {
        let read = |counter: &u64| {
            let (at, offset) = place(*counter);
            Read { at, offset, value: Some(value(*counter)) }
        };
        note(30, Outcome::Ok, Operation::Drain { reads: some.iter().map(read).collect() });
    }
    note(30, Outcome::Ok, Operation::Drained);
    for partition in 0..PARTITIONS {
        let at = Partition { topic: 0, partition };
        let high_watermark = sends / u64::from(PARTITIONS);
        for base in (0..high_watermark).step_by(100) {
            let last = (base + 99).min(high_watermark - 1);
            let object = format!("object-{partition}-{base}");
            let entry = Operation::Entry { at, base, last, epoch: 1, session: 1, object };
            note(0, Outcome::Ok, entry);
        }
        note(0, Outcome::Ok, Operation::Extent { at, log_start: 0, high_watermark });
    }
    note(0, Outcome::Ok, Operation::Audited);
    history
}

/// The most memory that this process has had, in MiB; 0 where the system does not tell.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() / 1_024
}

#[expect(clippy::disallowed_methods, reason = "it is told how long it takes")]
fn measure(sends: u64) {
    let history = history(sends);
    let before = peak();
    let begun = Instant::now();
    let report = check(&history);
    let took = begun.elapsed();
    assert_eq!((&report.anomalies[..], &report.undecided[..]), (&[][..], &[][..]));
    assert_eq!((report.acknowledged, report.reads), (sends, 2 * sends));
    let (events, after) = (history.events.len(), peak());
    println!("{sends} sends, {events} events: {took:?}, {before} MiB before, {after} MiB at most");
}

/// 10,000 sends, or `STREAMHOUSE_SENDS` of them, for whoever wants to see what a long run's history costs.
#[test]
fn a_long_history_with_all_that_goes_with_it_is_good() {
    let asked = std::env::var("STREAMHOUSE_SENDS").ok();
    measure(asked.map_or(10_000, |sends| sends.parse().unwrap()));
}
