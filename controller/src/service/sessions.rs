//! The `Sessions` service: what agents ask.

use super::{Shared, address_of, attach};
use crate::convert::{
    generation_wire, id16, object_commit, object_result, partition_key, request_key,
};
use crate::errors::{invalid, not_shown, propose_failed, refused, store_failed, unexpected};
use crate::state::command::{CommandBody, ObjectContents, PartitionKey, Registration};
use crate::state::kv::KvError;
use crate::state::reply::{Refusal, Reply};
use crate::state::{cluster, partitions, sessions};
use std::sync::Arc;
use std::time::Duration;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::sessions_server::Sessions;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tonic::{Request, Response, Status, Streaming};

/// One per controller.
pub(crate) struct SessionsService(pub(crate) Arc<Shared>);

/// How long this controller may take to apply what was just committed.
const APPLY: Duration = Duration::from_secs(5);
/// BOUND: objects of one commit.
const MAX_OBJECTS: usize = 64;

type Answer<T> = Result<Response<T>, Status>;

impl SessionsService {
    async fn done(&self, request: Option<v1::RequestId>, body: CommandBody) -> Result<u64, Status> {
        let request = request_key(request)?;
        let proposed = self.0.raft.propose(Some(request), body).await;
        match proposed.map_err(|e| propose_failed(&e))? {
            (index, Reply::Done) => Ok(index),
            (_, Reply::Refused(refusal)) => Err(refused(&refusal)),
            _ => Err(unexpected("a session command")),
        }
    }
}

#[tonic::async_trait]
impl Sessions for SessionsService {
    type AttachStream = attach::AttachStream;

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Answer<v1::RegisterResponse> {
        let wire = request.into_inner();
        let body = CommandBody::RegisterSession(Registration {
            instance: id16("instance", &wire.instance)?,
            address: wire.address,
            group: wire.group,
            zone: wire.zone,
            pid: wire.pid,
            store_url: wire.store_url,
        });
        let raft = &self.0.raft;
        if cluster::cluster(&raft.view()).map_err(|e| store_failed(&e))?.is_none() {
            let info = ErrorInfo::new(ErrorCode::NoLeader, "the cluster is not initialised yet");
            return Err(to_status(info));
        }
        let leadership = *raft.leadership().borrow();
        if wire.direct && !leadership.is_leader {
            // One that fell silent is not named.
            let leader = leadership.leader.and_then(|_| raft.leader_address()).unwrap_or_default();
            let info = ErrorInfo::new(ErrorCode::NoLeader, "another controller leads");
            return Err(to_status(info.at(leader)));
        }
        let (index, reply) = raft.propose(None, body).await.map_err(|e| propose_failed(&e))?;
        let session = match reply {
            Reply::Session(session) => session,
            Reply::Refused(refusal) => return Err(refused(&refusal)),
            _ => return Err(unexpected("register")),
        };
        raft.wait_applied(index, APPLY).await.map_err(|e| not_shown(&e))?;
        let view = raft.view();
        let known = cluster::cluster(&view).map_err(|e| store_failed(&e))?;
        let known = known.ok_or_else(|| unexpected("register in a cluster without identity"))?;
        let millis = |duration: Duration| duration.as_millis() as u64;
        Ok(Response::new(v1::RegisterResponse {
            session,
            cluster_id: known.cluster.to_vec(),
            generation: Some(generation_wire(known.generation)),
            session_ttl_ms: millis(self.0.options.session_ttl),
            heartbeat_interval_ms: millis(self.0.options.heartbeat_interval),
            applied: view.applied(),
        }))
    }

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Answer<Self::AttachStream> {
        attach::attach(Arc::clone(&self.0), request.into_inner()).await.map(Response::new)
    }

    async fn commit_objects(
        &self,
        request: Request<v1::CommitObjectsRequest>,
    ) -> Answer<v1::CommitObjectsResponse> {
        let wire = request.into_inner();
        let count = wire.objects.len();
        if count == 0 || count > MAX_OBJECTS {
            let message = format!("{count} objects in one commit, allowed are 1 to {MAX_OBJECTS}");
            return Err(invalid(message));
        }
        let objects = wire.objects.iter().map(object_commit).collect::<Result<Vec<_>, _>>()?;
        let asked: Vec<(u64, Vec<PartitionKey>)> = objects
            .iter()
            .map(|object| {
                let partitions = match &object.contents {
                    ObjectContents::Written(slices) => {
                        slices.iter().map(|slice| slice.partition).collect()
                    }
                    ObjectContents::Abandoned(partitions) => partitions.clone(),
                };
                (object.sequence, partitions)
            })
            .collect();
        let instance = id16("instance", &wire.instance)?;
        let body = CommandBody::CommitObjects { session: wire.session, objects, instance };
        let proposed = self.0.raft.propose(None, body).await;
        let (applied, reply) = proposed.map_err(|e| propose_failed(&e))?;
        let replies = match reply {
            Reply::Objects(replies) => replies,
            Reply::Refused(refusal) => return Err(refused(&refusal)),
            _ => return Err(unexpected("commit objects")),
        };
        let mut results = Vec::with_capacity(replies.len());
        for ((sequence, partitions), reply) in asked.iter().zip(&replies) {
            let mut result = object_result(*sequence, reply);
            self.name_holders(partitions, &mut result).map_err(|e| store_failed(&e))?;
            results.push(result);
        }
        Ok(Response::new(v1::CommitObjectsResponse { results, applied }))
    }

    async fn release_leases(
        &self,
        request: Request<v1::ReleaseLeasesRequest>,
    ) -> Answer<v1::ReleaseLeasesResponse> {
        let wire = request.into_inner();
        self.check_instance(wire.session, &wire.instance)?;
        let leases = wire
            .leases
            .iter()
            .map(|lease| Ok((partition_key(lease.partition.as_ref())?, lease.epoch)))
            .collect::<Result<Vec<_>, Status>>()?;
        let body = CommandBody::ReleaseLeases { session: wire.session, leases };
        let applied = self.done(wire.request, body).await?;
        Ok(Response::new(v1::ReleaseLeasesResponse { applied }))
    }

    async fn drain_session(
        &self,
        request: Request<v1::DrainSessionRequest>,
    ) -> Answer<v1::DrainSessionResponse> {
        let wire = request.into_inner();
        self.check_instance(wire.session, &wire.instance)?;
        let body = CommandBody::DrainSession { session: wire.session };
        let applied = self.done(wire.request, body).await?;
        Ok(Response::new(v1::DrainSessionResponse { applied }))
    }

    async fn close_session(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Answer<v1::CloseSessionResponse> {
        let wire = request.into_inner();
        self.check_instance(wire.session, &wire.instance)?;
        let body = CommandBody::EndSession { session: wire.session };
        let applied = self.done(wire.request, body).await?;
        Ok(Response::new(v1::CloseSessionResponse { applied }))
    }
}

impl SessionsService {
    /// Refuses the caller if its session's number belongs to another instance. A
    /// session that this controller does not know yet is left to the log.
    fn check_instance(&self, session: u64, instance: &[u8]) -> Result<(), Status> {
        let instance = id16("instance", instance)?;
        let known = sessions::session(&self.0.raft.view(), session);
        match known.map_err(|e| store_failed(&e))? {
            Some(known) if known.instance != instance => {
                Err(refused(&Refusal::SessionEnded(session)))
            }
            _ => Ok(()),
        }
    }

    /// Where a refused slice's partition is now, as far as this controller
    /// knows; a hint.
    fn name_holders(
        &self,
        asked: &[PartitionKey],
        result: &mut v1::ObjectResult,
    ) -> Result<(), KvError> {
        let lost = |slice: &v1::SliceResult| !slice.accepted && !slice.still_holder;
        if !result.slices.iter().any(lost) {
            return Ok(());
        }
        let view = self.0.raft.view();
        for (key, slice) in asked.iter().zip(&mut result.slices) {
            if !lost(slice) {
                continue;
            }
            let holder = partitions::partition(&view, key)?.map_or(0, |p| p.holder);
            let address = address_of(&view, holder)?;
            if let Some(error) = &mut slice.error {
                error.address = address;
            }
        }
        Ok(())
    }
}
