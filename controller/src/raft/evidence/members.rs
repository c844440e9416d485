//! Memberships as nodes know them, and on which disks their members are.

use crate::raft::types::{DiskId, LogId, StoredMembership};
use std::collections::{BTreeMap, BTreeSet};
use streamhouse_proto::v1;

/// Where a member is, and on which disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: String,
    pub(crate) disk: DiskId,
}

/// A membership, as a node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Where it is in the log.
    pub(crate) at: Option<LogId>,
    pub(crate) committed: bool,
    /// A majority of each is needed.
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) nodes: BTreeMap<u64, Place>,
}

impl Members {
    pub(crate) fn new(stored: &StoredMembership, committed: bool) -> Self {
        let nodes = stored
            .membership()
            .nodes()
            .map(|(id, node)| (*id, Place { address: node.address.clone(), disk: node.disk }));
        Self {
            at: *stored.log_id(),
            committed,
            voters: stored.membership().get_joint_config().clone(),
            nodes: nodes.collect(),
        }
    }

    pub(crate) fn to_wire(&self) -> v1::KnownMembership {
        let (term, index) = self.at.map_or((0, 0), |at| (at.leader_id.term, at.index));
        let voters = self.voters.iter();
        let members = self.nodes.iter().map(|(id, place)| v1::KnownMember {
            id: *id,
            address: place.address.clone(),
            disk_id: place.disk.to_vec(),
        });
        v1::KnownMembership {
            term,
            index,
            committed: self.committed,
            voters: voters.map(|ids| v1::VoterSet { ids: ids.iter().copied().collect() }).collect(),
            members: members.collect(),
        }
    }

    pub(super) fn from_wire(wire: v1::KnownMembership) -> Self {
        let nodes = wire.members.into_iter().filter_map(|member| {
            let disk = DiskId::try_from(member.disk_id.as_slice()).ok()?;
            Some((member.id, Place { address: member.address, disk }))
        });
        let nodes: BTreeMap<u64, Place> = nodes.collect();
        let at = (!nodes.is_empty()).then(|| LogId::new_term_index(wire.term, wire.index));
        let voters = wire.voters.into_iter().map(|set| set.ids.into_iter().collect());
        Self { at, committed: wire.committed, voters: voters.collect(), nodes }
    }

    pub(crate) fn disk_of(&self, node: u64) -> Option<DiskId> {
        self.nodes.get(&node).map(|place| place.disk)
    }
}
