//! What can be done to the cluster, what each is called, and what excludes what.

use crate::hosts::{self, CLIENTS};
use crate::links::Way;
use crate::store::Trouble;
use std::slice::from_ref;
use std::time::Duration;

/// All kinds of faults.
pub(crate) const KINDS: [&str; 19] = [
    "power-cut",
    "power-and-network-cut",
    "restart",
    "link-cut",
    "link-cut-one-way",
    "link-held",
    "unanswered-then-cut-off",
    "slow-disk",
    CLOCK_JUMP,
    "latency",
    Trouble::InternalError.name(),
    Trouble::SlowDown.name(),
    Trouble::Unreachable.name(),
    Trouble::Silence.name(),
    Trouble::LostAnswer.name(),
    Trouble::Conflict.name(),
    Trouble::Truncated.name(),
    Trouble::BitFlip.name(),
    Trouble::Slow.name(),
];
pub(crate) const CLOCK_JUMP: &str = "clock-jump";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power is cut; or the power and the network, so that nobody is told that connections are over.
    Crash { machines: Vec<String>, silent: bool },
    /// It is stopped in good order, and started again.
    Restart(String),
    /// Nothing comes through between these and those; or nothing from these to those.
    Cut { these: Vec<String>, those: Vec<String>, one_way: bool },
    /// What is sent between these and those is kept, and delivered in the end.
    Hold { these: Vec<String>, those: Vec<String> },
    /// What the controllers send to this agent is lost, while they hear it and do what it asks; after that it is cut
    /// off from them, and comes back to ask what became of it when its session is over.
    Unanswered(String),
    /// The disk, and other threads, are late by up to this.
    Slow(String, Duration),
    /// The clock's time of day is off.
    Skew(String, i64),
    /// Requests to the store fail.
    Store(Vec<String>, Trouble, u64),
    /// Messages take up to this.
    Latency(Duration),
}

impl Fault {
    /// What it is counted as, one of [`KINDS`].
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Crash { silent: false, .. } => "power-cut",
            Self::Crash { silent: true, .. } => "power-and-network-cut",
            Self::Restart(_) => "restart",
            Self::Cut { one_way: false, .. } => "link-cut",
            Self::Cut { one_way: true, .. } => "link-cut-one-way",
            Self::Hold { .. } => "link-held",
            Self::Unanswered(_) => "unanswered-then-cut-off",
            Self::Slow(..) => "slow-disk",
            Self::Skew(..) => CLOCK_JUMP,
            Self::Store(_, trouble, _) => trouble.name(),
            Self::Latency(_) => "latency",
        }
    }

    pub(crate) fn is_crash(&self) -> bool {
        matches!(self, Self::Crash { .. })
    }

    /// On what, for the history.
    pub(crate) fn detail(&self) -> String {
        let between = |these: &[String], those: &[String]| {
            format!("{} and {}", these.join(", "), those.join(", "))
        };
        match self {
            Self::Crash { machines, .. } => machines.join(", "),
            Self::Restart(machine) | Self::Unanswered(machine) => machine.clone(),
            Self::Cut { these, those, one_way: true } => {
                format!("from {} to {}", these.join(", "), those.join(", "))
            }
            Self::Cut { these, those, .. } | Self::Hold { these, those } => between(these, those),
            Self::Slow(machine, latest) => format!("{machine}, up to {latest:?}"),
            Self::Skew(machine, by_ms) => format!("{machine}, by {by_ms} ms"),
            Self::Store(who, _, percent) => {
                format!("{percent} % of the requests of {}", who.join(", "))
            }
            Self::Latency(most) => format!("up to {most:?}"),
        }
    }

    /// The links that it cuts.
    pub(crate) fn cuts(&self) -> Vec<Way> {
        match self {
            Self::Crash { machines, silent: true } => {
                let alone = |machine: &String| both_ways(from_ref(machine), &others(machine));
                let mut ways: Vec<Way> = machines.iter().flat_map(alone).collect();
                ways.sort_unstable();
                ways.dedup();
                ways
            }
            Self::Cut { these, those, one_way: true } => from_to(these, those),
            Self::Cut { these, those, .. } => both_ways(these, those),
            Self::Unanswered(agent) => from_to(&hosts::controllers(), from_ref(agent)),
            _ => Vec::new(),
        }
    }

    /// The links that keep what is sent.
    fn holds(&self) -> Vec<Way> {
        match self {
            Self::Hold { these, those } => both_ways(these, those),
            _ => Vec::new(),
        }
    }

    /// What it sets to a value of its own, so that nobody else can meanwhile.
    fn sets(&self) -> Vec<(&'static str, String)> {
        let of = |what, machines: &[String]| machines.iter().cloned().map(|m| (what, m)).collect();
        match self {
            Self::Crash { machines, .. } => of("power", machines),
            Self::Restart(machine) => of("power", from_ref(machine)),
            Self::Slow(machine, _) => of("disk", from_ref(machine)),
            Self::Skew(machine, _) => of("clock", from_ref(machine)),
            Self::Store(who, ..) => of("store", who),
            Self::Unanswered(agent) => of("controllers", from_ref(agent)),
            Self::Latency(_) => vec![("latency", String::new())],
            Self::Cut { .. } | Self::Hold { .. } => Vec::new(),
        }
    }

    /// Both cannot be in place at once. Cut links may be cut again, but not held: what a held one has kept would be
    /// lost without a trace in the counts.
    pub(crate) fn excludes(&self, other: &Self) -> bool {
        let (own, its) = (self.sets(), other.sets());
        own.iter().any(|one| its.contains(one)) || self.tangles(other) || other.tangles(self)
    }

    fn tangles(&self, other: &Self) -> bool {
        let held = self.holds();
        let either = |(from, to): &Way| {
            held.iter().any(|(a, b)| (a, b) == (from, to) || (a, b) == (to, from))
        };
        !held.is_empty() && (other.cuts().iter().any(either) || other.holds().iter().any(either))
    }
}

fn from_to(these: &[String], those: &[String]) -> Vec<Way> {
    let all = these.iter().flat_map(|a| those.iter().map(move |b| (a.clone(), b.clone())));
    all.filter(|(a, b)| a != b).collect()
}

fn both_ways(these: &[String], those: &[String]) -> Vec<Way> {
    [from_to(these, those), from_to(those, these)].concat()
}

/// All machines but this one.
fn others(machine: &str) -> Vec<String> {
    let clients = CLIENTS.map(str::to_owned);
    let all = [&hosts::controllers()[..], &hosts::agents(), &clients].concat();
    all.into_iter().filter(|other| other != machine).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_one_machine_may_coincide_unless_they_set_the_same() {
        let cut = |one_way| Fault::Cut {
            these: vec!["k1".to_owned()],
            those: vec!["k2".to_owned()],
            one_way,
        };
        let held = Fault::Hold { these: vec!["k2".to_owned()], those: vec!["k1".to_owned()] };
        let crash = Fault::Crash { machines: vec!["k1".to_owned()], silent: true };
        assert!(!crash.excludes(&Fault::Skew("k1".to_owned(), 5)));
        assert!(crash.excludes(&Fault::Restart("k1".to_owned())));
        assert!(!crash.excludes(&cut(true)) && !cut(true).excludes(&cut(false)));
        assert!(held.excludes(&cut(true)) && cut(false).excludes(&held) && crash.excludes(&held));
    }
}
