//! Who the controllers are: numbers for new ones, joining, leaving, leading.

use super::Shared;
use crate::convert::id16;
use crate::errors::{invalid, propose_failed, refused, store_failed, unexpected};
use crate::raft::{MembershipError, TooOld};
use crate::state::command::CommandBody;
use crate::state::controllers;
use crate::state::features;
use crate::state::names::shown;
use crate::state::reply::Reply;
use std::time::Duration;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tonic::Status;

/// How long a new leader may take to be elected.
const ELECTION: Duration = Duration::from_secs(5);
/// Longest address of a controller, in bytes.
const MAX_ADDRESS_BYTES: usize = 1_024;

/// The members, as clients and new controllers are told.
pub(super) fn list(shared: &Shared) -> Vec<v1::ControllerAddress> {
    let members = shared.raft.members();
    if members.is_empty() {
        // Not founded yet: where they are expected.
        let peers = shared.options.peers.iter();
        return peers
            .map(|(id, address)| v1::ControllerAddress {
                id: *id,
                address: address.clone(),
                voter: false,
            })
            .collect();
    }
    members
        .into_iter()
        .map(|m| v1::ControllerAddress { id: m.id, address: m.address, voter: m.voter })
        .collect()
}

pub(super) async fn allocate(
    shared: &Shared,
    wire: v1::AllocateControllerRequest,
) -> Result<v1::AllocateControllerResponse, Status> {
    let disk = id16("disk id", &wire.disk_id)?;
    refuse_too_old(shared, wire.reads_level)?;
    let highest = || shared.raft.members().last().map_or(0, |member| member.id);
    let body = CommandBody::AllocateController { disk, above: highest() };
    let proposed = shared.raft.propose_local(None, body).await;
    let (_, reply) = proposed.map_err(|error| lead(shared, propose_failed(&error)))?;
    match reply {
        Reply::Controller(id) => Ok(v1::AllocateControllerResponse {
            id,
            cluster_id: shared.raft.cluster_id().map_or(Vec::new(), |id| id.to_vec()),
            controllers: list(shared),
        }),
        Reply::Refused(refusal) => Err(refused(&refusal)),
        _ => Err(unexpected("allocate controller")),
    }
}

pub(super) async fn add(
    shared: &Shared,
    wire: v1::AddControllerRequest,
) -> Result<v1::AddControllerResponse, Status> {
    if wire.address.is_empty() || wire.address.len() > MAX_ADDRESS_BYTES {
        let address = shown(&wire.address);
        let message =
            format!("address '{address}' is empty or longer than {MAX_ADDRESS_BYTES} bytes");
        return Err(invalid(message));
    }
    require_leader(shared)?;
    let (id, disk) = if wire.id == 0 && wire.disk_id.is_empty() {
        let found = shared.raft.identify_at(&wire.address).await;
        let (id, disk, reads) = found.map_err(|error| membership_failed(shared, &error))?;
        refuse_too_old(shared, reads)?;
        (id, disk)
    } else {
        (wire.id, id16("disk id", &wire.disk_id)?)
    };
    // Everything that allots numbers has been applied here: this is the leader.
    shared.raft.read_index().await.map_err(|e| crate::errors::read_failed(&e))?;
    let allotted = controllers::number_of(&shared.raft.view(), &disk);
    let member = shared.raft.members().iter().any(|member| member.id == id);
    if !member && allotted.map_err(|e| store_failed(&e))? != Some(id) {
        let message = format!(
            "the controller at '{}' has no number of this cluster; start it with --join",
            shown(&wire.address)
        );
        return Err(to_status(ErrorInfo::new(ErrorCode::Conflict, message)));
    }
    let added = shared.raft.add_member(id, &wire.address, disk, wire.replaces).await;
    added.map_err(|error| membership_failed(shared, &error))?;
    Ok(v1::AddControllerResponse { id })
}

pub(super) async fn remove(
    shared: &Shared,
    wire: v1::RemoveControllerRequest,
) -> Result<v1::RemoveControllerResponse, Status> {
    require_leader(shared)?;
    // Its number must not be given out again, whoever gave it.
    let members = shared.raft.members();
    let highest = members.last().map_or(0, |member| member.id);
    let known = controllers::highest_number(&shared.raft.view()).map_err(|e| store_failed(&e))?;
    if known < highest {
        let body = CommandBody::ReserveControllers { upto: highest };
        let reserved = shared.raft.propose_local(None, body).await;
        reserved.map_err(|error| lead(shared, propose_failed(&error)))?;
    }
    match shared.raft.remove_member(wire.id).await {
        Ok(()) => Ok(v1::RemoveControllerResponse {}),
        // A number that was given out and is no member's: it was removed.
        Err(MembershipError::Unknown(id)) if id <= known.max(highest) && id > 0 => {
            Ok(v1::RemoveControllerResponse {})
        }
        Err(error) => Err(membership_failed(shared, &error)),
    }
}

pub(super) async fn transfer(
    shared: &Shared,
    wire: v1::TransferLeaderRequest,
) -> Result<v1::TransferLeaderResponse, Status> {
    require_leader(shared)?;
    let own = shared.raft.status().id;
    let mut leadership = shared.raft.leadership();
    let before = *leadership.borrow_and_update();
    if wire.to == own {
        return Ok(v1::TransferLeaderResponse { leader_id: own, term: before.term });
    }
    let to = (wire.to != 0).then_some(wire.to);
    let asked = shared.raft.transfer_leadership(to).await;
    asked.map_err(|error| membership_failed(shared, &error))?;
    let moved = leadership.wait_for(|now| now.term > before.term && now.leader.is_some());
    match tokio::time::timeout(ELECTION, moved).await {
        Ok(Ok(now)) if to.is_none_or(|to| now.leader == Some(to)) => {
            Ok(v1::TransferLeaderResponse { leader_id: now.leader.unwrap_or(0), term: now.term })
        }
        Ok(Ok(now)) => {
            let message = format!(
                "controller {} leads now, not {}; it may have been behind",
                now.leader.unwrap_or(0),
                wire.to
            );
            Err(to_status(ErrorInfo::new(ErrorCode::Conflict, message)))
        }
        Ok(Err(_)) => {
            Err(to_status(ErrorInfo::new(ErrorCode::ShuttingDown, "the controller stops")))
        }
        Err(_) => {
            let message = "nobody took over the leadership in time".to_owned();
            Err(to_status(ErrorInfo::new(ErrorCode::Conflict, message)))
        }
    }
}

/// Refuses a controller whose release does not read what the cluster uses.
fn refuse_too_old(shared: &Shared, reads: u32) -> Result<(), Status> {
    // A release that says nothing of levels reads the oldest.
    let (reads, level) = (reads.max(features::OLDEST), shared.raft.feature_levels().0);
    match level > reads {
        true => {
            let message = TooOld { level, reads }.to_string();
            Err(to_status(ErrorInfo::new(ErrorCode::Conflict, message)))
        }
        false => Ok(()),
    }
}

fn require_leader(shared: &Shared) -> Result<(), Status> {
    match shared.raft.leadership().borrow().is_leader {
        true => Ok(()),
        false => Err(no_leader(shared)),
    }
}

fn no_leader(shared: &Shared) -> Status {
    let info = ErrorInfo::new(ErrorCode::NoLeader, "this controller does not lead");
    to_status(info.at(shared.raft.leader_address().unwrap_or_default()))
}

/// Where somebody else leads, says who.
fn lead(shared: &Shared, status: Status) -> Status {
    match shared.raft.leadership().borrow().is_leader {
        true => status,
        false => no_leader(shared),
    }
}

fn membership_failed(shared: &Shared, error: &MembershipError) -> Status {
    let code = match error {
        MembershipError::NotLeader => return no_leader(shared),
        MembershipError::Unknown(_) => ErrorCode::UnknownController,
        MembershipError::Conflict(_) | MembershipError::NoMajority { .. } => ErrorCode::Conflict,
        MembershipError::Busy => ErrorCode::Overloaded,
        MembershipError::Indeterminate(_) => ErrorCode::TimedOut,
    };
    to_status(ErrorInfo::new(code, error.to_string()))
}
