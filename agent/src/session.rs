//! The task that sees to it that the agent has a session: it registers, starts the session's tasks, and registers
//! anew when the session has ended.

use crate::attach::Attachment;
use crate::backoff::Backoff;
use crate::clock;
use crate::commit::Committer;
use crate::controllers::{Client, Controllers};
use crate::core::{Events, Order, SessionStart};
use crate::engine::SessionIds;
use crate::look_up::Looker;
use crate::metrics::Probes;
use crate::options::Fatal;
use crate::release::Releaser;
use std::time::Duration;
use streamhouse_proto::v1::{ErrorCode, RegisterRequest, RegisterResponse};
use streamhouse_segment::{ClusterId, Generation, SessionId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// If the controllers name none.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
const SESSION_TTL: Duration = Duration::from_secs(10);

/// Who the agent says it is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) address: String,
    pub(crate) group: String,
    pub(crate) zone: String,
    pub(crate) store_url: String,
}

/// What is known of the sessions so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No session was opened yet.
    Starting,
    Registered,
    Fatal(Fatal),
    /// The server has ended, after its last stream.
    Closed,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) identity: Identity,
    pub(crate) controllers: Controllers,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) events: Events,
    pub(crate) tracker: TaskTracker,
    pub(crate) standing: watch::Sender<Standing>,
    /// No new session any more.
    pub(crate) draining: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) probes: Probes,
}

impl Keeper {
    /// Runs until the agent drains or stops, or the controllers refuse it for good.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            // RETRY: one instance per session, the same in every attempt to open it.
            let instance = clock::random_id();
            let registered = tokio::select! {
                registered = self.register(instance) => registered,
                () = self.draining.cancelled() => return,
                () = self.stop.cancelled() => return,
            };
            match registered {
                Ok(Some(response)) => {
                    let Some(over) = self.start(&response, instance).await else { return };
                    self.standing.send_replace(Standing::Registered);
                    let opened = clock::now();
                    tokio::select! {
                        () = over.cancelled() => {}
                        () = self.stop.cancelled() => return over.cancel(),
                    }
                    // It lived on signs of life.
                    let ttl = Duration::from_millis(response.session_ttl_ms);
                    if clock::now().saturating_duration_since(opened) > ttl * 2 {
                        backoff.reset();
                    }
                }
                Ok(None) => {}
                Err(fatal) => {
                    tracing::error!(%fatal, "registration refused");
                    self.standing.send_replace(Standing::Fatal(fatal));
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = self.draining.cancelled() => return,
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Opens a session, however long it takes to find a leader. `None`: it has ended already.
    async fn register(&self, instance: [u8; 16]) -> Result<Option<RegisterResponse>, Fatal> {
        let request = RegisterRequest {
            instance: instance.to_vec(),
            address: self.identity.address.clone(),
            group: self.identity.group.clone(),
            zone: self.identity.zone.clone(),
            pid: std::process::id(),
            store_url: self.identity.store_url.clone(),
            direct: true,
        };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.register(request).await }
        };
        match self.controllers.call("register", call).await {
            Ok(response) => Ok(Some(response)),
            Err(failed) => {
                let message = failed.error.message.clone();
                match failed.error.code() {
                    ErrorCode::SessionEnded | ErrorCode::OutcomeUnknown => Ok(None),
                    ErrorCode::StoreMismatch => {
                        let store_url = self.identity.store_url.clone();
                        Err(Fatal::StoreMismatch { store_url, message })
                    }
                    _ => Err(Fatal::Refused { message }),
                }
            }
        }
    }

    /// Starts the session's tasks. `None` if the agent is gone.
    async fn start(
        &self,
        response: &RegisterResponse,
        instance: [u8; 16],
    ) -> Option<CancellationToken> {
        let ids = ids_of(response);
        let session = response.session;
        tracing::info!(session, address = self.identity.address, "session opened");
        self.probes.sessions.increment(1);
        let over = self.stop.child_token();
        let ttl = session_ttl(response);
        let (commits, commit_inbox) = mpsc::channel(1);
        let (releases, release_inbox) = mpsc::unbounded_channel();
        let (look_ups, look_up_inbox) = mpsc::channel(1);
        let over_too = over.clone();
        let start =
            SessionStart { ids, instance, ttl, commits, releases, look_ups, over: over_too };
        self.orders.send(Order::Start(start)).await.ok()?;

        let (controllers, events) = (self.controllers.clone(), self.events.clone());
        let probes = self.probes.clone();
        let committer =
            Committer { session, instance, controllers, events, over: over.clone(), probes };
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            stop.run_until_cancelled(committer.run(commit_inbox)).await;
        });
        let (controllers, events) = (self.controllers.clone(), self.events.clone());
        let releaser = Releaser { session, instance, controllers, events, over: over.clone() };
        self.tracker.spawn(releaser.run(release_inbox));
        let (controllers, events) = (self.controllers.clone(), self.events.clone());
        let looker = Looker { session, controllers, events, over: over.clone() };
        self.tracker.spawn(looker.run(look_up_inbox));
        let attaching = Attaching {
            session,
            instance,
            heartbeat_interval: heartbeat_interval(response),
            controllers: self.controllers.clone(),
            events: self.events.clone(),
            over: over.clone(),
            tracker: self.tracker.clone(),
        };
        self.tracker.spawn(attaching.run());
        Some(over)
    }
}

/// Attaches a session to every controller, those that become known later included.
struct Attaching {
    session: u64,
    instance: [u8; 16],
    heartbeat_interval: Duration,
    controllers: Controllers,
    events: Events,
    over: CancellationToken,
    tracker: TaskTracker,
}

impl Attaching {
    async fn run(self) {
        let mut count = self.controllers.count();
        let mut attached = 0;
        loop {
            let known = *count.borrow_and_update();
            for member in attached..known {
                let attachment = Attachment {
                    session: self.session,
                    instance: self.instance,
                    member,
                    heartbeat_interval: self.heartbeat_interval,
                    controllers: self.controllers.clone(),
                    events: self.events.clone(),
                    over: self.over.clone(),
                };
                self.tracker.spawn(attachment.run());
            }
            attached = known;
            tokio::select! {
                more = count.changed() => if more.is_err() { return },
                () = self.over.cancelled() => return,
            }
        }
    }
}

fn heartbeat_interval(response: &RegisterResponse) -> Duration {
    match response.heartbeat_interval_ms {
        0 => HEARTBEAT_INTERVAL,
        millis => Duration::from_millis(millis),
    }
}

fn session_ttl(response: &RegisterResponse) -> Duration {
    match response.session_ttl_ms {
        0 => SESSION_TTL,
        millis => Duration::from_millis(millis),
    }
}

fn ids_of(response: &RegisterResponse) -> SessionIds {
    let cluster = <[u8; 16]>::try_from(response.cluster_id.as_slice()).unwrap_or_default();
    let generation = response.generation.unwrap_or_default();
    SessionIds {
        cluster: ClusterId::from_bytes(cluster),
        generation: Generation { counter: generation.counter, random: generation.random },
        session: SessionId(response.session),
    }
}
