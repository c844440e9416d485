//! One sweep: the bucket's objects, page by page, each judged, and the unreachable ones deleted.

use super::ask::Ask;
use super::backups;
use super::report::{DryRun, SweepReport};
use crate::backoff::{Backoff, RetryBudget};
use crate::clock;
use crate::metrics::Probes;
use futures::StreamExt;
use std::future::Future;
use std::time::Duration;
use streamhouse_proto::v1::{ErrorCode, ErrorInfo, L0Object, ObjectVerdict};
use streamhouse_segment::{ClusterId, Generation, ObjectId};
use streamhouse_store::{GetError, Listed, OpenError, PutError, Store};

/// BOUND: keys of a listing in memory.
const PAGE: usize = 10_240;
/// Objects judged at once; the controllers' limit.
const JUDGED: usize = 1_024;
/// Objects that may be deleted by one answer: a pause takes effect with the next.
const ALLOWED: usize = 128;
/// Deletions under way.
const AT_ONCE: usize = 8;
/// How often a listing is tried.
const TRIES: usize = 5;
/// BOUND: keys that a dry run names.
const KEYS: usize = 1_000;

/// Why a sweep ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be listed.
    #[error(transparent)]
    Store(#[from] GetError),
    /// The controllers refused, or did not answer.
    #[error("{}", .0.message)]
    Cluster(ErrorInfo),
}

impl SweepError {
    /// Whether the same may succeed later.
    pub fn can_retry(&self) -> bool {
        match self {
            Self::Open(_) => false,
            Self::Store(error) => error.can_retry(),
            Self::Cluster(error) => streamhouse_proto::advice(error.code()).retryable,
        }
    }

    /// Whether the controllers refused what was asked as wrong.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Cluster(error) if error.code() == ErrorCode::InvalidArgument)
    }
}

/// The right to collect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    pub(super) session: u64,
    pub(super) instance: [u8; 16],
    pub(super) epoch: u64,
}

/// See the [module](self).
pub(super) struct Sweep<'a> {
    store: &'a Store,
    ask: Ask<'a>,
    cluster: ClusterId,
    /// Without one it only looks.
    grant: Option<Grant>,
    pace: RetryBudget,
    keys: Option<Vec<String>>,
    report: SweepReport,
}

/// An object that was found, and its name taken apart.
struct Found<'a> {
    listed: &'a Listed,
    object: L0Object,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(store: &'a Store, ask: Ask<'a>, cluster: ClusterId) -> Self {
        let (pace, report) = (RetryBudget::new(1, 1), SweepReport::default());
        Self { store, ask, cluster, grant: None, pace, keys: None, report }
    }

    pub(super) fn collecting(self, grant: Grant, rate: u32) -> Self {
        Self { grant: Some(grant), pace: RetryBudget::new(rate, rate.div_ceil(10)), ..self }
    }

    pub(super) fn remembering_keys(self) -> Self {
        Self { keys: Some(Vec::new()), ..self }
    }

    /// Runs to its end, or to what ends it; the report is of what was done until then.
    pub(super) async fn run(mut self, probes: &Probes) -> (SweepReport, Result<(), SweepError>) {
        let ended = self.timed(probes).await;
        (self.report, ended)
    }

    pub(super) async fn dry_run(mut self, probes: &Probes) -> Result<DryRun, SweepError> {
        self.timed(probes).await?;
        Ok(DryRun { report: self.report, keys: self.keys.unwrap_or_default() })
    }

    async fn timed(&mut self, probes: &Probes) -> Result<(), SweepError> {
        let began = clock::now();
        let ended = self.pages(probes).await;
        if let Err(error) = &ended {
            self.report.failed(error);
        }
        let took = clock::now().saturating_duration_since(began).as_millis();
        self.report.took_ms = u64::try_from(took).unwrap_or(u64::MAX);
        probes.orphans.increment(self.report.orphans);
        probes.collector_errors.increment(self.report.errors);
        ended
    }

    async fn pages(&mut self, probes: &Probes) -> Result<(), SweepError> {
        let folder = format!("{}/l0", self.cluster);
        let mut after: Option<String> = None;
        loop {
            let store = self.store;
            let page = patiently(|| store.list(&folder, after.as_deref(), PAGE)).await?;
            self.page(&page, probes).await?;
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
            self.renew().await?;
        }
    }

    /// Says that this collector is at it, which a long listing alone does not.
    async fn renew(&self) -> Result<(), SweepError> {
        let Some(grant) = &self.grant else { return Ok(()) };
        let told = self.ask.acquire(grant.session, grant.instance).await?;
        if told.epoch == grant.epoch && !told.paused {
            return Ok(());
        }
        let message = "paused, or another agent collects";
        Err(SweepError::Cluster(ErrorInfo::new(ErrorCode::Conflict, message)))
    }

    async fn page(&mut self, page: &[Listed], probes: &Probes) -> Result<(), SweepError> {
        let standing = self.ask.standing().await?;
        let (store, cluster, own) = (self.store, self.cluster, standing.generation);
        // GC: after the objects were listed, like the verdicts.
        let backups = patiently(|| backups::kept(store, cluster, own)).await?;
        let found: Vec<Found<'_>> = page.iter().filter_map(|listed| self.found(listed)).collect();
        for some in found.chunks(JUDGED) {
            let objects = some.iter().map(|found| found.object).collect();
            let verdicts = self.ask.judge(objects, backups).await?;
            let mut orphans = Vec::new();
            for (found, verdict) in some.iter().zip(verdicts) {
                self.count(found.listed, verdict);
                if verdict == ObjectVerdict::Unreachable {
                    orphans.push(found);
                }
            }
            self.delete(&orphans, own, probes).await?;
        }
        Ok(())
    }

    /// Whatever has another name than agents give is left alone.
    fn found<'p>(&mut self, listed: &'p Listed) -> Option<Found<'p>> {
        self.report.listed += 1;
        self.report.listed_bytes += listed.size;
        match ObjectId::parse_key(&listed.key) {
            Ok(id) if id.cluster == self.cluster => Some(Found { listed, object: object_of(&id) }),
            Ok(_) | Err(_) => {
                self.report.foreign += 1;
                None
            }
        }
    }

    fn count(&mut self, listed: &Listed, verdict: ObjectVerdict) {
        match verdict {
            ObjectVerdict::Reachable | ObjectVerdict::Undecided => {}
            ObjectVerdict::Waiting => self.report.waiting += 1,
            ObjectVerdict::InBackup => self.report.kept_for_backups += 1,
            ObjectVerdict::Unconfirmed => self.report.unconfirmed += 1,
            ObjectVerdict::Foreign | ObjectVerdict::Unspecified => self.report.foreign += 1,
            ObjectVerdict::Unreachable => {
                self.report.orphan(listed);
                if let Some(keys) = self.keys.as_mut().filter(|keys| keys.len() < KEYS) {
                    keys.push(listed.key.clone());
                }
            }
        }
    }

    async fn delete(
        &mut self,
        orphans: &[&Found<'_>],
        own: Generation,
        probes: &Probes,
    ) -> Result<(), SweepError> {
        let Some(grant) = self.grant else { return Ok(()) };
        let (store, cluster) = (self.store, self.cluster);
        for batch in orphans.chunks(ALLOWED) {
            // GC: as of now, for one may have been finished while the batches before were being deleted.
            let backups = patiently(|| backups::kept(store, cluster, own)).await?;
            let objects = batch.iter().map(|found| found.object).collect();
            let verdicts = self.ask.allow(&grant, objects, backups).await?;
            let allowed = batch.iter().zip(verdicts);
            let allowed = allowed.filter(|(_, verdict)| *verdict == ObjectVerdict::Unreachable);
            let pace = &mut self.pace;
            let deletions = allowed.map(|(found, _)| {
                let wait = pace.take(clock::now());
                async move {
                    tokio::time::sleep(wait).await;
                    (found.listed, delete(store, &found.listed.key).await)
                }
            });
            let deletions: Vec<_> = deletions.collect();
            let mut deletions = futures::stream::iter(deletions).buffer_unordered(AT_ONCE);
            while let Some((listed, outcome)) = deletions.next().await {
                self.report.deletion(listed, &outcome);
                if outcome.is_ok() {
                    probes.deleted.increment(1);
                    probes.deleted_bytes.increment(listed.size);
                }
            }
        }
        Ok(())
    }
}

impl SweepReport {
    fn deletion(&mut self, listed: &Listed, outcome: &Result<(), PutError>) {
        match outcome {
            Ok(()) => {
                self.deleted += 1;
                self.deleted_bytes += listed.size;
            }
            Err(error) => self.failed(error),
        }
    }
}

async fn delete(store: &Store, key: &str) -> Result<(), PutError> {
    let deleted = store.delete(key).await;
    if let Err(error) = &deleted {
        // The next sweep finds it again.
        tracing::debug!(key, %error, "an unreachable object was not deleted");
    }
    deleted
}

fn object_of(id: &ObjectId) -> L0Object {
    let Generation { counter, random } = id.generation;
    let generation = Some(streamhouse_proto::v1::Generation { counter, random });
    L0Object { generation, session: id.session.0, sequence: id.sequence }
}

/// Asks the store again while that can help.
async fn patiently<T, F, Fut>(mut ask: F) -> Result<T, GetError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, GetError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    for _ in 1..TRIES {
        match ask().await {
            Err(error) if error.can_retry() => {
                tracing::debug!(%error, "cannot list, trying again");
                tokio::time::sleep(backoff.next()).await;
            }
            answer => return answer,
        }
    }
    ask().await
}
