//! The `Raft` service: the called side of openraft's network, and the calls
//! that followers pass on to their leader.

use super::admission::Admission;
use super::message::{self, Envelope, ForwardAnswer, Forwarded};
use super::node::RaftNode;
use super::read::ReadError;
use super::snapshot_receive;
use super::time;
use super::types::{AppendRequest, Snapshot, SnapshotMeta, TypeConfig, Vote};
use crate::codec;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::raft::{StreamAppendError, TransferLeaderRequest, VoteRequest};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use streamhouse_proto::v1::raft_server::Raft;
use streamhouse_proto::v1::{
    IdentifyRequest, IdentifyResponse, Payload, ReadIndexResponse, SnapshotChunk,
    SnapshotProgressResponse,
};
use tonic::{Request, Response, Status, Streaming};

/// See the module.
pub struct RaftService {
    node: RaftNode,
    /// BOUND: one snapshot is received at a time.
    receiving: Arc<tokio::sync::Mutex<()>>,
}

impl RaftService {
    pub(crate) fn new(node: RaftNode) -> Self {
        Self { node, receiving: Arc::default() }
    }

    /// The message of a payload that is meant for this disk of this cluster
    /// and comes from the disk it claims.
    fn open(&self, payload: Payload) -> Result<Bytes, Status> {
        open(&self.node, &payload.cluster_id, payload.target, payload.body)
    }

    fn open_serde<T: serde::de::DeserializeOwned>(&self, payload: Payload) -> Result<T, Status> {
        codec::decode_serde(&self.open(payload)?).map_err(malformed)
    }
}

fn malformed(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn raft_failed(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft: {error}"))
}

fn answer(message: &impl serde::Serialize) -> Response<Payload> {
    let body = codec::encode_serde(message).into();
    Response::new(Payload { body, ..Payload::default() })
}

fn open(node: &RaftNode, cluster: &[u8], target: u64, body: Bytes) -> Result<Bytes, Status> {
    let core = node.core();
    let id = core.options.node_id;
    if target != id {
        return Err(Status::failed_precondition(format!("this is node {id}, not node {target}")));
    }
    let known = *core.applied.cluster.read();
    if let Some(known) = known
        && !cluster.is_empty()
        && cluster != known
    {
        return Err(Status::permission_denied("this node belongs to another cluster"));
    }
    if *core.admission.borrow() != Admission::Admitted {
        return Err(Status::unavailable(format!("node {id} does not take part yet")));
    }
    let (envelope, message) = Envelope::open(body).map_err(malformed)?;
    if envelope.to_disk != core.disk {
        return Err(Status::failed_precondition(format!("node {id} has another disk")));
    }
    if node.member_disk(envelope.from).is_some_and(|disk| disk != envelope.from_disk) {
        let from = envelope.from;
        return Err(Status::failed_precondition(format!("node {from} is known with another disk")));
    }
    Ok(message)
}

#[tonic::async_trait]
impl Raft for RaftService {
    type AppendStream = BoxStream<'static, Result<Payload, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        // A request that is refused ends the requests; its status follows the
        // responses of those before it.
        let refused = Arc::new(Mutex::new(None));
        let (node, refusal) = (self.node.clone(), refused.clone());
        let requests = request.into_inner().map(move |payload| {
            let payload = payload?;
            let body = open(&node, &payload.cluster_id, payload.target, payload.body)?;
            message::decode_append(body).map_err(malformed)
        });
        let requests = requests.scan((), move |(), request: Result<AppendRequest, Status>| {
            let request = request.map_err(|status| *refusal.lock() = Some(status));
            std::future::ready(request.ok())
        });
        let core = self.node.core();
        let stop = core.cancel.clone().cancelled_owned();
        let responses = core.raft.stream_append(requests.take_until(stop).boxed());
        let listener = self.node.clone();
        let responses = responses.map(move |response| match response {
            Ok(result) => {
                if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
                    *listener.core().heard.lock() = time::now();
                }
                Ok(answer(&result).into_inner())
            }
            Err(error) => Err(raft_failed(error)),
        });
        let refused = futures::stream::once(async move { refused.lock().take() });
        let refused = refused.filter_map(|status| std::future::ready(status.map(Err)));
        Ok(Response::new(responses.chain(refused).boxed()))
    }

    async fn vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let request: VoteRequest<TypeConfig> = self.open_serde(request.into_inner())?;
        let core = self.node.core();
        if request.vote.leader_id.term <= core.votes_above.load(Ordering::SeqCst) {
            let term = request.vote.leader_id.term;
            return Err(Status::unavailable(format!(
                "its vote in term {term} may have been given before"
            )));
        }
        let response = core.raft.vote(request).await;
        Ok(answer(&response.map_err(raft_failed)?))
    }

    async fn pre_vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let request: VoteRequest<_> = self.open_serde(request.into_inner())?;
        let response = self.node.core().raft.pre_vote(request).await;
        Ok(answer(&response.map_err(raft_failed)?))
    }

    async fn transfer_leader(
        &self,
        request: Request<Payload>,
    ) -> Result<Response<Payload>, Status> {
        let request: TransferLeaderRequest<TypeConfig> = self.open_serde(request.into_inner())?;
        let core = self.node.core();
        if *request.to_node_id() == core.options.node_id {
            let from = &request.from_leader().leader_id;
            *core.invited.lock() = Some((from.term, from.voted_for));
        }
        let response = core.raft.handle_transfer_leader(request).await;
        Ok(answer(&response.map_err(raft_failed)?))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<Payload>, Status> {
        let Ok(receiving) = self.receiving.clone().try_lock_owned() else {
            return Err(Status::unavailable("another snapshot is being received"));
        };
        let mut chunks = request.into_inner();
        let first = snapshot_receive::next(&mut chunks).await?;
        let message = open(&self.node, &first.cluster_id, first.target, first.meta.into())?;
        let (vote, meta): (Vote, SnapshotMeta) =
            codec::decode_serde(&message).map_err(malformed)?;
        let core = self.node.core();
        let path = core.state.snapshots().incoming(&meta);
        let snapshot = snapshot_receive::receive(chunks, path, first.offset).await?;
        let (raft, received) = (core.raft.clone(), snapshot.path.clone());
        // A task of its own: if the sender goes away, Raft may still be at it,
        // and until it is done nobody touches the file.
        let install = core.tasks.spawn(async move {
            let response = raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
            // It is still there if Raft did not want it.
            let _ = streamhouse_host::spawn_blocking(|| std::fs::remove_file(received)).await;
            drop(receiving);
            response
        });
        let response = install.await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(answer(&response.map_err(raft_failed)?))
    }

    async fn snapshot_progress(
        &self,
        request: Request<Payload>,
    ) -> Result<Response<SnapshotProgressResponse>, Status> {
        let Ok(_receiving) = self.receiving.try_lock() else {
            return Err(Status::unavailable("another snapshot is being received"));
        };
        let message = self.open(request.into_inner())?;
        let (_, meta): (Vote, SnapshotMeta) = codec::decode_serde(&message).map_err(malformed)?;
        let path = self.node.core().state.snapshots().incoming(&meta);
        let (bytes, crc32c) = snapshot_receive::progress(path).await?;
        Ok(Response::new(SnapshotProgressResponse { bytes, crc32c }))
    }

    async fn propose(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let message = self.open(request.into_inner())?;
        // All are read before one is proposed.
        let proposals = message::decode_many(message).map_err(malformed)?;
        let proposals = proposals.iter().map(|proposal| codec::decode(proposal));
        let proposals = proposals.collect::<Result<Vec<Forwarded>, _>>().map_err(malformed)?;
        let outcomes = self.node.propose_many(proposals).await;
        let answers: Vec<Vec<u8>> = outcomes
            .into_iter()
            .map(|outcome| codec::encode(&ForwardAnswer::from(outcome)))
            .collect();
        let mut body = Vec::new();
        message::encode_many(answers.iter().map(Vec::as_slice), &mut body);
        Ok(Response::new(Payload { body: body.into(), ..Payload::default() }))
    }

    async fn read_index(
        &self,
        request: Request<Payload>,
    ) -> Result<Response<ReadIndexResponse>, Status> {
        self.open(request.into_inner())?;
        match self.node.leader_read_index().await {
            Ok(index) => Ok(Response::new(ReadIndexResponse { index })),
            Err(ReadError::NoLeader(why)) => Err(Status::unavailable(why)),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn identify(
        &self,
        request: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        let identity = self.node.identify(request.get_ref()).await;
        let identity = identity.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(identity))
    }
}
