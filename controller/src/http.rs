//! What a controller tells of itself over HTTP: `/healthz`, `/readyz` and
//! `/metrics`. It listens from the start on, before its data is opened.

use crate::clock;
use crate::metrics::{Metrics, Probes, Served};
use crate::places::Places;
use crate::raft::RaftNode;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use parking_lot::RwLock;
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// BOUND: connections at once. Those who have to wait wait in the listener's
/// queue.
const MAX_CONNECTIONS: usize = 64;
/// A connection is for one question, and lives no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often what was recorded is moved into histograms.
const UPKEEP: Duration = Duration::from_secs(5);

/// What is to be told of, once it is there.
#[derive(Clone)]
pub(crate) struct Observed {
    pub(crate) raft: RaftNode,
    pub(crate) watchers: Places,
    pub(crate) connections: Places,
    pub(crate) calls: Places,
}

/// The answers to all questions.
pub(crate) struct Outside {
    metrics: Metrics,
    observed: RwLock<Option<Observed>>,
    /// BOUND: the state is read for one scrape at a time.
    scraping: Mutex<()>,
}

/// The body of `/healthz` and `/readyz`.
#[derive(Debug, Serialize)]
struct Report {
    /// `ok`, or `failing`.
    status: &'static str,
    /// Why it fails.
    reasons: Vec<String>,
    /// Who this is, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<Standing>,
}

#[derive(Debug, Serialize)]
struct Standing {
    id: u64,
    role: &'static str,
    term: u64,
    leader: Option<u64>,
    committed: u64,
    applied: u64,
}

impl Outside {
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { metrics, observed: RwLock::new(None), scraping: Mutex::new(()) })
    }

    /// Handles for what happens in the controller.
    pub(crate) fn probes(&self) -> Probes {
        self.metrics.probes()
    }

    /// From now on there is something to be told of.
    pub(crate) fn observe(&self, observed: Observed) {
        *self.observed.write() = Some(observed);
    }

    /// Forgets it: a connection that lingers must not keep a stopped
    /// controller's data open.
    pub(crate) fn forget(&self) {
        *self.observed.write() = None;
    }

    /// Answers until cancelled.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, cancel: CancellationToken) {
        let (health, ready, scraped) = (Arc::clone(&self), Arc::clone(&self), Arc::clone(&self));
        let router = Router::new()
            .route("/healthz", get(move || async move { health.healthz() }))
            .route("/readyz", get(move || async move { ready.readyz() }))
            .route("/metrics", get(move || async move { scraped.scrape().await }));
        let listener = Brief { listener, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
        let stopped = cancel.clone().cancelled_owned();
        let serving = axum::serve(listener, router).with_graceful_shutdown(stopped);
        tokio::select! {
            // Without end by itself, and without errors.
            _ = serving => {}
            () = self.keep_up() => {}
        }
    }

    async fn keep_up(&self) {
        let mut tick = tokio::time::interval(UPKEEP);
        loop {
            tick.tick().await;
            self.metrics.upkeep();
        }
    }

    fn healthz(&self) -> Response {
        let observed = self.observed.read().clone();
        // One that is starting is alive.
        let ailments = observed.as_ref().map_or(Vec::new(), |it| it.raft.health().ailments());
        report(ailments, observed.as_ref())
    }

    fn readyz(&self) -> Response {
        let observed = self.observed.read().clone();
        let hindrances = match &observed {
            Some(observed) => observed.raft.health().hindrances(),
            None => vec!["it is starting, or waits to be given its number".to_owned()],
        };
        report(hindrances, observed.as_ref())
    }

    async fn scrape(self: Arc<Self>) -> Response {
        let Some(Observed { raft, watchers, connections, calls }) = self.observed.read().clone()
        else {
            let message = "the controller is starting\n";
            return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, message.to_owned());
        };
        let _alone = self.scraping.lock().await;
        let served = Served {
            watchers: watchers.taken(),
            connections: connections.taken(),
            calls: calls.taken(),
        };
        let this = Arc::clone(&self);
        let rendered = tokio::task::spawn_blocking(move || this.metrics.render(&raft, served));
        match rendered.await {
            Ok(Ok(text)) => answer(StatusCode::OK, TEXT, text),
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }
    }
}

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

fn failed(error: &dyn std::error::Error) -> Response {
    tracing::error!(%error, "metrics could not be read");
    answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"))
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, kind), (header::CONNECTION, "close")], body).into_response()
}

fn report(reasons: Vec<String>, observed: Option<&Observed>) -> Response {
    let (status, word) = match reasons.is_empty() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "failing"),
    };
    let controller = observed.map(|observed| {
        let (status, health) = (observed.raft.status(), observed.raft.health());
        Standing {
            id: status.id,
            role: status.role.as_str(),
            term: status.term,
            leader: health.leader,
            committed: health.committed,
            applied: health.applied,
        }
    });
    let report = Report { status: word, reasons, controller };
    let mut body = serde_json::to_string(&report).expect("text and numbers become JSON");
    body.push('\n');
    answer(status, "application/json", body)
}

/// Listens for connections that live for a short time only.
struct Brief {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Brief {
    type Io = BriefStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BriefStream, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let end = Box::pin(tokio::time::sleep_until(Instant::from_std(clock::now() + PATIENCE)));
        (BriefStream { stream, end, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by itself.
struct BriefStream {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl BriefStream {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BriefStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BriefStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
