//! Every kind of anomaly: a history that shows it and nothing else, and its twin, in which all is as it must be.

use streamhouse_chaos::{AnomalyKind, Operation, Outcome, Read};

use super::{AT, Writer, of, read, three, value};
use streamhouse_chaos::Ask;

/// A kind that is added has no line here, and this does not compile.
fn histories(kind: AnomalyKind) -> (Writer, Writer) {
    match kind {
        AnomalyKind::LostWrite => {
            let sent = || Writer::default().acked(1, 0).acked(2, 1);
            (sent().drain(&[read(1, 2)]), sent().drain(&[read(0, 1), read(1, 2)]))
        }
        AnomalyKind::Unseen => {
            let sent = || Writer::default().acked(1, 0).acked(2, 1);
            (sent().drain(&[read(0, 1)]), sent().drain(&[read(0, 1), read(1, 2)]))
        }
        AnomalyKind::Duplicate => {
            let sent = || Writer::default().acked(1, 0).acked(2, 1);
            (
                sent().drain(&[read(0, 1), read(1, 2), read(2, 1)]),
                sent().drain(&[read(0, 1), read(1, 2)]),
            )
        }
        AnomalyKind::InconsistentOffsets => {
            let sent = || Writer::default().acked(1, 0).send(2, Outcome::Info, None);
            let polled = || sent().poll(2, &[read(0, 1)]);
            (polled().poll(3, &[read(0, 2)]), polled().poll(3, &[read(0, 1), read(1, 2)]))
        }
        AnomalyKind::G1a => {
            let sent = |outcome| Writer::default().send(1, outcome, None).drain(&[read(0, 1)]);
            (sent(Outcome::Fail), sent(Outcome::Info))
        }
        AnomalyKind::FalseFenced => {
            let send = |fenced| Operation::Send { at: AT, value: value(1), offset: None, fenced };
            let refused = || {
                let asked = Writer::default().event(1, Outcome::Invoke, send(false));
                asked.event(1, Outcome::Fail, send(true))
            };
            (refused().drain(&[read(0, 1)]), refused().drain(&[]))
        }
        AnomalyKind::PhantomRead => (
            Writer::default().drain(&[read(0, 1)]),
            Writer::default().send(1, Outcome::Info, None).drain(&[read(0, 1)]),
        ),
        AnomalyKind::CorruptRead => {
            let torn = Read { at: AT, offset: 0, value: None };
            let sent = || Writer::default().acked(1, 0);
            (sent().drain(&[torn]), sent().drain(&[read(0, 1)]))
        }
        AnomalyKind::PollSkip => {
            let polled = || three().poll(2, &[read(0, 1)]);
            (polled().poll(2, &[read(2, 3)]), polled().poll(2, &[read(1, 2), read(2, 3)]))
        }
        AnomalyKind::NonmonotonicPoll => {
            let polled = || three().poll(2, &[read(0, 1), read(1, 2)]);
            (polled().poll(2, &[read(1, 2)]), polled().poll(2, &[read(2, 3)]))
        }
        AnomalyKind::IntPollSkip => (
            three().poll(2, &[read(0, 1), read(2, 3)]),
            three().poll(2, &[read(0, 1), read(1, 2), read(2, 3)]),
        ),
        AnomalyKind::IntNonmonotonicPoll => (
            three().poll(2, &[read(0, 1), read(1, 2), read(0, 1)]),
            three().poll(2, &[read(0, 1), read(1, 2)]),
        ),
        AnomalyKind::NonmonotonicSend => (
            Writer::default().acked(1, 1).acked(2, 0).drain(&[read(0, 2), read(1, 1)]),
            Writer::default().acked(1, 0).acked(2, 1).drain(&[read(0, 1), read(1, 2)]),
        ),
        AnomalyKind::ZombieSend => {
            let taken =
                |history: Writer| history.event(2, Outcome::Ok, Operation::TakeOver { from: 1 });
            (taken(Writer::default()).acked(1, 0), taken(Writer::default().acked(1, 0)))
        }
        AnomalyKind::StuckPartition => {
            let probe = |problem: &str| Operation::Probe { at: AT, problem: problem.to_owned() };
            let asked = || Writer::default().event(9, Outcome::Invoke, probe(""));
            (
                asked().event(9, Outcome::Info, probe("no acknowledgement")),
                asked().event(9, Outcome::Ok, probe("")),
            )
        }
        AnomalyKind::ReplicaDivergence => {
            let both = |second: &str| {
                let replica = |controller, hash: &str| {
                    let (applied, hash) = (10, hash.to_owned());
                    Operation::Replica { controller, applied, hash }
                };
                Writer::default().seen(replica(1, "aa")).seen(replica(2, second))
            };
            (both("bb"), both("aa"))
        }
        AnomalyKind::NonlinearizableMeta => {
            let write = |text: &str| Ask::Write(text.to_owned());
            let read = |text: &str| {
                let written = Writer::default().both(1, write("a"), of("a"));
                written.both(1, write("b"), of("b")).both(3, Ask::Read, of(text))
            };
            (read("a"), read("b"))
        }
        AnomalyKind::AckedBeforeDurable
        | AnomalyKind::StaleEpochCommit
        | AnomalyKind::EpochRegression
        | AnomalyKind::DoubleGrant
        | AnomalyKind::WatermarkRegression => of_leases(kind),
        AnomalyKind::IndexGap
        | AnomalyKind::IndexOverlap
        | AnomalyKind::DanglingIndex
        | AnomalyKind::PrematureDelete
        | AnomalyKind::OrphanObject => of_index(kind),
        AnomalyKind::OffsetCommitRegression
        | AnomalyKind::ZombieOffsetCommit
        | AnomalyKind::DoubleOwnership
        | AnomalyKind::GroupSkip => of_groups(kind),
    }
}

fn of_leases(kind: AnomalyKind) -> (Writer, Writer) {
    match kind {
        AnomalyKind::AckedBeforeDurable => {
            let indexed =
                |history: Writer| history.drain(&[read(0, 1)]).entry(0, 0, 1, 7).extent(0, 1);
            (
                indexed(Writer::default().acked(1, 0).stored("object-0")),
                indexed(Writer::default().stored("object-0").acked(1, 0)),
            )
        }
        AnomalyKind::StaleEpochCommit => {
            let entries = |epoch| {
                let seen = Writer::default().lease(2, 8, 5).entry(0, 4, 1, 7);
                seen.entry(5, 9, epoch, 6 + u64::from(epoch)).extent(0, 10)
            };
            (entries(1), entries(2))
        }
        AnomalyKind::EpochRegression => (
            Writer::default().lease(3, 7, 0).lease(2, 8, 0),
            Writer::default().lease(2, 8, 0).lease(3, 7, 0),
        ),
        AnomalyKind::DoubleGrant => (
            Writer::default().lease(3, 7, 0).lease(3, 8, 0),
            Writer::default().lease(3, 7, 0).lease(4, 8, 0),
        ),
        _ => (
            Writer::default().lease(3, 7, 5).lease(3, 7, 4),
            Writer::default().lease(3, 7, 5).lease(3, 7, 5),
        ),
    }
}

fn of_index(kind: AnomalyKind) -> (Writer, Writer) {
    let dense = || Writer::default().entry(0, 1, 1, 7).entry(2, 3, 1, 7).extent(0, 4);
    let bad = match kind {
        AnomalyKind::IndexGap => Writer::default().entry(0, 1, 1, 7).entry(3, 3, 1, 7).extent(0, 4),
        AnomalyKind::IndexOverlap => {
            Writer::default().entry(0, 2, 1, 7).entry(2, 3, 1, 7).extent(0, 4)
        }
        AnomalyKind::DanglingIndex => {
            dense().seen(Operation::Missing { object: "object-0".into() })
        }
        AnomalyKind::PrematureDelete => {
            dense().seen(Operation::Deleted { object: "object-0".into() })
        }
        _ => dense().seen(Operation::Orphan { object: "object-9".into() }),
    };
    (bad, dense().seen(Operation::Deleted { object: "object-9".into() }))
}

fn of_groups(kind: AnomalyKind) -> (Writer, Writer) {
    let sent = || Writer::default().acked(1, 0).acked(2, 1).drain(&[read(0, 1), read(1, 2)]);
    let polled = |history: Writer, process, reads: &[Read]| {
        history.begins_poll(process).poll(process, reads)
    };
    match kind {
        AnomalyKind::OffsetCommitRegression => (
            Writer::default().commit(2, 9, false).fetch(3, Some(5)),
            Writer::default().commit(2, 9, false).fetch(3, Some(9)),
        ),
        AnomalyKind::ZombieOffsetCommit => {
            let first = || polled(sent().owns(2), 2, &[read(0, 1)]).commit(2, 1, true);
            let other = || polled(first().owns(3), 3, &[read(1, 2)]);
            (other().commit(2, 1, true), other().commit(3, 2, true))
        }
        AnomalyKind::DoubleOwnership => {
            let both =
                || polled(polled(sent().owns(2), 2, &[read(0, 1)]).owns(3), 3, &[read(0, 1)]);
            (polled(both(), 2, &[read(1, 2)]), polled(both(), 3, &[read(1, 2)]))
        }
        _ => {
            let first = || polled(sent().owns(2), 2, &[read(0, 1)]);
            (first().fetch(2, Some(2)), first().fetch(2, Some(1)))
        }
    }
}

#[test]
fn every_anomaly_is_reported_by_its_name_alone_and_not_of_a_good_history() {
    for kind in AnomalyKind::ALL {
        let (bad, good) = histories(*kind);
        println!("{kind}");
        bad.shows(*kind);
        good.shows_nothing();
    }
}
