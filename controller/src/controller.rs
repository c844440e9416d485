//! One controller process: Raft node, services, housekeeping, put together.

use crate::backup::schedule::Schedule;
use crate::calls::CallLimit;
use crate::clock::ClusterClock;
use crate::connections;
use crate::group_care::{GroupCare, MemberKey};
use crate::housekeeping::Housekeeping;
use crate::http::{Observed, Outside};
use crate::hub::Hub;
use crate::join;
use crate::journal::Journal;
use crate::liveness::Liveness;
use crate::metrics::{Metrics, Probes};
use crate::options::ControllerOptions;
use crate::places::Places;
use crate::raft::{RaftNode, RaftOptions};
use crate::service::{
    BackupsService, CollectorService, MetadataService, ProducersService, SessionsService, Shared,
};
use futures::future::BoxFuture;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use streamhouse_host::net;
use streamhouse_proto::MAX_MESSAGE_BYTES;
use streamhouse_proto::v1::backups_server::BackupsServer;
use streamhouse_proto::v1::collector_server::CollectorServer;
use streamhouse_proto::v1::metadata_server::MetadataServer;
use streamhouse_proto::v1::producers_server::ProducersServer;
use streamhouse_proto::v1::sessions_server::SessionsServer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

/// A controller that does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// The cluster to be joined does not take it.
    #[error("joining the cluster: {0}")]
    Join(String),
    /// The cluster to be joined uses what this release does not read.
    #[error("joining the cluster: {0}")]
    TooOld(crate::raft::TooOld),
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
    http: Option<(SocketAddr, Arc<Outside>)>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// BOUND: backups that are taken at once.
const BACKUPS: usize = 2;
/// BOUND: calls and streams of one connection at a time.
const MAX_STREAMS: u32 = 1_024;
/// How long open streams may take to end when the controller stops.
const STREAMS_END: Duration = Duration::from_secs(2);

impl Controller {
    /// Starts one. It serves at once; a cluster that is new, or has lost its
    /// majority, answers `NO_LEADER` until there is one.
    ///
    /// One that joins waits here for its number, until a leader gives it one.
    pub fn start(options: ControllerOptions) -> BoxFuture<'static, Result<Self, StartError>> {
        // Compiled here, and not with every binary that starts one.
        Box::pin(Self::start_here(options))
    }

    async fn start_here(mut options: ControllerOptions) -> Result<Self, StartError> {
        options.limits.check().map_err(StartError::Options)?;
        let limits = options.limits.clone();
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        // Whatever was started ends again if the rest cannot be.
        let unstarted = cancel.clone().drop_guard();
        let http = match options.http_listen {
            Some(address) => Some(listen_http(address, &cancel, &tasks).await?),
            None => None,
        };
        let probes = http.as_ref().map_or_else(Probes::default, |(.., outside)| outside.probes());
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
        let listener = net::listen(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let hub = Arc::new(Hub::new());
        let clock = Arc::new(ClusterClock::default());
        let mut raft_options =
            RaftOptions::new(options.node_id, advertise, options.peers.clone(), &options.data);
        raft_options.snapshot_every = options.snapshot_every;
        raft_options.snapshot_every_bytes = options.snapshot_every_bytes;
        raft_options.keep_logs = options.keep_logs;
        raft_options.keep_log_bytes = options.keep_log_bytes;
        raft_options.founds = founds;
        raft_options.probes = probes.clone();
        raft_options.limits = limits.clone();
        let (raft, raft_service) =
            RaftNode::start(raft_options, Arc::clone(&hub) as _, Arc::clone(&clock) as _).await?;
        let places = Places::new("connections", "--max-connections", limits.connections);
        let watchers = Places::new("watch streams", "--max-watchers", limits.watchers);
        let calls = Places::new("calls at work", "--max-calls", limits.calls);
        let member_streams =
            Places::new("streams of members", "--max-member-streams", limits.member_streams);
        let liveness = Arc::<Liveness<u64>>::default();
        let member_liveness = Arc::<Liveness<MemberKey>>::default();
        let (patience, retention) = (options.patience(), options.group_retention);
        let plan = options.backups;
        let shared = Arc::new(Shared {
            raft: raft.clone(),
            hub: Arc::clone(&hub),
            liveness: Arc::clone(&liveness),
            member_liveness: Arc::clone(&member_liveness),
            clock: Arc::clone(&clock),
            probes: probes.clone(),
            watchers: watchers.clone(),
            member_streams,
            backups: Places::new("backups being taken", "", BACKUPS),
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
            // A process that hung for a moment finds all calls that were given up meanwhile at
            // once: no reason to end the connection, and with it the calls that were not.
            .http2_max_pending_accept_reset_streams(Some(MAX_STREAMS as usize))
            .layer(CallLimit { calls: calls.clone() })
            .add_service(raft_service)
            .add_service(
                MetadataServer::new(MetadataService(Arc::clone(&shared)))
                    .max_decoding_message_size(limits.message_bytes)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                BackupsServer::new(BackupsService(Arc::clone(&shared)))
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                ProducersServer::new(ProducersService(Arc::clone(&shared)))
                    .max_decoding_message_size(limits.message_bytes)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                CollectorServer::new(CollectorService(Arc::clone(&shared)))
                    .max_decoding_message_size(limits.message_bytes)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                SessionsServer::new(SessionsService(shared))
                    .max_decoding_message_size(limits.message_bytes)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            );
        let incoming = connections::admitted(net::incoming(listener), places.clone());
        let stop = cancel.clone();
        let fuse = Fuse { reason: Arc::default(), cancel: cancel.clone() };
        let failed = fuse.clone();
        tasks.spawn(async move {
            let stopped = stop.cancelled_owned();
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
                failed.blow(format!("the server failed: {error}"));
            }
        });
        if let Some((_, outside)) = &http {
            let raft = raft.clone();
            outside.observe(Observed { raft, watchers, connections: places, calls });
        }
        let journal =
            Journal { raft: raft.clone(), hub: Arc::clone(&hub), probes, cancel: cancel.clone() };
        tasks.spawn(journal.run());
        if let Some(plan) = plan {
            let (raft, clock) = (raft.clone(), Arc::clone(&clock));
            let (tasks_of_it, cancel) = (tasks.clone(), cancel.clone());
            let schedule = Schedule { plan, raft, clock, tasks: tasks_of_it, cancel };
            tasks.spawn(schedule.run());
        }
        let groups = GroupCare::new(&raft, &member_liveness, &clock, retention);
        let house = Housekeeping {
            raft: raft.clone(),
            hub,
            clock,
            liveness,
            patience,
            fuse: fuse.clone(),
            cancel: cancel.clone(),
        };
        tasks.spawn(house.run(groups));
        unstarted.disarm();
        Ok(Self { raft, fuse, address, http, cancel, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it answers over HTTP, if it does.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(address, _)| *address)
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
        if let Some((_, outside)) = &self.http {
            outside.forget();
        }
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(STREAMS_END, self.tasks.wait()).await.is_err() {
            tracing::warn!("streams were still open when the controller stopped");
        }
    }
}

async fn listen_http(
    address: SocketAddr,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(SocketAddr, Arc<Outside>), StartError> {
    let listen = |error| StartError::Listen { address, error };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let metrics = Metrics::new().map_err(|error| StartError::Options(error.to_string()))?;
    let outside = Outside::new(metrics);
    tasks.spawn(Arc::clone(&outside).serve(listener, cancel.clone()));
    Ok((address, outside))
}
