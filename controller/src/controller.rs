//! One controller process: Raft node, services, housekeeping, put together.

use crate::backup::schedule::Schedule;
use crate::clock::ClusterClock;
use crate::housekeeping::Housekeeping;
use crate::hub::Hub;
use crate::join;
use crate::liveness::Liveness;
use crate::options::ControllerOptions;
use crate::raft::{RaftNode, RaftOptions};
use crate::service::{BackupsService, MetadataService, SessionsService, Shared};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use streamhouse_proto::MAX_MESSAGE_BYTES;
use streamhouse_proto::v1::backups_server::BackupsServer;
use streamhouse_proto::v1::metadata_server::MetadataServer;
use streamhouse_proto::v1::sessions_server::SessionsServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// A controller that does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// The cluster to be joined does not take it.
    #[error("joining the cluster: {0}")]
    Join(String),
    /// The address is taken, or not this host's.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// As asked.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The data directory, or what is in it.
    #[error(transparent)]
    Raft(#[from] crate::raft::StartError),
}

/// Why a running controller cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its disk is of no more use.
    #[error(transparent)]
    Refused(#[from] crate::raft::Refused),
    /// Its server ended, or its state could not be read.
    #[error("{0}")]
    Broken(String),
}

/// Ends the controller, with a reason.
#[derive(Clone)]
pub(crate) struct Fuse {
    reason: Arc<OnceLock<String>>,
    cancel: CancellationToken,
}

impl Fuse {
    /// The first reason counts.
    pub(crate) fn blow(&self, reason: String) {
        tracing::error!(reason, "the controller cannot go on");
        self.reason.get_or_init(|| reason);
        self.cancel.cancel();
    }
}

/// A running controller.
pub struct Controller {
    raft: RaftNode,
    fuse: Fuse,
    address: SocketAddr,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// BOUND: calls and streams of one connection at a time.
const MAX_STREAMS: u32 = 1_024;
/// How long open streams may take to end when the controller stops.
const STREAMS_END: Duration = Duration::from_secs(2);

impl Controller {
    /// Starts one. It serves at once; a cluster that is new, or has lost its
    /// majority, answers `NO_LEADER` until there is one.
    ///
    /// One that joins waits here for its number, until a leader gives it one.
    pub async fn start(mut options: ControllerOptions) -> Result<Self, StartError> {
        let founds = options.join.is_empty();
        if !founds {
            join::resolve(&mut options).await?;
        }
        let Some(own) = options.peers.get(&options.node_id) else {
            let message = format!(
                "controller {} is not among the peers {}",
                options.node_id,
                options.peers.keys().map(u64::to_string).collect::<Vec<_>>().join(", ")
            );
            return Err(StartError::Options(message));
        };
        let advertise = options.advertise.clone().unwrap_or_else(|| own.clone());
        let listen = |error| StartError::Listen { address: options.listen, error };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let hub = Arc::new(Hub::new());
        let clock = Arc::new(ClusterClock::default());
        let mut raft_options =
            RaftOptions::new(options.node_id, advertise, options.peers.clone(), &options.data);
        raft_options.snapshot_every = options.snapshot_every;
        raft_options.keep_logs = options.keep_logs;
        raft_options.founds = founds;
        let (raft, raft_service) =
            RaftNode::start(raft_options, Arc::clone(&hub) as _, Arc::clone(&clock) as _).await?;
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let liveness = Arc::new(Liveness::new(options.session_ttl, options.session_grace));
        let plan = options.backups;
        let shared = Arc::new(Shared {
            raft: raft.clone(),
            hub: Arc::clone(&hub),
            liveness: Arc::clone(&liveness),
            clock: Arc::clone(&clock),
            options,
            cancel: cancel.clone(),
            tasks: tasks.clone(),
        });
        let server = Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .max_concurrent_streams(MAX_STREAMS)
            .add_service(raft_service)
            .add_service(
                MetadataServer::new(MetadataService(Arc::clone(&shared)))
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                BackupsServer::new(BackupsService(Arc::clone(&shared)))
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                SessionsServer::new(SessionsService(shared))
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            );
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let stop = cancel.clone();
        let fuse = Fuse { reason: Arc::default(), cancel: cancel.clone() };
        let failed = fuse.clone();
        tasks.spawn(async move {
            let stopped = stop.cancelled_owned();
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
                failed.blow(format!("the server failed: {error}"));
            }
        });
        if let Some(plan) = plan {
            let (raft, clock) = (raft.clone(), Arc::clone(&clock));
            let (tasks_of_it, cancel) = (tasks.clone(), cancel.clone());
            let schedule = Schedule { plan, raft, clock, tasks: tasks_of_it, cancel };
            tasks.spawn(schedule.run());
        }
        let house = Housekeeping {
            raft: raft.clone(),
            hub,
            clock,
            liveness,
            fuse: fuse.clone(),
            cancel: cancel.clone(),
        };
        tasks.spawn(house.run());
        Ok(Self { raft, fuse, address, cancel, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its Raft node, for tests and tools.
    pub fn raft(&self) -> &RaftNode {
        &self.raft
    }

    /// Returns when the controller cannot go on, and why.
    pub async fn failed(&self) -> Failure {
        tokio::select! {
            refused = self.raft.refused() => refused.into(),
            () = self.cancel.cancelled() => {
                let reason = self.fuse.reason.get().cloned();
                Failure::Broken(reason.unwrap_or_else(|| "it was stopped".into()))
            }
        }
    }

    /// Hands over leadership, ends its streams, and stops.
    pub async fn shutdown(self) {
        // Leadership first, while the others can still be reached through
        // this server.
        self.raft.shutdown().await;
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(STREAMS_END, self.tasks.wait()).await.is_err() {
            tracing::warn!("streams were still open when the controller stopped");
        }
    }
}
