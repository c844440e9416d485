//! An agent's life: start, drain, stop.

use crate::clock;
use crate::collector::Collector;
use crate::controllers::{Client, Controllers};
use crate::core::{Core, Inboxes, Order, Status};
use crate::inflow::Metered;
use crate::marker;
use crate::metrics::{Metrics, Probes};
use crate::options::{AgentOptions, Fatal, ShutdownError, StartError};
use crate::outside::{Outside, Parts};
use crate::put::Uploader;
use crate::service::{Bounds, ProduceService};
use crate::session::{Identity, Keeper, Standing};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use streamhouse_host::net::{self, TcpListener};
use streamhouse_proto::MAX_MESSAGE_BYTES;
use streamhouse_proto::v1::produce_server::ProduceServer;
use streamhouse_proto::v1::{CloseSessionRequest, DrainSessionRequest, RequestId};
use streamhouse_store::Store;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

/// Messages of producers that wait for the core; their bytes count against the buffer budget.
const ARRIVALS: usize = 1_024;
const EVENTS: usize = 256;
/// HTTP/2 windows: what may be under way from a producer before it was read. With the most streams there may be, the
/// first bounds the memory of all of them (BOUND).
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// For the last call to the controllers, and for the last task to end.
const LAST_MOMENTS: Duration = Duration::from_secs(1);

/// A running agent. Dropped without [`shutdown`](Agent::shutdown) it stops at once, as if it were killed.
#[derive(Debug)]
pub struct Agent {
    address: String,
    http: Option<SocketAddr>,
    shutdown_timeout: Duration,
    controllers: Controllers,
    orders: mpsc::Sender<Order>,
    status: Arc<Status>,
    standing: watch::Receiver<Standing>,
    tracker: TaskTracker,
    draining: CancellationToken,
    closing: CancellationToken,
    stop: DropGuard,
}

impl Agent {
    /// Starts an agent: checks the store, listens, and opens a session, for which it waits as long as no controller
    /// leads. Without `store` the one named by the options is opened.
    ///
    /// # Errors
    /// What no retry would help; the agent has then left nothing behind.
    pub async fn start(options: AgentOptions, store: Option<Store>) -> Result<Agent, StartError> {
        options.check()?;
        let controllers = Controllers::new(&options.controllers)?;
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        // Whatever was started ends again if the rest cannot be.
        let unstarted = stop.clone().drop_guard();
        let outside = match options.http_listen {
            Some(listen) => Some(listen_http(listen, &stop, &tracker).await?),
            None => None,
        };
        let store = match store {
            Some(store) => store,
            None => Store::open(&options.store_url)?,
        };
        store.probe("").await?;
        let listening = |error| StartError::Listen { listen: options.listen, error };
        let listener = net::listen(options.listen).await.map_err(listening)?;
        let bound = listener.local_addr().map_err(listening)?;
        let address = options.advertised(bound)?;
        marker::check(&store, &controllers).await?;

        unstarted.disarm();
        let ground = Ground { stop, tracker, outside };
        let agent = Self::spawn(&options, ground, controllers, &store, listener, address);
        agent.registered().await?;
        tracing::info!(address = agent.address, store = store.url(), "agent started");
        Ok(agent)
    }

    fn spawn(
        options: &AgentOptions,
        ground: Ground,
        controllers: Controllers,
        store: &Store,
        listener: TcpListener,
        address: String,
    ) -> Self {
        let Ground { stop, tracker, outside } = ground;
        let probes = outside.as_ref().map_or_else(Probes::default, |(.., it)| it.probes());
        let (draining, closing) = (stop.child_token(), CancellationToken::new());
        let status = Arc::new(Status::default());
        let (arrivals, arrival_inbox) = mpsc::channel(ARRIVALS);
        let (events, event_inbox) = mpsc::channel(EVENTS);
        let (orders, order_inbox) = mpsc::channel(4);
        let (standing, standing_now) = watch::channel(Standing::Starting);

        let (timeout, most) = (options.put_timeout, options.max_uploads);
        let uploader = Uploader::new(store.clone(), timeout, most, probes.clone());
        let rules = options.rules(store);
        let (uploads, tasks) = (uploader.clone(), tracker.clone());
        let core = Core::new(rules, uploads, events.clone(), tasks, Arc::clone(&status));
        let inboxes = Inboxes { arrivals: arrival_inbox, events: event_inbox, orders: order_inbox };
        tracker.spawn(core.run(inboxes, stop.clone()));

        let bounds = Bounds {
            limits: options.limits,
            buffer_bytes: options.buffer_bytes,
            max_streams: options.max_streams,
            max_stream_batches: options.max_stream_batches,
        };
        let (tasks, closed, counted) = (tracker.clone(), closing.clone(), probes.clone());
        let service = ProduceService::new(bounds, arrivals, tasks, closed, counted);
        if let Some((_, outside)) = &outside {
            outside.observe(Parts {
                address: address.clone(),
                status: Arc::clone(&status),
                service: service.clone(),
                uploader,
                draining: draining.clone(),
            });
        }
        let server = serve(service, listener, closing.clone());
        tracker.spawn(watch_server(server, standing.clone(), stop.clone()));

        let identity = Identity {
            address: address.clone(),
            group: options.group.clone(),
            zone: options.zone.clone(),
            store_url: store.url().to_owned(),
        };
        let keeper = Keeper {
            identity,
            controllers: controllers.clone(),
            orders: orders.clone(),
            events,
            tracker: tracker.clone(),
            standing,
            draining: draining.clone(),
            stop: stop.clone(),
            probes: probes.clone(),
        };
        tracker.spawn(keeper.run());
        let collector = Collector {
            store: store.clone(),
            controllers: controllers.clone(),
            status: Arc::clone(&status),
            rate: options.gc_rate,
            probes,
        };
        let idle = draining.clone();
        tracker.spawn(async move { idle.run_until_cancelled(collector.run()).await });
        Self {
            address,
            http: outside.map(|(address, _)| address),
            shutdown_timeout: options.shutdown_timeout,
            controllers,
            orders,
            status,
            standing: standing_now,
            tracker,
            draining,
            closing,
            stop: stop.drop_guard(),
        }
    }

    async fn registered(&self) -> Result<(), Fatal> {
        let mut standing = self.standing.clone();
        let known = standing.wait_for(|standing| *standing != Standing::Starting).await;
        match known.as_deref() {
            Ok(Standing::Fatal(fatal)) => Err(fatal.clone()),
            _ => Ok(()),
        }
    }

    /// Where producers reach this agent, `host:port`.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Where it answers over HTTP, if it does.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// The current session's id; 0 while there is none.
    pub fn session(&self) -> u64 {
        self.status.session.load(Ordering::Acquire)
    }

    /// How many write leases it holds.
    pub fn leases(&self) -> usize {
        self.status.leases.load(Ordering::Acquire)
    }

    /// Completes when the agent cannot go on, with the reason. The caller should then drop it and exit.
    pub async fn failed(&self) -> Fatal {
        let mut standing = self.standing.clone();
        let failed = standing.wait_for(|standing| matches!(standing, Standing::Fatal(_))).await;
        match failed.as_deref() {
            Ok(Standing::Fatal(fatal)) => fatal.clone(),
            // Every task that could fail has ended in good order.
            _ => std::future::pending().await,
        }
    }

    /// Takes no new batches, stores and acknowledges those it has, gives its leases back, ends its session and stops;
    /// after [`AgentOptions::shutdown_timeout`] it stops whatever is left.
    ///
    /// # Errors
    /// If the time was too short. What was left has been failed: as certain where no commit had been sent.
    pub async fn shutdown(self) -> Result<(), ShutdownError> {
        self.draining.cancel();
        let in_time = tokio::time::timeout(self.shutdown_timeout, self.drain()).await;
        let newest = *self.status.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let session = newest.map_or(0, |(session, _)| session);
        if in_time.is_err() {
            tracing::warn!(session, "time is up; failing what is left");
            let _ = self.orders.send(Order::GiveUp).await;
        }
        self.closing.cancel();
        if let Some((session, instance)) = newest {
            let _ = tokio::time::timeout(LAST_MOMENTS, self.close(session, instance)).await;
        }
        self.tracker.close();
        // The server ends with its last stream; a producer that does not hang up is left behind.
        let server_gone = tokio::time::timeout(LAST_MOMENTS, self.streams_ended()).await;
        drop(self.stop);
        if server_gone.is_err() {
            tracing::warn!(session, "some producers did not close their streams");
        }
        let _ = tokio::time::timeout(LAST_MOMENTS, self.tracker.wait()).await;
        tracing::info!(session, "agent stopped");
        in_time.map_err(|_| ShutdownError::Deadline { after: self.shutdown_timeout })
    }

    async fn drain(&self) {
        let (told_session, session) = oneshot::channel();
        let (done, drained) = oneshot::channel();
        let _ = self.orders.send(Order::Drain { session: told_session, done }).await;
        // What the core has, not what we knew: a registration may have ended meanwhile.
        let session = session.await.unwrap_or(0);
        let newest = *self.status.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let told = async {
            if let Some((_, instance)) = newest.filter(|(newest, _)| *newest == session) {
                self.ask_to_drain(session, instance).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = drained => {}
            () = told => {}
        }
    }

    async fn ask_to_drain(&self, session: u64, instance: [u8; 16]) {
        let request = DrainSessionRequest {
            request: Some(new_request()),
            session,
            instance: instance.to_vec(),
        };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.drain_session(request).await }
        };
        if let Err(failed) = self.controllers.call("drain_session", call).await {
            tracing::warn!(session, error = ?failed.error, "drain refused");
        }
    }

    async fn close(&self, session: u64, instance: [u8; 16]) {
        let request = CloseSessionRequest {
            request: Some(new_request()),
            session,
            instance: instance.to_vec(),
        };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.close_session(request).await }
        };
        if let Err(failed) = self.controllers.call("close_session", call).await {
            tracing::warn!(session, error = ?failed.error, "close refused");
        }
    }

    /// The server holds the one sender that outlives all streams.
    async fn streams_ended(&self) {
        let mut standing = self.standing.clone();
        let _ = standing.wait_for(|standing| *standing == Standing::Closed).await;
    }
}

/// What is there before the agent is.
struct Ground {
    stop: CancellationToken,
    tracker: TaskTracker,
    outside: Option<(SocketAddr, Arc<Outside>)>,
}

async fn listen_http(
    listen: SocketAddr,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) -> Result<(SocketAddr, Arc<Outside>), StartError> {
    let listening = |error| StartError::Listen { listen, error };
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;
    let metrics =
        Metrics::new().map_err(|error| StartError::Metrics { message: error.to_string() })?;
    let outside = Outside::new(metrics);
    tracker.spawn(streamhouse_observe::serve(Arc::clone(&outside), listener, stop.clone()));
    Ok((address, outside))
}

/// A requester of its own for each call: numbers of one requester must arrive in order.
fn new_request() -> RequestId {
    RequestId { requester: clock::random_id().to_vec(), number: 1 }
}

async fn serve(
    service: ProduceService,
    listener: TcpListener,
    closing: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let service = ProduceServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(1 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(Metered::new(service))
        .serve_with_incoming_shutdown(net::incoming(listener), closing.cancelled_owned())
        .await
}

async fn watch_server(
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    standing: watch::Sender<Standing>,
    stop: CancellationToken,
) {
    match stop.run_until_cancelled(server).await {
        Some(Err(error)) => {
            tracing::error!(%error, "the produce server failed");
            standing.send_replace(Standing::Fatal(Fatal::Server { message: error.to_string() }));
        }
        Some(Ok(())) => {
            standing.send_replace(Standing::Closed);
        }
        None => {}
    }
}
