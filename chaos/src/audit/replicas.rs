//! The controllers against each other (PURE): at one applied index they have one state hash.
//!
//! They are asked again and again, because on a cluster at work they are seldom seen at one index at once: what each
//! was at which index is remembered, until there is an index at which all were seen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use streamhouse_client::{Admin, AdminError, Role};

use super::Problem;
use crate::clock;

/// Between two rounds of questions.
const LOOK: Duration = Duration::from_millis(50);

/// One controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replica {
    /// Its id.
    pub controller: u64,
    /// The last index at which it was seen.
    pub applied: u64,
    /// Its state hash there.
    pub state_hash: String,
}

/// How the controllers compare.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Replicas {
    /// As they were last seen.
    pub controllers: Vec<Replica>,
    /// The index at which all of them were seen, with one hash; `None` if there was none.
    pub identical_at: Option<u64>,
}

/// What each controller was seen to be: by index, then by controller.
#[derive(Default)]
struct Seen(BTreeMap<u64, BTreeMap<u64, String>>);

/// BOUND: indexes remembered.
const REMEMBERED: usize = 2_000;

impl Seen {
    fn note(&mut self, replica: &Replica) {
        let hashes = self.0.entry(replica.applied).or_default();
        hashes.insert(replica.controller, replica.state_hash.clone());
        if self.0.len() > REMEMBERED {
            self.0.pop_first();
        }
    }

    fn divergence(&self) -> Option<(u64, BTreeMap<u64, String>)> {
        let differ = |hashes: &BTreeMap<u64, String>| {
            let mut hashes = hashes.values();
            let first = hashes.next();
            hashes.any(|hash| Some(hash) != first)
        };
        let found = self.0.iter().find(|(_, hashes)| differ(hashes));
        found.map(|(applied, hashes)| (*applied, hashes.clone()))
    }

    /// The last index at which so many were seen.
    fn shared_by(&self, count: usize) -> Option<u64> {
        let mut shared = self.0.iter().rev().filter(|(_, hashes)| hashes.len() == count);
        shared.next().map(|(applied, _)| *applied)
    }
}

pub(crate) async fn compare(
    admin: &Admin,
    patience: Duration,
) -> Result<(Replicas, Option<Problem>), AdminError> {
    let deadline = clock::now() + patience;
    let mut seen = Seen::default();
    loop {
        let statuses = admin.controllers().await?;
        let silent = statuses.iter().find(|status| status.role == Role::Unreachable);
        let reason = match silent {
            Some(status) => format!("controller {} does not answer", status.id),
            None => "the controllers were never seen at one applied index".to_owned(),
        };
        let replicas: Vec<Replica> = statuses
            .iter()
            .filter(|status| status.role != Role::Unreachable)
            .map(|status| Replica {
                controller: status.id,
                applied: status.applied,
                state_hash: status.state_hash.clone(),
            })
            .collect();
        replicas.iter().for_each(|replica| seen.note(replica));
        if let Some((applied, hashes)) = seen.divergence() {
            let found = Replicas { controllers: replicas, identical_at: None };
            return Ok((found, Some(Problem::ReplicaDivergence { applied, hashes })));
        }
        let identical_at = seen.shared_by(statuses.len());
        let found = Replicas { controllers: replicas, identical_at };
        if identical_at.is_some() {
            return Ok((found, None));
        }
        if clock::now() >= deadline {
            return Ok((found, Some(Problem::NotCompared { reason })));
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(controller: u64, applied: u64, state_hash: &str) -> Replica {
        Replica { controller, applied, state_hash: state_hash.to_owned() }
    }

    #[test]
    fn controllers_seen_at_one_index_at_different_times_are_compared() {
        let mut seen = Seen::default();
        for replica in [replica(1, 10, "a"), replica(2, 9, "b"), replica(1, 11, "c")] {
            seen.note(&replica);
        }
        assert_eq!((seen.shared_by(2), seen.divergence()), (None, None));
        seen.note(&replica(2, 10, "a"));
        assert_eq!((seen.shared_by(2), seen.divergence()), (Some(10), None));
        seen.note(&replica(2, 11, "d"));
        assert_eq!(seen.divergence().map(|(applied, _)| applied), Some(11));
    }
}
