//! What a StreamHouse process tells of itself over HTTP: `/healthz`, `/readyz` and `/metrics`. The same for every
//! role; what is told comes from an [`Observed`].
//!
//! There is neither encryption nor a password: the port is for inside.

mod brief;
mod process;
mod report;

pub use process::resident_bytes;
pub use report::Report;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use brief::Brief;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How often what was recorded is moved into histograms.
const UPKEEP: Duration = Duration::from_secs(5);
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why there are no metrics to be shown.
#[derive(Debug)]
pub enum NoMetrics {
    /// Not yet: a retry helps.
    Starting(String),
    /// They could not be read.
    Failed(String),
}

/// A process that is looked at from outside.
pub trait Observed: Send + Sync + 'static {
    /// Whether it is alive.
    fn healthz(&self) -> Report;
    /// Whether it can do its work.
    fn readyz(&self) -> Report;
    /// Its metrics, in Prometheus' text format. BOUND: one scrape at a time is the implementation's to keep.
    fn metrics(self: Arc<Self>) -> impl Future<Output = Result<String, NoMetrics>> + Send;
    /// Called every 5 s, so that what nobody scrapes does not gather.
    fn upkeep(&self);
}

/// Answers until cancelled. BOUND: 64 connections at once, each for 10 s at the most.
pub async fn serve<O: Observed>(
    observed: Arc<O>,
    listener: TcpListener,
    cancel: CancellationToken,
) {
    let (health, ready, scraped) =
        (Arc::clone(&observed), Arc::clone(&observed), Arc::clone(&observed));
    let router = Router::new()
        .route("/healthz", get(move || async move { reported(&health.healthz()) }))
        .route("/readyz", get(move || async move { reported(&ready.readyz()) }))
        .route("/metrics", get(move || async move { scrape(scraped).await }));
    let stopped = cancel.cancelled_owned();
    let serving = axum::serve(Brief::new(listener), router).with_graceful_shutdown(stopped);
    tokio::select! {
        // Without end by itself, and without errors.
        _ = serving => {}
        () = keep_up(&*observed) => {}
    }
}

async fn keep_up<O: Observed>(observed: &O) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        observed.upkeep();
    }
}

async fn scrape<O: Observed>(observed: Arc<O>) -> Response {
    match observed.metrics().await {
        Ok(text) => answer(StatusCode::OK, TEXT, text),
        Err(NoMetrics::Starting(why)) => {
            answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n"))
        }
        Err(NoMetrics::Failed(why)) => {
            answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{why}\n"))
        }
    }
}

fn reported(report: &Report) -> Response {
    let status = match report.is_ok() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, "application/json", report.to_json())
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, kind), (header::CONNECTION, "close")], body).into_response()
}
