//! What the others say when they are asked who they are.

use super::Own;
use super::members::{Members, Place};
use crate::raft::types::{DiskId, LogId};
use crate::state::controllers::Mark;
use std::collections::BTreeMap;
use streamhouse_proto::v1;

/// What one of the others said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) disk: DiskId,
    pub(crate) cluster: Option<[u8; 16]>,
    /// Its disk holds nothing at all.
    pub(crate) empty: bool,
    /// It can know what became of the cluster: it takes part, or holds a log,
    /// and was not refused itself.
    pub(crate) knows: bool,
    /// A majority confirmed, after it was asked, that it leads.
    pub(crate) leads: bool,
    pub(crate) term: u64,
    pub(crate) members: Members,
    /// How far it saw the asking disk get.
    pub(crate) mark: Option<Mark>,
    /// The feature level of its state, 0 if that has none.
    pub(crate) level: u32,
}

impl Answer {
    /// Who answered, and what; `None` if that makes no sense.
    pub(crate) fn read(wire: v1::IdentifyResponse, own: u64) -> Option<(u64, Self)> {
        // Older releases say less: whoever holds something counts.
        let standing = wire
            .standing
            .unwrap_or(v1::Standing { holds_log: !wire.empty, ..v1::Standing::default() });
        let members = match wire.membership {
            Some(members) => Members::from_wire(members),
            None => named(own, &wire.member_disk, wire.membership_index),
        };
        let mark = wire.mark.map(|mark| Mark {
            node: own,
            term: mark.term,
            matched_term: mark.matched_term,
            matched_index: mark.matched_index,
        });
        let answer = Self {
            disk: DiskId::try_from(wire.disk_id.as_slice()).ok()?,
            cluster: <[u8; 16]>::try_from(wire.cluster_id.as_slice()).ok(),
            empty: wire.empty,
            knows: (standing.admitted || standing.holds_log) && !standing.refused,
            leads: standing.leads,
            term: standing.term,
            members,
            mark,
            level: wire.feature_level,
        };
        Some((wire.node_id, answer))
    }

    /// It is said in the name of another cluster.
    pub(crate) fn is_foreign(&self, own: &Own) -> bool {
        matches!((own.cluster, self.cluster), (Some(own), Some(other)) if own != other)
    }
}

/// All that an older release says of its membership.
fn named(own: u64, disk: &[u8], index: u64) -> Members {
    let disk = DiskId::try_from(disk).ok();
    let place = disk.map(|disk| (own, Place { address: String::new(), disk }));
    let at = (index > 0).then(|| LogId::new_term_index(0, index));
    let nodes = place.into_iter().collect();
    Members { at, committed: index > 0, voters: Vec::new(), nodes }
}

/// The latest answers of the others, by number.
pub(crate) type Answers = BTreeMap<u64, Answer>;
