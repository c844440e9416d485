//! Deleting objects that nothing can refer to any more (GC).
//!
//! Every agent asks the controllers now and then; one of them is told to collect. It lists the bucket page by page,
//! asks for a verdict on what it found, and has each batch allowed right before it deletes. What may be deleted is
//! decided by the controllers' state alone, and an object that was unreachable once stays so: a collector that falls
//! asleep in the middle and deletes much later does no harm. This is proved where it is decided, in the controllers'
//! `state/collector.rs`.
//!
//! What must hold here:
//!
//! * GC: a verdict is asked for after the object was listed, and so are the backups that are kept.
//! * GC: only what the last answer called unreachable is deleted, and only by the session that was asked to.
//! * BOUND: one page of the listing is in memory, a batch of deletions under way, at so many a second.
//! * Sweeps repeat: a PUT that was given up can still land, and a DELETE that failed is found again.

mod ask;
mod backups;
mod console;
mod report;
mod sweep;

pub use console::{Console, Standing};
pub use report::{DryRun, SweepReport};
pub use sweep::SweepError;

use crate::clock;
use crate::controllers::Controllers;
use crate::core::Status;
use crate::metrics::Probes;
use ask::Ask;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use streamhouse_proto::v1::AcquireCollectorResponse;
use streamhouse_store::Store;
use sweep::{Grant, Sweep};

/// While there is no session, or no answer.
const NOT_NOW: Duration = Duration::from_secs(1);
/// Who collects says that it still does, between sweeps, too, and the others see when it does not.
const ASKED: Duration = Duration::from_secs(60);
/// An interval that was not told.
const INTERVAL: Duration = Duration::from_secs(600);

/// The task of one agent.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) store: Store,
    pub(crate) controllers: Controllers,
    pub(crate) status: Arc<Status>,
    /// Deletions in a second.
    pub(crate) rate: u32,
    pub(crate) probes: Probes,
}

impl Collector {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut due = clock::now();
        loop {
            let pause = self.round(&mut due).await;
            tokio::time::sleep(clock::jittered(pause)).await;
        }
    }

    /// Sweeps if this agent is to and it is time; returns how long nothing more is to do.
    async fn round(&self, due: &mut Instant) -> Duration {
        let ask = Ask::new(&self.controllers);
        let newest = *self.status.newest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let current = self.status.session.load(Ordering::Acquire);
        let Some((session, instance)) = newest.filter(|(session, _)| *session == current) else {
            self.status.collecting.store(false, Ordering::Release);
            return NOT_NOW;
        };
        let told = match ask.acquire(session, instance).await {
            Ok(told) => told,
            Err(error) => {
                tracing::debug!(%error, "not told who collects");
                return NOT_NOW;
            }
        };
        self.status.collecting.store(told.epoch > 0, Ordering::Release);
        let interval = interval(&told);
        if told.epoch > 0 && !told.paused && clock::now() >= *due {
            let grant = Grant { session, instance, epoch: told.epoch };
            self.sweep(&ask, grant).await;
            *due = clock::now() + clock::jittered(interval);
        }
        interval.min(ASKED)
    }

    async fn sweep(&self, ask: &Ask<'_>, grant: Grant) {
        let cluster = match ask.standing().await {
            Ok(standing) => standing.cluster,
            Err(error) => {
                tracing::warn!(%error, "cannot begin a sweep for unreachable objects");
                return;
            }
        };
        let sweep = Sweep::new(&self.store, *ask, cluster).collecting(grant, self.rate);
        let (report, ended) = sweep.run(&self.probes).await;
        let (listed, orphans, deleted) = (report.listed, report.orphans, report.deleted);
        match &ended {
            Ok(()) => {
                self.probes.sweeps.increment(1);
                tracing::info!(listed, orphans, deleted, "swept for unreachable objects");
            }
            Err(error) => {
                tracing::warn!(%error, listed, orphans, deleted, "a sweep was broken off");
            }
        }
        if let Err(error) = ask.report(&grant, &report).await {
            tracing::debug!(%error, "the sweep's report was not taken");
        }
    }
}

fn interval(told: &AcquireCollectorResponse) -> Duration {
    match told.interval_ms {
        0 => INTERVAL,
        millis => Duration::from_millis(millis),
    }
}
