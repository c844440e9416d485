//! What must have come about after the last healing, and by when. The bounds are those of trials of real processes
//! (`chaos/src/run/recovery.rs`), or below them.

use crate::hosts::{self, CONTROLLERS, Rig};
use crate::invariants::{ALL, GROUPS};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;
use streamhouse_chaos::{History, Operation, Outcome, Partition};
use streamhouse_controller::raft::StateView;
use streamhouse_controller::state::kv::KvError;
use streamhouse_controller::state::{offsets, partitions, sessions, topics};

/// Every partition takes a record.
const WRITABLE: Duration = Duration::from_secs(5);
/// The controllers are seen at one applied index, with one hash.
const IDENTICAL: Duration = Duration::from_secs(30);
/// Every agent has a session.
const SESSIONS: Duration = Duration::from_secs(10);
/// Every group has committed all there is, once nobody writes any more.
const CAUGHT_UP: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// What is asked, by the names under which it is told how long each took at the most.
pub(crate) const ASKED: [&str; 4] = ["writable", "identical", "sessions", "groups"];

/// See the module.
pub(crate) struct Late {
    healed: Duration,
    /// The same on the history's clock.
    healed_us: u64,
    /// Since when nobody writes any more.
    written: Option<Duration>,
    next: Duration,
    /// How long after healing, or after the last record, what came about.
    pub(crate) took: BTreeMap<&'static str, Duration>,
    pub(crate) violations: Vec<String>,
}

impl Late {
    pub(crate) fn new(healed: Duration, healed_us: u64) -> Self {
        let (took, violations) = (BTreeMap::new(), Vec::new());
        Self { healed, healed_us, written: None, next: healed, took, violations }
    }

    /// Nobody writes any more.
    pub(crate) fn written(&mut self, now: Duration) {
        self.written.get_or_insert(now);
    }

    /// Groups are where they must be, or are not waited for any more.
    pub(crate) fn is_over(&self) -> bool {
        self.took.contains_key("groups")
    }

    pub(crate) fn look(&mut self, now: Duration, rig: &Rig) {
        if now < self.next {
            return;
        }
        self.next = now + LOOK;
        self.ask("identical", now, Some(self.healed), IDENTICAL, || identical(rig));
        self.ask("sessions", now, Some(self.healed), SESSIONS, || newest(rig, without_session));
        self.ask("groups", now, self.written, CAUGHT_UP, || newest(rig, behind));
    }

    /// Asks what is still in the way, until nothing is, or its time is over.
    fn ask(
        &mut self,
        what: &'static str,
        now: Duration,
        since: Option<Duration>,
        most: Duration,
        in_the_way: impl FnOnce() -> Option<String>,
    ) {
        let Some(since) = since.filter(|_| !self.took.contains_key(what)) else { return };
        let took = now.saturating_sub(since);
        match in_the_way() {
            None => {
                self.took.insert(what, took);
            }
            Some(reason) if took > most => {
                self.violations.push(format!("{what}: not after {most:?}: {reason}"));
                self.took.insert(what, took);
            }
            Some(_) => {}
        }
    }

    /// What the history says.
    pub(crate) fn judge(&mut self, history: &History, all: &[Partition]) {
        let mut written: BTreeMap<Partition, u64> = BTreeMap::new();
        // What was sent before may have been on its way when all was healed. A process has one send open of a value.
        let mut asked = HashSet::new();
        for event in history.events.iter().filter(|event| event.time_us >= self.healed_us) {
            let Operation::Send { at, value, .. } = &event.operation else { continue };
            match event.outcome {
                Outcome::Invoke => drop(asked.insert((event.process, *value))),
                Outcome::Ok if asked.remove(&(event.process, *value)) => {
                    written.entry(*at).or_insert(event.time_us - self.healed_us);
                }
                _ => {}
            }
        }
        for at in all {
            let Some(took) = written.get(at).copied().map(Duration::from_micros) else {
                self.violations.push(format!("writable: {at} was not written after healing"));
                continue;
            };
            let longest = self.took.entry("writable").or_default();
            *longest = took.max(*longest);
            if took > WRITABLE {
                self.violations.push(format!("writable: {at} only {took:?} after healing"));
            }
        }
        for what in ASKED.iter().filter(|what| !self.took.contains_key(**what)) {
            self.violations.push(format!("{what}: it ended before that was known"));
        }
    }
}

/// Why the controllers are not seen to be the same.
fn identical(rig: &Rig) -> Option<String> {
    let at: Vec<_> = rig.nodes.iter().map(|(id, node)| (*id, *node.applied().borrow())).collect();
    if at.len() < CONTROLLERS as usize || at.iter().any(|(_, applied)| *applied != at[0].1) {
        return Some(format!("by (controller, applied index) they are {at:?}"));
    }
    let hashes: Vec<_> = rig.nodes.values().map(|node| node.view().state_hash()).collect();
    hashes.iter().any(|hash| *hash != hashes[0]).then(|| format!("their hashes are {hashes:x?}"))
}

/// Asks the controller that is furthest.
fn newest(
    rig: &Rig,
    ask: impl FnOnce(&StateView) -> Result<Option<String>, KvError>,
) -> Option<String> {
    let furthest = rig.nodes.values().max_by_key(|node| *node.applied().borrow());
    let Some(node) = furthest else { return Some("no controller runs".to_owned()) };
    node.try_view().and_then(|view| ask(&view)).unwrap_or_else(|error| Some(error.to_string()))
}

fn without_session(view: &StateView) -> Result<Option<String>, KvError> {
    let live: BTreeSet<String> =
        sessions::live(view)?.into_iter().map(|(_, session)| session.address).collect();
    let missing = hosts::agent_addresses().into_iter().find(|agent| !live.contains(agent));
    Ok(missing.map(|agent| format!("{agent} has no session")))
}

/// What a group has not committed.
fn behind(view: &StateView) -> Result<Option<String>, KvError> {
    for (topic, about) in topics::topics(view)? {
        if !crate::trial::is_of_the_log(&about.name) {
            continue;
        }
        for group in GROUPS {
            let committed: BTreeMap<_, _> = offsets::all_committed(view, group, ALL)?
                .into_iter()
                .filter(|(key, _)| key.topic == topic)
                .map(|(key, now)| (key.partition, now.offset))
                .collect();
            for (key, now) in partitions::partitions(view, &topic, 0, ALL)? {
                let of = committed.get(&key.partition).copied().unwrap_or(0);
                if of < now.next_offset {
                    let (name, number, end) = (&about.name, key.partition, now.next_offset);
                    return Ok(Some(format!("{group} has {of} of {end} in {name}/{number}")));
                }
            }
        }
    }
    Ok(None)
}
