//! What a controller tells of itself over HTTP: `/healthz`, `/readyz` and
//! `/metrics`. It listens from the start on, before its data is opened.

use crate::metrics::{Metrics, Probes, Served};
use crate::places::Places;
use crate::raft::RaftNode;
use parking_lot::RwLock;
use serde_json::json;
use std::sync::Arc;
use streamhouse_observe::{NoMetrics, Report};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

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
        streamhouse_observe::serve(self, listener, cancel).await;
    }
}

impl streamhouse_observe::Observed for Outside {
    fn healthz(&self) -> Report {
        let observed = self.observed.read().clone();
        // One that is starting is alive.
        let ailments = observed.as_ref().map_or(Vec::new(), |it| it.raft.health().ailments());
        report(ailments, observed.as_ref())
    }

    fn readyz(&self) -> Report {
        let observed = self.observed.read().clone();
        let hindrances = match &observed {
            Some(observed) => observed.raft.health().hindrances(),
            None => vec!["it is starting, or waits to be given its number".to_owned()],
        };
        report(hindrances, observed.as_ref())
    }

    async fn metrics(self: Arc<Self>) -> Result<String, NoMetrics> {
        let Some(Observed { raft, watchers, connections, calls }) = self.observed.read().clone()
        else {
            return Err(NoMetrics::Starting("the controller is starting".to_owned()));
        };
        let _alone = self.scraping.lock().await;
        let served = Served {
            watchers: watchers.taken(),
            connections: connections.taken(),
            calls: calls.taken(),
        };
        let this = Arc::clone(&self);
        let rendered = streamhouse_host::spawn_blocking(move || this.metrics.render(&raft, served));
        match rendered.await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(failed(&error)),
            Err(error) => Err(failed(&error)),
        }
    }

    fn upkeep(&self) {
        self.metrics.upkeep();
    }
}

fn failed(error: &dyn std::error::Error) -> NoMetrics {
    tracing::error!(%error, "metrics could not be read");
    NoMetrics::Failed(error.to_string())
}

/// Who this is goes with it, once it is known.
fn report(reasons: Vec<String>, observed: Option<&Observed>) -> Report {
    let report = Report::new(reasons);
    let Some(observed) = observed else { return report };
    let (status, health) = (observed.raft.status(), observed.raft.health());
    let standing = json!({
        "id": status.id,
        "role": status.role.as_str(),
        // Not known before Raft has read it.
        "term": (status.term != 0).then_some(status.term),
        "leader": health.leader,
        "committed": health.committed,
        "applied": health.applied,
    });
    report.about("controller", standing)
}
