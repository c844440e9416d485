//! What a member owns, step by step. Pure: what the leader says and what poll has done come in, what to tell poll and
//! what to give back to the controllers comes out.
//!
//! ```text
//! leader: granted ──▶ Held ──leader: asked for──▶ Leaving ──poll: given up──▶ GivenUp ──leader: gone──▶ (nothing)
//!                      ▲                                                        │
//!                      └──────────────── leader: not asked for any more ────────┘
//! ```
//!
//! GROUP: a partition is given back only after poll said that it neither reads it any more nor commits it. And what is
//! given back is not read again before that was answered: until then it may take effect, also at a later asking for the
//! same grant.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use streamhouse_segment::ids::TopicId;

/// A partition, as the controllers name it.
pub(super) type Key = (TopicId, u32);

/// One grant as the leader tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The group epoch of the grant: with the partition it names the grant.
    pub(super) epoch: u32,
    /// It is to be given up.
    pub(super) revoking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Poll reads it, or is about to.
    Held,
    /// Poll was asked to give it up.
    Leaving,
    /// It has; the controllers may not know yet.
    GivenUp,
}

/// What follows from an input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// For poll, in this order: gone, to be given up, to be read.
    pub(super) lost: Vec<Key>,
    pub(super) revoked: Vec<Key>,
    pub(super) assigned: Vec<Key>,
    /// For the controllers: partition, and the epoch of its grant.
    pub(super) release: Vec<(Key, u32)>,
    /// The leader is to say again what the member owns.
    pub(super) ask: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Core {
    owned: BTreeMap<Key, (u32, Stage)>,
    /// The leader's last word, and the log index as of which it was said.
    granted: BTreeMap<Key, Grant>,
    applied: u64,
    /// Releases of which the last word does not tell yet what came of them: the log index of the answer, once there is
    /// one.
    releases: BTreeMap<(Key, u32), Option<u64>>,
    /// Words of poll still to come about what was lost after it was asked for.
    late: BTreeMap<Key, usize>,
}

impl Core {
    /// A membership begins.
    pub(super) fn begin(&mut self) {
        (self.applied, self.releases) = (0, BTreeMap::new());
    }

    /// The leader says what the member owns, all of it, as of that log index.
    pub(super) fn told(&mut self, applied: u64, granted: BTreeMap<Key, Grant>) -> Steps {
        self.applied = applied;
        self.releases.retain(|_, answered| answered.is_none_or(|at| at > applied));
        let mut steps = Steps::default();
        let keys: BTreeSet<Key> = self.owned.keys().chain(granted.keys()).copied().collect();
        for key in keys {
            self.step(key, granted.get(&key).copied(), &mut steps);
        }
        self.granted = granted;
        steps
    }

    fn step(&mut self, key: Key, grant: Option<Grant>, steps: &mut Steps) {
        let owned = self.owned.get(&key).copied();
        match (owned, grant) {
            (Some((epoch, stage)), Some(grant)) if epoch == grant.epoch => {
                self.follow(key, stage, grant, steps);
            }
            // It went, and may have come again, without a word in between.
            (Some((_, stage)), grant) => {
                self.owned.remove(&key);
                self.gone(key, stage, steps);
                if grant.is_some() {
                    self.step(key, grant, steps);
                }
            }
            (None, Some(grant))
                if grant.revoking || self.releases.contains_key(&(key, grant.epoch)) =>
            {
                // Nothing of it is read: it can go as it came.
                self.owned.insert(key, (grant.epoch, Stage::GivenUp));
                self.follow(key, Stage::GivenUp, grant, steps);
            }
            (None, Some(grant)) => {
                self.owned.insert(key, (grant.epoch, Stage::Held));
                steps.assigned.push(key);
            }
            (None, None) => {}
        }
    }

    /// The grant is the one that is known.
    fn follow(&mut self, key: Key, stage: Stage, grant: Grant, steps: &mut Steps) {
        match (stage, grant.revoking) {
            (Stage::Held, true) => {
                self.owned.insert(key, (grant.epoch, Stage::Leaving));
                steps.revoked.push(key);
            }
            (Stage::GivenUp, revoking) => match self.releases.entry((key, grant.epoch)) {
                Entry::Vacant(vacant) if revoking => {
                    vacant.insert(None);
                    steps.release.push((key, grant.epoch));
                }
                // It may stay after all: what was given up already is read anew.
                Entry::Vacant(_) => {
                    self.owned.insert(key, (grant.epoch, Stage::Held));
                    steps.assigned.push(key);
                }
                // This word is older than the answer. If the release took effect, a newer one is on its way; but if
                // the partition was not asked for at that moment, nothing has changed that would be told.
                Entry::Occupied(release) => steps.ask |= release.get().is_some() && !revoking,
            },
            (Stage::Held, false) | (Stage::Leaving, _) => {}
        }
    }

    /// The grant is over.
    fn gone(&mut self, key: Key, stage: Stage, steps: &mut Steps) {
        if stage != Stage::GivenUp {
            steps.lost.push(key);
        }
        if stage == Stage::Leaving {
            *self.late.entry(key).or_default() += 1;
        }
    }

    /// The controllers have answered a release, as of that log index.
    pub(super) fn released(&mut self, partitions: &[(Key, u32)], applied: u64) -> Steps {
        let mut steps = Steps::default();
        for &(key, epoch) in partitions {
            if applied > self.applied {
                self.releases.insert((key, epoch), Some(applied));
            } else {
                self.releases.remove(&(key, epoch));
            }
            if self.owned.get(&key) == Some(&(epoch, Stage::GivenUp)) {
                self.follow_again(key, epoch, &mut steps);
            }
        }
        steps
    }

    /// It was given up: what the leader's last word means now.
    fn follow_again(&mut self, key: Key, epoch: u32, steps: &mut Steps) {
        if let Some(grant) = self.granted.get(&key).copied().filter(|now| now.epoch == epoch) {
            self.follow(key, Stage::GivenUp, grant, steps);
        }
    }

    /// Poll has given these up.
    pub(super) fn given_up(&mut self, keys: &[Key]) -> Steps {
        let mut steps = Steps::default();
        for key in keys {
            if self.unasked(key) {
                continue;
            }
            let Some((epoch, stage @ Stage::Leaving)) = self.owned.get_mut(key) else { continue };
            let epoch = *epoch;
            *stage = Stage::GivenUp;
            self.follow_again(*key, epoch, &mut steps);
        }
        steps
    }

    /// One word of poll less is to come about the partition. Tells whether it was about what has been lost since.
    pub(super) fn unasked(&mut self, key: &Key) -> bool {
        let Entry::Occupied(mut late) = self.late.entry(*key) else { return false };
        *late.get_mut() -= 1;
        if *late.get() == 0 {
            late.remove();
        }
        true
    }

    /// Whether what came of a release is still to be told. A word of that comes by itself if the release changed
    /// something; one that was sent again may have changed nothing.
    pub(super) fn doubts(&self) -> bool {
        self.releases.values().any(Option::is_some)
    }

    /// Whether it owns nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.owned.is_empty()
    }

    /// The member owns nothing any more, or cannot know.
    pub(super) fn forget(&mut self) -> Steps {
        let mut steps = Steps::default();
        for (key, (_, stage)) in std::mem::take(&mut self.owned) {
            self.gone(key, stage, &mut steps);
        }
        self.granted.clear();
        steps
    }
}

#[cfg(test)]
mod tests;
