//! What must hold at every moment, looked at past the network after every tick: each by its ID in docs/ARCHITECTURE.md.

use crate::hosts::Rig;
use std::collections::BTreeMap;
use streamhouse_controller::raft::StateView;
use streamhouse_controller::state::command::PartitionKey;
use streamhouse_controller::state::kv::{KvError, KvRead};
use streamhouse_controller::state::partitions::{self, Partition};
use streamhouse_controller::state::{offsets, segments, sessions, topics};

/// BOUND: indexes whose hash is remembered.
const REMEMBERED: usize = 50_000;
pub(crate) const ALL: usize = 1_000;
/// Ticks from one comparison of whole states to the next.
const CONTENTS_EVERY: u32 = 1_000;
/// Those of which consumers are members.
pub(crate) const GROUPS: [&str; 2] = ["group-0", "group-1"];
/// What is looked at, as it is counted: an invariant that nothing was held against was not looked at.
pub(crate) const LOOKED_AT: [&str; 6] = ["PURE", CONTENTS, "ACK", "FENCE", "DENSE", "GROUP"];
const CONTENTS: &str = "PURE (contents)";

#[derive(Default)]
pub(crate) struct Invariants {
    /// The state's hash at each index, and who had it first.
    hashes: BTreeMap<u64, (u64, u128)>,
    /// What each controller has applied.
    applied: BTreeMap<u64, u64>,
    /// The newest index that anybody was seen at, and the log workload's partitions there.
    newest: u64,
    ticks: u32,
    partitions: BTreeMap<(Vec<u8>, u32), Partition>,
    /// What the members' groups have committed there.
    committed: BTreeMap<(&'static str, Vec<u8>, u32), u64>,
    /// How often each of [`LOOKED_AT`] was held against something.
    pub(crate) looks: BTreeMap<&'static str, u64>,
    pub(crate) violations: Vec<(String, String)>,
}

impl Invariants {
    pub(crate) fn look(&mut self, rig: &Rig) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(CONTENTS_EVERY) {
            self.contents(rig);
        }
        for (id, node) in &rig.nodes {
            // In most ticks nothing was applied, and a view costs far more than this.
            if self.applied.get(id) == Some(&*node.applied().borrow()) {
                continue;
            }
            let Ok(view) = node.try_view() else { continue };
            if self.applied.insert(*id, view.applied()) == Some(view.applied()) {
                continue;
            }
            self.pure(*id, &view);
            if view.applied() > self.newest {
                self.newest = view.applied();
                if let Err(error) = self.logs(&view).and_then(|()| self.groups(&view)) {
                    self.violated("PURE", format!("the state of controller {id}: {error}"));
                }
            }
        }
    }

    /// PURE, not by what controllers say of their state but by what it is.
    pub(crate) fn contents(&mut self, rig: &Rig) {
        let views = rig.nodes.iter().filter_map(|(id, node)| Some((*id, node.try_view().ok()?)));
        let mut at: BTreeMap<u64, Vec<(u64, StateView)>> = BTreeMap::new();
        for (id, view) in views {
            at.entry(view.applied()).or_default().push((id, view));
        }
        for (applied, views) in at.into_iter().filter(|(_, views)| views.len() > 1) {
            let mut known = None;
            for (id, view) in views {
                match view.scan(&[], &[u8::MAX; 16], usize::MAX) {
                    Ok(pairs) => {
                        let Some((other, expected)) = &known else {
                            known = Some((id, pairs));
                            continue;
                        };
                        self.looked(CONTENTS);
                        if *expected != pairs {
                            let detail = format!(
                                "at {applied} controllers {other} and {id} hold different pairs"
                            );
                            self.violated("PURE", detail);
                        }
                    }
                    Err(error) => self.violated("PURE", format!("controller {id}: {error}")),
                }
            }
        }
    }

    fn looked(&mut self, what: &'static str) {
        *self.looks.entry(what).or_default() += 1;
    }

    fn violated(&mut self, invariant: &str, detail: String) {
        // The first of each tells enough.
        if self.violations.iter().all(|(known, _)| known != invariant) {
            self.violations.push((invariant.to_owned(), detail));
        }
    }

    fn pure(&mut self, id: u64, view: &StateView) {
        let (applied, hash) = (view.applied(), view.state_hash());
        let (other, known) = *self.hashes.entry(applied).or_insert((id, hash));
        if other != id {
            self.looked("PURE");
        }
        if known != hash {
            let detail =
                format!("at {applied} controller {other} has {known:x}, controller {id} {hash:x}");
            self.violated("PURE", detail);
        }
        if self.hashes.len() > REMEMBERED {
            self.hashes.pop_first();
        }
    }

    /// GROUP: what members commit only grows, whoever of them commits it.
    fn groups(&mut self, view: &StateView) -> Result<(), KvError> {
        for group in GROUPS {
            for (key, now) in offsets::all_committed(view, group, ALL)? {
                let place = (group, key.topic.to_vec(), key.partition);
                let before = self.committed.insert(place, now.offset);
                if before.is_some() {
                    self.looked("GROUP");
                }
                if before.is_some_and(|before| now.offset < before) {
                    let (number, index) = (key.partition, view.applied());
                    let detail = format!(
                        "{group}, partition {number}, at index {index}: {} after {before:?}",
                        now.offset
                    );
                    self.violated("GROUP", detail);
                }
            }
        }
        Ok(())
    }

    fn logs(&mut self, view: &StateView) -> Result<(), KvError> {
        for (topic, _) in topics::topics(view)? {
            for (key, now) in partitions::partitions(view, &topic, 0, ALL)? {
                let place = (key.topic.to_vec(), key.partition);
                let before = self.partitions.insert(place, now.clone());
                if before.as_ref() != Some(&now) {
                    if before.is_some() {
                        ["ACK", "FENCE"].into_iter().for_each(|what| self.looked(what));
                    }
                    self.log(view, &key, &before.unwrap_or_default(), &now)?;
                }
            }
        }
        Ok(())
    }

    fn log(
        &mut self,
        view: &StateView,
        key: &PartitionKey,
        before: &Partition,
        now: &Partition,
    ) -> Result<(), KvError> {
        let at = format!("partition {} at index {}", key.partition, view.applied());
        if now.next_offset < before.next_offset {
            let detail = format!("{at}: {} after {}", now.next_offset, before.next_offset);
            self.violated("ACK", detail);
        }
        if now.lease_epoch < before.lease_epoch {
            let detail = format!("{at}: epoch {} after {}", now.lease_epoch, before.lease_epoch);
            self.violated("FENCE", detail);
        }
        let moved = now.holder != 0 && before.holder != 0 && now.holder != before.holder;
        if moved && now.lease_epoch == before.lease_epoch {
            let detail = format!("{at}: {} after {} in one epoch", now.holder, before.holder);
            self.violated("FENCE", detail);
        }
        if now.holder != 0 && now.holder != before.holder {
            let session = sessions::session(view, now.holder)?;
            if !session.is_some_and(|session| session.is_live()) {
                self.violated("FENCE", format!("{at}: granted to {}, which is ended", now.holder));
            }
        }
        let mut next = before.next_offset.max(now.log_start);
        for (base, entry) in segments::segments_from(view, key, next, ALL)? {
            self.looked("DENSE");
            // The first may begin before: only a part of it was trimmed.
            if base > next || (base < next && next != now.log_start) {
                self.violated("DENSE", format!("{at}: an entry begins at {base}, due is {next}"));
            }
            next = entry.last_offset + 1;
            let epochs = before.lease_epoch..=now.lease_epoch;
            if base >= before.next_offset && !epochs.contains(&entry.lease_epoch) {
                let epoch = entry.lease_epoch;
                self.violated(
                    "FENCE",
                    format!("{at}: an entry of epoch {epoch}, due is one of {epochs:?}"),
                );
            }
        }
        if next != now.next_offset {
            let detail = format!("{at}: entries end at {next}, the log at {}", now.next_offset);
            self.violated("DENSE", detail);
        }
        Ok(())
    }
}
