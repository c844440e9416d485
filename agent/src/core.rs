//! The task that owns the engine: everything that happens comes in here, one thing after the other, and what the
//! engine decides is handed to the tasks that do it. It never waits for any of them.

use crate::clock::{self, ClusterClock};
use crate::engine::{
    Action, Built, CommitAnswer, Engine, Found, Question, Rules, SessionIds, UploadOrder,
};
use crate::partition::PartitionId;
use crate::put::{self, Uploaded, Uploader};
use crate::ticket::Arrival;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use streamhouse_proto::v1::{AttachResponse, ErrorCode, ErrorInfo, ObjectCommit};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// What a session's tasks tell, with the session that it is about.
pub(crate) type Events = mpsc::Sender<(u64, Event)>;

/// Messages of producers taken at once, before the engine is asked what to do.
const MOST_AT_ONCE: usize = 64;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    News(AttachResponse),
    Built(u64, Built),
    Uploaded(u64, Uploaded),
    /// The object cannot even be built.
    BuildFailed(u64, String),
    Committed(CommitAnswer),
    Released(usize),
    Found(Found),
}

/// What the agent wants.
#[derive(Debug)]
pub(crate) enum Order {
    /// A session was opened.
    Start(SessionStart),
    /// Take nothing new; say which session this is about (0: none), and when everything is answered and given back.
    Drain { session: oneshot::Sender<u64>, done: oneshot::Sender<()> },
    /// The time is up: fail what is left.
    GiveUp,
}

/// A session and the inboxes of its tasks.
#[derive(Debug)]
pub(crate) struct SessionStart {
    pub(crate) ids: SessionIds,
    /// The instance that the session was registered for.
    pub(crate) instance: [u8; 16],
    /// The controllers end the session when they do not hear of it for so long.
    pub(crate) ttl: Duration,
    pub(crate) commits: mpsc::Sender<Vec<ObjectCommit>>,
    pub(crate) releases: mpsc::UnboundedSender<Vec<(PartitionId, u32)>>,
    pub(crate) look_ups: mpsc::Sender<Vec<Question>>,
    /// To be cancelled when the session has ended.
    pub(crate) over: CancellationToken,
}

/// What outsiders may know at any time.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) session: AtomicU64,
    /// The newest session, ended or not, and the instance that it was registered for.
    pub(crate) newest: Mutex<Option<(u64, [u8; 16])>>,
    pub(crate) leases: AtomicUsize,
    /// It is the one that deletes unreachable objects.
    pub(crate) collecting: AtomicBool,
}

#[derive(Debug)]
struct Running {
    engine: Engine,
    start: SessionStart,
}

/// The task's inboxes.
#[derive(Debug)]
pub(crate) struct Inboxes {
    pub(crate) arrivals: mpsc::Receiver<Vec<Arrival>>,
    pub(crate) events: mpsc::Receiver<(u64, Event)>,
    pub(crate) orders: mpsc::Receiver<Order>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Core {
    rules: Rules,
    uploader: Uploader,
    events: Events,
    tracker: TaskTracker,
    status: Arc<Status>,
    clock: ClusterClock,
    current: Option<Running>,
    /// Sessions that have ended and still await an answer.
    ended: Vec<Running>,
    draining: bool,
    drained: Option<oneshot::Sender<()>>,
}

impl Core {
    pub(crate) fn new(
        rules: Rules,
        uploader: Uploader,
        events: Events,
        tracker: TaskTracker,
        status: Arc<Status>,
    ) -> Self {
        Self {
            rules,
            uploader,
            events,
            tracker,
            status,
            clock: ClusterClock::default(),
            current: None,
            ended: Vec::new(),
            draining: false,
            drained: None,
        }
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(mut self, mut inboxes: Inboxes, stop: CancellationToken) {
        let mut arrivals = Vec::new();
        loop {
            let wake = self.current.as_ref().and_then(|running| running.engine.wake_at());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(order) = inboxes.orders.recv() => self.obey(order),
                Some(event) = inboxes.events.recv() => self.take_all(event, &mut inboxes),
                _ = inboxes.arrivals.recv_many(&mut arrivals, MOST_AT_ONCE),
                    if !inboxes.arrivals.is_closed() || !inboxes.arrivals.is_empty() =>
                {
                    arrivals.drain(..).flatten().for_each(|arrival| self.admit(arrival));
                }
                () = sleep_until(wake) => {}
            }
            self.act();
        }
        self.give_up();
    }

    fn admit(&mut self, arrival: Arrival) {
        match &mut self.current {
            Some(running) => running.engine.admit(arrival),
            None => {
                let message = format!("this agent holds no lease of {}", arrival.partition);
                arrival.pending.ticket.refuse(ErrorInfo::new(ErrorCode::NotLeaseHolder, message));
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start(start) => self.start(start),
            Order::Drain { session, done } => {
                self.draining = true;
                self.drained = Some(done);
                if let Some(running) = &mut self.current {
                    running.engine.drain();
                }
                let current = self.current.as_ref().map_or(0, |running| running.engine.session());
                let _ = session.send(current);
            }
            Order::GiveUp => self.give_up(),
        }
    }

    fn start(&mut self, start: SessionStart) {
        let newest = (start.ids.session.0, start.instance);
        *self.status.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(newest);
        if self.draining {
            // Its registration was under way when the agent was told to stop. Nobody would give its leases back: it
            // is closed with the agent.
            return start.over.cancel();
        }
        let engine = Engine::new(start.ids, self.rules, start.ttl, clock::now());
        self.status.session.store(engine.session(), Ordering::Release);
        let before = self.current.replace(Running { engine, start });
        debug_assert!(before.is_none(), "a session is started after the one before ended");
    }

    fn give_up(&mut self) {
        for running in self.current.take().into_iter().chain(self.ended.drain(..)) {
            let Running { mut engine, start } = running;
            engine.on_failed("the agent stops");
            start.over.cancel();
        }
    }

    /// Takes this event and those behind it.
    fn take_all(&mut self, first: (u64, Event), inboxes: &mut Inboxes) {
        let mut next = Some(first);
        while let Some((session, event)) = next {
            // A session is ordered to start before anything of it comes; both may have come since orders were looked at.
            while let Ok(order) = inboxes.orders.try_recv() {
                self.obey(order);
            }
            self.take(session, event);
            next = inboxes.events.try_recv().ok();
        }
    }

    fn take(&mut self, session: u64, event: Event) {
        let now = clock::now();
        if let Event::News(news) = &event
            && news.leader
        {
            self.clock.observe(news.cluster_time_ms, now);
        }
        let mut all = self.current.iter_mut().chain(&mut self.ended);
        let Some(running) = all.find(|running| running.engine.session() == session) else {
            return;
        };
        let engine = &mut running.engine;
        match event {
            Event::News(news) => engine.on_news(&news, now),
            Event::Built(sequence, built) => engine.on_built(sequence, built),
            Event::Uploaded(sequence, Uploaded::Stored) => engine.on_stored(sequence),
            Event::Uploaded(sequence, Uploaded::GivenUp) => engine.on_given_up(sequence),
            Event::BuildFailed(sequence, why) => engine.on_unbuildable(sequence, &why),
            Event::Uploaded(_, Uploaded::Foreign(why)) => {
                tracing::error!(session, why, "the session cannot go on");
                engine.on_failed(&why);
            }
            Event::Committed(answer) => engine.on_committed(answer, now),
            Event::Released(count) => engine.on_released(count),
            Event::Found(found) => engine.on_found(found),
        }
    }

    /// Does what the engines decide now.
    fn act(&mut self) {
        let now = clock::now();
        let append_time_ms = self.clock.read(now);
        for running in &mut self.ended {
            for action in running.engine.decide(now, append_time_ms) {
                perform(action, &running.start, &self.uploader, &self.events, &self.tracker);
            }
        }
        self.ended.retain(|running| !running.engine.is_done());
        if let Some(running) = &mut self.current {
            let mut over = false;
            for action in running.engine.decide(now, append_time_ms) {
                over |= matches!(action, Action::SessionOver);
                perform(action, &running.start, &self.uploader, &self.events, &self.tracker);
            }
            if over {
                self.ended.extend(self.current.take());
                self.ended.retain(|running| !running.engine.is_done());
                self.status.session.store(0, Ordering::Release);
            }
        }
        let leases = self.current.as_ref().map_or(0, |running| running.engine.leases());
        self.status.leases.store(leases, Ordering::Release);
        let quiet = self.current.as_ref().is_none_or(|running| running.engine.is_done());
        if self.draining
            && quiet
            && self.ended.is_empty()
            && let Some(done) = self.drained.take()
        {
            let _ = done.send(());
        }
    }
}

fn perform(
    action: Action,
    session: &SessionStart,
    uploader: &Uploader,
    events: &Events,
    tracker: &TaskTracker,
) {
    match action {
        Action::Upload(order) => {
            let span = tracing::trace_span!(
                "object",
                session = order.id.session.0,
                sequence = order.id.sequence
            );
            let upload = upload(order, uploader.clone(), events.clone()).instrument(span);
            let over = session.over.clone();
            tracker.spawn(async move { over.run_until_cancelled(upload).await });
        }
        Action::Commit(objects) => {
            // There is room: the engine has one request outstanding at the most.
            if session.commits.try_send(objects).is_err() {
                tracing::error!(session = session.ids.session.0, "the committer is gone");
            }
        }
        Action::Release(leases) => {
            let _ = session.releases.send(leases);
        }
        Action::LookUp(questions) => {
            // There is room: the engine asks once at a time. Nobody looks up for a session that is over.
            let _ = session.look_ups.try_send(questions);
        }
        Action::SessionOver => session.over.cancel(),
    }
}

async fn upload(order: UploadOrder, uploader: Uploader, events: Events) {
    let (session, sequence) = (order.id.session.0, order.id.sequence);
    let object = match put::build(&order) {
        Ok(object) => object,
        Err(error) => {
            let _ = events.send((session, Event::BuildFailed(sequence, error.to_string()))).await;
            return;
        }
    };
    for slice in &object.slices {
        let (topic, partition) = (slice.topic, slice.partition);
        let (base_offset, last_offset) = (slice.base_offset, slice.last_offset);
        tracing::trace!(%topic, partition, base_offset, last_offset, "slice in object");
    }
    drop(order);
    let _ = events.send((session, Event::Built(sequence, put::describe(&object)))).await;
    let uploaded = uploader.put(&object).await;
    tracing::trace!(bytes = object.size, ?uploaded, "object uploaded");
    drop(object);
    let _ = events.send((session, Event::Uploaded(sequence, uploaded))).await;
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Probes;
    use crate::options::AgentOptions;
    use streamhouse_proto::v1::{AttachResponse, Lease, TopicPartition};
    use streamhouse_segment::{ClusterId, Generation, SessionId};
    use streamhouse_store::Store;

    fn start(session: u64) -> SessionStart {
        let ids = SessionIds {
            cluster: ClusterId::from_bytes([1; 16]),
            generation: Generation { counter: 1, random: 2 },
            session: SessionId(session),
        };
        SessionStart {
            ids,
            instance: [session as u8; 16],
            ttl: Duration::from_secs(600),
            commits: mpsc::channel(1).0,
            releases: mpsc::unbounded_channel().0,
            look_ups: mpsc::channel(1).0,
            over: CancellationToken::new(),
        }
    }

    struct Setting {
        core: Core,
        inboxes: Inboxes,
        orders: mpsc::Sender<Order>,
        status: Arc<Status>,
    }

    fn setting() -> Setting {
        let store = Store::open("memory://core").unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let rules = AgentOptions::new(Vec::new(), listen, "memory://core").rules(&store);
        let uploader = Uploader::new(store, Duration::from_secs(1), 4, Probes::default());
        let (told, events) = mpsc::channel(1);
        let (orders, order_inbox) = mpsc::channel(4);
        let status = Arc::new(Status::default());
        let core = Core::new(rules, uploader, told, TaskTracker::new(), Arc::clone(&status));
        let inboxes = Inboxes { arrivals: mpsc::channel(1).1, events, orders: order_inbox };
        Setting { core, inboxes, orders, status }
    }

    #[tokio::test]
    async fn the_first_news_of_a_session_never_come_before_it() {
        let Setting { mut core, mut inboxes, orders, .. } = setting();
        orders.send(Order::Start(start(7))).await.unwrap();
        let lease = Lease {
            partition: Some(TopicPartition { topic_id: vec![1; 16], partition: 0 }),
            epoch: 1,
            ..Lease::default()
        };
        let (leader, full, leases) = (true, true, vec![lease]);
        let news = AttachResponse { leader, full, leases, ..AttachResponse::default() };
        // They were the first to be looked at.
        core.take_all((7, Event::News(news)), &mut inboxes);
        assert_eq!(core.current.map(|running| running.engine.leases()), Some(1));
    }

    #[tokio::test]
    async fn a_drain_is_about_the_session_that_the_core_has() {
        let Setting { core, inboxes, orders, status } = setting();
        let stop = CancellationToken::new();
        let tracker = TaskTracker::new();
        tracker.spawn(core.run(inboxes, stop.clone()));

        // Started after whoever drains had looked for a session, and before the core hears of it.
        orders.send(Order::Start(start(7))).await.unwrap();
        let (session, told) = oneshot::channel();
        let (done, drained) = oneshot::channel();
        orders.send(Order::Drain { session, done }).await.unwrap();
        assert_eq!(told.await, Ok(7));
        drained.await.unwrap();

        // One that is registered later still is ended at once, and known, so that it can be closed.
        let late = start(8);
        let over = late.over.clone();
        orders.send(Order::Start(late)).await.unwrap();
        over.cancelled().await;
        assert_eq!(*status.newest.lock().unwrap(), Some((8, [8; 16])));
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
