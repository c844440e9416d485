//! What an agent tells of itself over HTTP: `/healthz`, `/readyz` and `/metrics`. It listens from the start on, before
//! it has a session.

use crate::core::Status;
use crate::metrics::{Metrics, Probes, Standing};
use crate::put::Uploader;
use crate::service::ProduceService;
use parking_lot::RwLock;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use streamhouse_observe::{NoMetrics, Observed, Report, resident_bytes};
use tokio_util::sync::CancellationToken;

/// What is to be told of, once it is there.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) address: String,
    pub(crate) status: Arc<Status>,
    pub(crate) service: ProduceService,
    pub(crate) uploader: Uploader,
    pub(crate) draining: CancellationToken,
}

/// The answers to all questions.
#[derive(Debug)]
pub(crate) struct Outside {
    metrics: Metrics,
    parts: RwLock<Option<Parts>>,
}

impl Outside {
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { metrics, parts: RwLock::new(None) })
    }

    /// Handles for what happens in the agent.
    pub(crate) fn probes(&self) -> Probes {
        self.metrics.probes()
    }

    /// From now on there is something to be told of.
    pub(crate) fn observe(&self, parts: Parts) {
        *self.parts.write() = Some(parts);
    }

    fn report(&self, reasons: Vec<String>) -> Report {
        let report = Report::new(reasons);
        let Some(parts) = self.parts.read().clone() else { return report };
        let standing = json!({
            "address": parts.address,
            "session": parts.status.session.load(Ordering::Acquire),
            "leases": parts.status.leases.load(Ordering::Acquire),
        });
        report.about("agent", standing)
    }
}

impl Observed for Outside {
    /// An agent keeps nothing: one that answers is alive, and what it lacks comes from others.
    fn healthz(&self) -> Report {
        self.report(Vec::new())
    }

    fn readyz(&self) -> Report {
        let Some(parts) = self.parts.read().clone() else {
            return self.report(vec!["it is starting".to_owned()]);
        };
        let mut hindrances = Vec::new();
        if parts.draining.is_cancelled() {
            hindrances.push("it is shutting down".to_owned());
        }
        if parts.status.session.load(Ordering::Acquire) == 0 {
            hindrances.push("it has no session with the controllers".to_owned());
        }
        hindrances.extend(parts.uploader.hindrance());
        self.report(hindrances)
    }

    async fn metrics(self: Arc<Self>) -> Result<String, NoMetrics> {
        let parts = self.parts.read().clone();
        let parts = parts.ok_or_else(|| NoMetrics::Starting("the agent is starting".to_owned()))?;
        Ok(self.metrics.render(standing(&parts)))
    }

    fn upkeep(&self) {
        self.metrics.upkeep();
    }
}

fn standing(parts: &Parts) -> Standing {
    let Parts { status, service, uploader, .. } = parts;
    let usage = service.usage();
    let (uploads, uploads_limit) = uploader.under_way();
    [
        status.session.load(Ordering::Acquire) as f64,
        status.leases.load(Ordering::Acquire) as f64,
        usage.streams as f64,
        usage.buffer_bytes as f64,
        usage.buffer_limit_bytes as f64,
        uploads as f64,
        uploads_limit as f64,
        f64::from(uploader.is_failing()),
        f64::from(status.collecting.load(Ordering::Acquire)),
        resident_bytes() as f64,
    ]
}
