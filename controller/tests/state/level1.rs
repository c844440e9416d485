//! What the first feature level wrote, through this release: a log from its
//! beginning, and its end on top of the state that the older release left.

use crate::machine::{Machine, key};
use streamhouse_controller::codec;
use streamhouse_controller::state::apply;
use streamhouse_controller::state::command::{Command, CommandBody};
use streamhouse_controller::state::features;
use streamhouse_controller::state::kv::Transaction;
use streamhouse_controller::state::offsets::committed;
use streamhouse_controller::state::reply::Reply;
use streamhouse_controller::state::segments::segments_from;

const LEVEL_1: &str = include_str!("level1.txt");
const ORDERS: [u8; 16] = [1; 16];

enum Line {
    /// A command, and its answer.
    Entry(Vec<u8>, Vec<u8>),
    /// Of the state after the entries so far.
    Pair(Vec<u8>, Vec<u8>),
}

fn lines() -> Vec<Line> {
    let hex = |text: &str| -> Vec<u8> {
        let text = text.trim_start_matches('-');
        let pairs = (0..text.len()).step_by(2);
        pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "entry" => Line::Entry(hex(words[1]), hex(words[2])),
            "pair" => Line::Pair(hex(words[1]), hex(words[2])),
            other => panic!("{other}"),
        }
    };
    LEVEL_1.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

/// Applies an entry; it is answered as it was then.
fn replay(machine: &mut Machine, command: &[u8], expected: &[u8]) {
    let command: Command = codec::decode(command).unwrap();
    let expected: Reply = codec::decode(expected).unwrap();
    machine.index += 1;
    machine.time_ms = command.time_ms;
    let mut tx = Transaction::new(&machine.kv);
    let (reply, _) = apply(&mut tx, machine.index, &command).unwrap();
    let writes = tx.into_writes();
    machine.kv.commit(writes);
    assert_eq!(reply, expected, "entry {}: {command:?}", machine.index);
}

/// What its clients had been told is still so.
fn check(machine: &Machine) {
    assert_eq!(machine.topic_names(), ["orders"]);
    let ends = [0, 1].map(|number| machine.partition(key(ORDERS, number)).next_offset);
    assert_eq!(ends, [34, 19]);
    for (number, end) in [0, 1].into_iter().zip(ends) {
        // DENSE: all of it is in the index.
        let entries = segments_from(&machine.kv, &key(ORDERS, number), 0, 100).unwrap();
        assert_eq!(entries.len(), 4);
        assert_eq!(entries.last().unwrap().1.last_offset + 1, end);
    }
    let offset = |number| {
        let found = committed(&machine.kv, "readers", &key(ORDERS, number)).unwrap();
        found.map(|committed| committed.offset)
    };
    assert_eq!([offset(0), offset(1)], [Some(30), Some(4)]);
    assert_eq!(features::level(&machine.kv).unwrap(), Some(1));
}

#[test]
fn a_log_of_the_first_level_is_applied_with_the_same_answers() {
    let mut machine = Machine::default();
    for line in lines() {
        if let Line::Entry(command, reply) = line {
            replay(&mut machine, &command, &reply);
        }
    }
    check(&machine);
}

#[test]
fn a_state_of_the_first_level_is_read_and_goes_on() {
    let mut machine = Machine::default();
    let (mut before, mut pairs) = (0, 0);
    for line in lines() {
        match line {
            Line::Pair(key, value) => {
                machine.kv.pairs.insert(key, value);
                (pairs, machine.index) = (pairs + 1, before);
            }
            Line::Entry(..) if pairs == 0 => before += 1,
            Line::Entry(command, reply) => replay(&mut machine, &command, &reply),
        }
    }
    check(&machine);
    // And it takes up what came later.
    let raised = machine.run(CommandBody::RaiseFeatureLevel { level: features::NEWEST });
    assert_eq!(raised, Reply::Done);
    assert_eq!(features::level(&machine.kv).unwrap(), Some(features::NEWEST));
}
