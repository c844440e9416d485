//! What a member owns, step by step. Pure: what the leader says and what poll has done come in, what to tell poll and
//! what to give back to the controllers comes out.
//!
//! ```text
//! leader: granted ──▶ Held ──leader: asked for──▶ Leaving ──poll: given up──▶ GivenUp ──leader: gone──▶ (nothing)
//!                      ▲                                                        │
//!                      └──────────────── leader: not asked for any more ────────┘
//! ```
//!
//! GROUP: a partition is given back only after poll said that it neither reads it any more nor commits it.

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
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Core {
    owned: BTreeMap<Key, (u32, Stage)>,
    /// The leader's last word.
    granted: BTreeMap<Key, Grant>,
}

impl Core {
    /// The leader says what the member owns, all of it.
    pub(super) fn told(&mut self, granted: BTreeMap<Key, Grant>) -> Steps {
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
                if stage != Stage::GivenUp {
                    steps.lost.push(key);
                }
                if grant.is_some() {
                    self.step(key, grant, steps);
                }
            }
            (None, Some(grant)) if grant.revoking => {
                // Nothing of it was read: it can go as it came.
                self.owned.insert(key, (grant.epoch, Stage::GivenUp));
                steps.release.push((key, grant.epoch));
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
            // It may stay after all: what was given up already is read anew.
            (Stage::GivenUp, false) => {
                self.owned.insert(key, (grant.epoch, Stage::Held));
                steps.assigned.push(key);
            }
            // Said again, as the controllers have not heard it yet.
            (Stage::GivenUp, true) => steps.release.push((key, grant.epoch)),
            (Stage::Held, false) | (Stage::Leaving, _) => {}
        }
    }

    /// Poll has given these up.
    pub(super) fn given_up(&mut self, keys: &[Key]) -> Steps {
        let mut steps = Steps::default();
        for key in keys {
            let Some((epoch, stage @ Stage::Leaving)) = self.owned.get_mut(key) else { continue };
            let epoch = *epoch;
            *stage = Stage::GivenUp;
            if let Some(grant) = self.granted.get(key).copied().filter(|now| now.epoch == epoch) {
                self.follow(*key, Stage::GivenUp, grant, &mut steps);
            }
        }
        steps
    }

    /// Whether it owns nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.owned.is_empty()
    }

    /// The member owns nothing any more, or cannot know.
    pub(super) fn forget(&mut self) -> Steps {
        let owned = std::mem::take(&mut self.owned).into_iter();
        let lost = owned.filter(|(_, (_, stage))| *stage != Stage::GivenUp).map(|(key, _)| key);
        self.granted.clear();
        Steps { lost: lost.collect(), ..Steps::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: u32) -> Key {
        (TopicId::from_bytes([1; 16]), partition)
    }

    fn told(core: &mut Core, grants: &[(u32, u32, bool)]) -> Steps {
        let grant = |&(partition, epoch, revoking): &(u32, u32, bool)| {
            (key(partition), Grant { epoch, revoking })
        };
        core.told(grants.iter().map(grant).collect())
    }

    #[test]
    fn a_partition_is_given_back_only_after_poll_gave_it_up() {
        let mut core = Core::default();
        let steps = told(&mut core, &[(0, 1, false), (1, 1, false)]);
        assert_eq!(steps.assigned, [key(0), key(1)]);
        let steps = told(&mut core, &[(0, 1, false), (1, 1, true)]);
        assert_eq!((steps.revoked, steps.release), (vec![key(1)], vec![]));
        // Said again while poll is still at it: nothing new.
        assert_eq!(told(&mut core, &[(0, 1, false), (1, 1, true)]), Steps::default());
        assert_eq!(core.given_up(&[key(1)]).release, [(key(1), 1)]);
        assert_eq!(told(&mut core, &[(0, 1, false)]), Steps::default());
    }

    #[test]
    fn what_is_asked_for_before_it_was_read_goes_as_it_came() {
        let mut core = Core::default();
        let steps = told(&mut core, &[(0, 4, true)]);
        assert_eq!(steps, Steps { release: vec![(key(0), 4)], ..Steps::default() });
    }

    #[test]
    fn what_may_stay_after_all_is_read_on_or_read_anew() {
        let mut core = Core::default();
        told(&mut core, &[(0, 1, false), (1, 1, false)]);
        told(&mut core, &[(0, 1, true), (1, 1, true)]);
        assert_eq!(core.given_up(&[key(0)]).release, [(key(0), 1)]);
        // Poll has not come to the second one yet; when it does, it reads it again.
        let steps = told(&mut core, &[(0, 1, false), (1, 1, false)]);
        assert_eq!((steps.assigned, steps.lost), (vec![key(0)], vec![]));
        assert_eq!(core.given_up(&[key(1)]).assigned, [key(1)]);
    }

    #[test]
    fn another_grant_of_the_same_partition_is_a_loss_first() {
        let mut core = Core::default();
        told(&mut core, &[(0, 1, false)]);
        let steps = told(&mut core, &[(0, 9, false)]);
        assert_eq!((steps.lost, steps.assigned), (vec![key(0)], vec![key(0)]));
        assert_eq!(told(&mut core, &[]).lost, [key(0)]);
    }

    #[test]
    fn a_release_that_was_not_heard_is_said_again() {
        let mut core = Core::default();
        told(&mut core, &[(0, 1, false)]);
        told(&mut core, &[(0, 1, true)]);
        core.given_up(&[key(0)]);
        assert_eq!(told(&mut core, &[(0, 1, true)]).release, [(key(0), 1)]);
    }

    #[test]
    fn after_all_was_lost_the_leader_s_word_begins_anew() {
        let mut core = Core::default();
        told(&mut core, &[(0, 1, false), (1, 1, false)]);
        told(&mut core, &[(0, 1, true), (1, 1, false)]);
        core.given_up(&[key(0)]);
        assert_eq!(core.forget().lost, [key(1)]);
        // A late word of poll about what it had then means nothing.
        assert_eq!(core.given_up(&[key(1)]), Steps::default());
        assert_eq!(told(&mut core, &[(1, 1, false)]).assigned, [key(1)]);
    }
}
