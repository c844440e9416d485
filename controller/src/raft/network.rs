//! openraft's network over the `Raft` service: the calling side.

use super::append_stream::{self, Link, rpc_error};
use super::message::Envelope;
use super::peers::{Lane, Peers};
use super::snapshot_send;
use super::snapshot_store::SnapshotFile;
use super::state_machine::AppliedState;
use super::types::{
    AppendRequest, AppendResult, ControllerNode, DiskId, Snapshot, TypeConfig, Vote,
};
use crate::codec;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{
    NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RPCTypes,
    RaftNetworkFactory,
};
use openraft::raft::{
    SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use streamhouse_proto::v1::Payload;
use streamhouse_proto::v1::raft_client::RaftClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// A follower answers an append after its disk has it; a slow disk is not a
/// lost connection (those are found by the keepalive of [`super::peers`]).
const APPEND_PATIENCE: Duration = Duration::from_secs(3);

/// Between tries to reach a peer that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(300);

/// Makes the connections of one controller.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) id: u64,
    pub(crate) disk: DiskId,
    pub(crate) peers: Arc<Peers>,
    pub(crate) applied: Arc<AppliedState>,
}

impl Network {
    fn connection(&self, target: u64, node: &ControllerNode, lane: Lane) -> Connection {
        let (network, node) = (self.clone(), node.clone());
        Connection { network, target, node, lane, pause: None }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &ControllerNode) -> Connection {
        self.connection(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &ControllerNode) -> Connection {
        self.connection(target, node, Lane::Pulse)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &ControllerNode) -> Connection {
        self.connection(target, node, Lane::Snapshot)
    }
}

/// A way to one peer.
pub(crate) struct Connection {
    network: Network,
    target: u64,
    node: ControllerNode,
    lane: Lane,
    /// While the peer cannot be reached, how long to wait before the next try.
    pause: Option<Duration>,
}

impl Connection {
    fn client(&self, lane: Lane) -> Result<RaftClient<Channel>, Unreachable<TypeConfig>> {
        let address = self.network.peers.address(self.target, &self.node);
        let client = self.network.peers.client(self.target, lane, address);
        client.map_err(|error| Unreachable::new(&error))
    }

    /// SUBTLE: openraft's own backoff is taken by whoever polls its request
    /// stream. A call that cannot even be opened polls nothing, and openraft
    /// would try again at once, and again.
    async fn note_unreachable(&mut self, error: &RPCError<TypeConfig>) {
        let (peer, address) = (self.target, &self.node.address);
        if self.lane == Lane::Log && self.network.peers.lose(peer) {
            tracing::warn!(peer, address, %error, "a controller cannot be reached");
        }
        let pause = self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        self.pause = Some(pause);
        tokio::time::sleep(pause).await;
    }

    fn note_reached(&mut self) {
        self.pause = None;
        if self.lane == Lane::Log && self.network.peers.find(self.target) {
            let (peer, address) = (self.target, &self.node.address);
            tracing::info!(peer, address, "a controller is reached again");
        }
    }

    fn envelope(&self) -> Envelope {
        let Network { id, disk, .. } = self.network;
        Envelope { from: id, from_disk: disk, to_disk: self.node.disk }
    }

    fn cluster(&self) -> Vec<u8> {
        self.network.applied.cluster.read().map_or(Vec::new(), |id| id.to_vec())
    }

    /// A call of one message with one answer.
    async fn call<T, F>(
        &self,
        message: &impl serde::Serialize,
        action: RPCTypes,
        option: &RPCOption,
        send: impl FnOnce(RaftClient<Channel>, Request<Payload>) -> F,
    ) -> Result<T, RPCError<TypeConfig>>
    where
        T: serde::de::DeserializeOwned,
        F: Future<Output = Result<Response<Payload>, Status>>,
    {
        let payload = Payload {
            cluster_id: self.cluster(),
            target: self.target,
            body: self.envelope().seal_serde(message),
        };
        let (id, target, timeout) = (self.network.id, self.target, option.hard_ttl());
        let answer = send(self.client(Lane::Pulse)?, Request::new(payload));
        let answer = tokio::time::timeout(timeout, answer).await;
        let answer = answer.map_err(|_| Timeout { action, id, target, timeout })?;
        let answer = answer.map_err(|status| rpc_error(&status))?.into_inner();
        let answer = codec::decode_serde(&answer.body);
        answer.map_err(|error| NetworkError::new(&error).into())
    }
}

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<AppendResult, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let link = Link {
                client: self.client(self.lane)?,
                envelope: self.envelope(),
                cluster: self.cluster(),
                target: self.target,
                patience: APPEND_PATIENCE.max(option.soft_ttl()),
            };
            match append_stream::open(link, input).await {
                Ok(responses) => {
                    self.note_reached();
                    Ok(responses.boxed())
                }
                Err(error) => {
                    self.note_unreachable(&error).await;
                    Err(error)
                }
            }
        })
    }
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let send =
            |mut client: RaftClient<Channel>, payload| async move { client.vote(payload).await };
        self.call(&request, RPCTypes::Vote, &option, send).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let send = |mut client: RaftClient<Channel>, payload| async move {
            client.pre_vote(payload).await
        };
        self.call(&request, RPCTypes::Vote, &option, send).await
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let send = |mut client: RaftClient<Channel>, payload| async move {
            client.transfer_leader(payload).await
        };
        self.call(&request, RPCTypes::TransferLeader, &option, send).await
    }
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let client = self.client(Lane::Snapshot)?;
        let meta = self.envelope().seal_serde(&(vote, &snapshot.meta));
        let chunks = snapshot_send::Chunks {
            file: snapshot.snapshot.file,
            cluster: self.cluster(),
            target: self.target,
            meta,
        };
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = snapshot_send::send(client, chunks) => {
                let answer = answer.map_err(|status| rpc_error(&status))?;
                let answer = codec::decode_serde(&answer.body);
                answer.map_err(|error| NetworkError::new(&error).into())
            }
        }
    }
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<openraft::network::Backoff> {
        None
    }
}
