//! The stream that keeps a group's member alive and carries its partitions.
//!
//! A member attends at every controller. Each takes note of its signs of life,
//! so that whoever leads next knows it lives; only the leader confirms them
//! and tells what the member owns.

use super::Shared;
use super::pace::Pace;
use crate::convert::{id16, partition_wire};
use crate::errors::{invalid, refused};
use crate::group_care::{MemberKey, patience};
use crate::places::Place;
use crate::raft::Leadership;
use crate::state::groups;
use crate::state::kv::KvError;
use crate::state::names::check_group;
use std::sync::Arc;
use streamhouse_host::{Mistake, is_planted};
use streamhouse_proto::to_status;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub(super) type AttendStream = ReceiverStream<Result<v1::AttendGroupResponse, Status>>;

/// BOUND: answers waiting for a slow member.
const QUEUE: usize = 4;

pub(super) async fn attend(
    shared: Arc<Shared>,
    mut incoming: Streaming<v1::AttendGroupRequest>,
) -> Result<AttendStream, Status> {
    let first = incoming.message().await?;
    let first = first.ok_or_else(|| invalid("the stream ended before it began"))?;
    check_group(&first.group).map_err(|refusal| refused(&refusal))?;
    let member = id16("member id", &first.member_id)?;
    let timeout_ms = groups::SESSION_TIMEOUT_MS;
    if !timeout_ms.contains(&first.session_timeout_ms) {
        let asked = first.session_timeout_ms;
        return Err(invalid(format!("a session timeout of {asked} ms cannot be")));
    }
    let place = shared.member_streams.take().ok_or_else(|| shared.member_streams.refusal())?;
    let (out, stream) = mpsc::channel(QUEUE + 1);
    let farewell = out.clone().try_reserve_owned().map_err(|_| invalid("the stream has ended"))?;
    let key = (Arc::from(first.group.as_str()), member);
    let tasks = shared.tasks.clone();
    let instance = first.instance_id;
    let attendance =
        Attendance { shared, key, instance, out, farewell, heard: first.number, _place: place };
    tasks.spawn(attendance.run(first.session_timeout_ms, incoming));
    Ok(ReceiverStream::new(stream))
}

/// One member's stream at this controller.
struct Attendance {
    shared: Arc<Shared>,
    key: MemberKey,
    /// Static membership; empty for none.
    instance: String,
    out: mpsc::Sender<Result<v1::AttendGroupResponse, Status>>,
    /// Room for why the stream ends, however many answers wait.
    farewell: mpsc::OwnedPermit<Result<v1::AttendGroupResponse, Status>>,
    /// The number of the last sign of life that counts, 0 for none.
    heard: u64,
    _place: Place,
}

/// Why a stream ends.
enum End {
    /// The member went away, or was told that it is one no more.
    Gone,
    /// It asks for too much.
    TooFast(ErrorCode, String),
    Store(KvError),
}

impl From<KvError> for End {
    fn from(error: KvError) -> Self {
        Self::Store(error)
    }
}

impl Attendance {
    async fn run(mut self, timeout_ms: u32, incoming: Streaming<v1::AttendGroupRequest>) {
        let liveness = Arc::clone(&self.shared.member_liveness);
        if !liveness.attached(self.key.clone(), patience(timeout_ms)) {
            self.heard = 0;
        }
        let (cancel, out) = (self.shared.cancel.clone(), self.out.clone());
        let end = tokio::select! {
            () = cancel.cancelled() => Some((ErrorCode::ShuttingDown, "the controller stops".into())),
            () = out.closed() => None,
            end = self.serve(incoming) => match end {
                End::Gone => None,
                End::TooFast(code, message) => Some((code, message)),
                End::Store(error) => Some((ErrorCode::Internal, error.to_string())),
            },
        };
        liveness.detached(&self.key);
        if let Some((code, message)) = end {
            self.farewell.send(Err(to_status(ErrorInfo::new(code, message))));
        }
    }

    async fn serve(&mut self, mut incoming: Streaming<v1::AttendGroupRequest>) -> End {
        // Hung before the state is read, so that nothing falls between.
        let bell = self.shared.hub.member(self.key.1);
        let mut leadership = self.shared.raft.leadership();
        let mut tell_all = true;
        let mut told_as = None;
        let mut pace = Pace::new();
        loop {
            let now = *leadership.borrow_and_update();
            // SUBTLE: not by the change alone, which this look takes whatever woke it.
            tell_all |=
                told_as.replace((now.is_leader, now.term)) != Some((now.is_leader, now.term));
            match self.answer(&now, tell_all).await {
                Ok(()) => {}
                Err(end) => return end,
            }
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(sign)) => {
                        if self.shared.member_liveness.heard(&self.key) {
                            self.heard = sign.number;
                        }
                        if let Some((code, message)) = pace.next().await {
                            return End::TooFast(code, message);
                        }
                        tell_all = false;
                    }
                    Ok(None) | Err(_) => return End::Gone,
                },
                () = bell.rung() => tell_all = true,
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return End::Gone;
                    }
                    tell_all = true;
                }
            }
        }
    }

    /// Confirms the last sign of life and, where that may have changed, tells
    /// what the member owns.
    async fn answer(&self, now: &Leadership, tell_all: bool) -> Result<(), End> {
        let response = self.response(now, tell_all)?;
        let fenced = response.fenced;
        self.out.send(Ok(response)).await.map_err(|_| End::Gone)?;
        if fenced { Err(End::Gone) } else { Ok(()) }
    }

    fn response(
        &self,
        now: &Leadership,
        tell_all: bool,
    ) -> Result<v1::AttendGroupResponse, KvError> {
        let controllers = self.shared.raft.members().into_iter().map(|m| m.address).collect();
        let view = self.shared.raft.view();
        let confirms = now.is_leader || is_planted(Mistake::DeposedLeaderHeartbeat);
        let mut response = v1::AttendGroupResponse {
            leader: confirms,
            term: now.term,
            controllers,
            applied: view.applied(),
            ..v1::AttendGroupResponse::default()
        };
        if confirms {
            response.heard = self.heard;
        }
        if !now.is_leader {
            return Ok(response);
        }
        let (group, id) = (&*self.key.0, &self.key.1);
        let shared = groups::membership(&view, group)?.unwrap_or_default();
        response.assigning = shared.assigned_epoch != shared.epoch;
        // It asked for the stream after its joining was applied, and this
        // leader has applied all that was committed before its term.
        response.fenced = groups::member(&view, group, id)?.is_none();
        response.replaced = response.fenced && groups::has_instance(&view, group, &self.instance)?;
        if !tell_all {
            return Ok(response);
        }
        response.group_epoch = shared.epoch;
        response.assignment = true;
        for (key, record) in groups::owned_by(&view, group, id)? {
            response.partitions.push(v1::OwnedPartition {
                partition: Some(partition_wire(&key)),
                granted_epoch: record.granted_epoch,
                revoking: record.target.as_ref() != Some(id),
            });
        }
        Ok(response)
    }
}
