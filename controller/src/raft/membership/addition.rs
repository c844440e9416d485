//! How a member is added, or why it is not: what is decided from the membership alone.

use super::{Changes, Membership, MembershipError, conflict};
use crate::raft::types::ControllerNode;
use crate::state::controllers::MAX_CONTROLLERS;
use openraft::ChangeMembers;
use std::collections::{BTreeMap, BTreeSet};

/// How a member is added: `None` if it is there already.
pub(super) fn addition(
    members: &Membership,
    id: u64,
    mut new: ControllerNode,
) -> Result<Option<Changes>, MembershipError> {
    if let Some(member) = members.get_node(&id) {
        return added_before(members, id, member, &new).map(|()| None);
    }
    let asked = new.replaces;
    if asked != 0 && members.get_node(&asked).is_none() {
        return Err(MembershipError::Unknown(asked));
    }
    // A learner that is replaced never had a vote: it goes at once, and the
    // new one is to take the place that it was to take.
    let voters: BTreeSet<u64> = members.voter_ids().collect();
    let mut dropped = BTreeSet::new();
    while let Some(learner) = members.get_node(&new.replaces)
        && !voters.contains(&new.replaces)
        && dropped.insert(new.replaces)
    {
        new.replaces = learner.replaces;
    }
    if members.get_node(&new.replaces).is_none() {
        new.replaces = 0;
    }
    let left = members.nodes().filter(|(other, _)| !dropped.contains(other));
    let left: BTreeMap<u64, &ControllerNode> = left.map(|(id, node)| (*id, node)).collect();
    room(&left, &voters, &new)?;
    let mut changes = Vec::new();
    if !dropped.is_empty() {
        changes.push(ChangeMembers::RemoveNodes(dropped));
    }
    changes.push(ChangeMembers::AddNodes(BTreeMap::from([(id, new)])));
    Ok(Some(ChangeMembers::Batch(changes)))
}

/// Whether adding a member again is what was done already.
fn added_before(
    members: &Membership,
    id: u64,
    member: &ControllerNode,
    new: &ControllerNode,
) -> Result<(), MembershipError> {
    if member.disk != new.disk {
        return Err(conflict(format!("controller {id} is a member with another disk")));
    }
    if new.replaces == 0 || new.replaces == member.replaces {
        return Ok(());
    }
    match members.get_node(&new.replaces) {
        Some(_) => Err(conflict(format!(
            "controller {id} is a member already: remove the other instead, streamhouse cluster \
             remove-controller {}",
            new.replaces
        ))),
        // An older number that is gone: a learner that was replaced is
        // dropped when its successor is added.
        None if new.replaces < id => Ok(()),
        None => Err(MembershipError::Unknown(new.replaces)),
    }
}

/// Whether there is room for `new` beside those that are left.
fn room(
    left: &BTreeMap<u64, &ControllerNode>,
    voters: &BTreeSet<u64>,
    new: &ControllerNode,
) -> Result<(), MembershipError> {
    if left.len() >= MAX_CONTROLLERS {
        return Err(conflict(format!(
            "the cluster has {} controllers, learners included, and {MAX_CONTROLLERS} are the limit: \
             remove one first, streamhouse cluster remove-controller",
            left.len()
        )));
    }
    for (other, member) in left {
        if member.address == new.address && *other != new.replaces {
            let address = &new.address;
            return Err(conflict(match voters.contains(other) {
                true => format!(
                    "controller {other} has the address {address}; if its disk is lost, let this one \
                     take its place: streamhouse cluster replace-controller {other} {address}"
                ),
                false => format!(
                    "controller {other}, which does not vote yet, has the address {address}; if it is \
                     lost, remove it first: streamhouse cluster remove-controller {other}"
                ),
            }));
        }
        if new.replaces != 0 && member.replaces == new.replaces {
            return Err(conflict(format!(
                "controller {other} is about to take the place of {} already; if it is lost, remove it \
                 first: streamhouse cluster remove-controller {other}",
                new.replaces
            )));
        }
    }
    Ok(())
}
