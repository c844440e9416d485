//! The `Collector` service: who deletes unreachable objects, and which. The
//! decisions are the state machine's, see [`crate::state::collector`].

use super::{Shared, address_of};
use crate::convert::{generation_key, generation_wire, id16};
use crate::errors::{invalid, propose_failed, refused, store_failed, unexpected};
use crate::raft::StateView;
use crate::state::cluster::{self, Cluster};
use crate::state::collector::{
    self, CollectorReply, CollectorStep, KeptBackups, MAX_OBJECTS, ObjectName, SweepReport, Terms,
    Verdict,
};
use crate::state::command::{CommandBody, GenerationKey};
use crate::state::reply::Reply;
use std::sync::Arc;
use std::time::Duration;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::collector_server::Collector;
use streamhouse_proto::v1::control_collector_request::Control;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tonic::{Request, Response, Status};

/// One per controller.
pub(crate) struct CollectorService(pub(crate) Arc<Shared>);

/// A grant is renewed once it is so old, in cluster time.
const RENEW_MS: u64 = 60_000;

type Answer<T> = Result<Response<T>, Status>;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn conflict(message: impl Into<String>) -> Status {
    to_status(ErrorInfo::new(ErrorCode::Conflict, message))
}

impl CollectorService {
    async fn step(&self, step: CollectorStep) -> Result<CollectorReply, Status> {
        let proposed = self.0.raft.propose(None, CommandBody::Collect(step)).await;
        match proposed.map_err(|e| propose_failed(&e))? {
            (_, Reply::Collector(reply)) => Ok(reply),
            (_, Reply::Refused(refusal)) => Err(refused(&refusal)),
            _ => Err(unexpected("a step of the collector")),
        }
    }

    /// What this controller can answer without a command, so that agents may
    /// ask often: another collects, or the caller does and was heard of lately.
    fn known(&self, session: u64) -> Result<Option<CollectorReply>, Status> {
        let view = self.0.raft.view();
        let now_ms = self.now_ms(&view)?;
        let may = collector::may_acquire(&view, now_ms, session).map_err(|e| store_failed(&e))?;
        if let Err(holder) = may {
            return Ok(Some(CollectorReply::Held { holder }));
        }
        let known = collector::collector(&view).map_err(|e| store_failed(&e))?;
        let fresh = known.renewed_ms.saturating_add(RENEW_MS) > now_ms;
        let granted = CollectorReply::Granted { epoch: known.epoch };
        Ok((known.holder == session && fresh).then_some(granted))
    }

    fn now_ms(&self, view: &StateView) -> Result<u64, Status> {
        let applied_ms = cluster::time_ms(view).map_err(|e| store_failed(&e))?;
        Ok(applied_ms.max(self.0.clock.now_ms()))
    }

    fn paused(&self) -> Result<bool, Status> {
        let known = collector::collector(&self.0.raft.view()).map_err(|e| store_failed(&e))?;
        Ok(known.paused)
    }
}

#[tonic::async_trait]
impl Collector for CollectorService {
    async fn acquire(
        &self,
        request: Request<v1::AcquireCollectorRequest>,
    ) -> Answer<v1::AcquireCollectorResponse> {
        let wire = request.into_inner();
        let instance = id16("instance", &wire.instance)?;
        let reply = match self.known(wire.session)? {
            Some(reply) => reply,
            None => {
                let session = wire.session;
                self.step(CollectorStep::Acquire { session, instance }).await?
            }
        };
        let epoch = match reply {
            CollectorReply::Granted { epoch } => epoch,
            CollectorReply::Held { .. } => 0,
            _ => return Err(unexpected("acquire collector")),
        };
        let interval_ms = millis(self.0.options.gc_interval);
        let paused = self.paused()?;
        Ok(Response::new(v1::AcquireCollectorResponse { epoch, paused, interval_ms }))
    }

    async fn judge(
        &self,
        request: Request<v1::JudgeObjectsRequest>,
    ) -> Answer<v1::JudgeObjectsResponse> {
        let wire = request.into_inner();
        let objects = names(wire.objects)?;
        // GC: read after the listing in which the caller found them.
        let view = self.0.view_at(0, true).await?;
        let terms = Terms {
            index: view.applied(),
            now_ms: self.now_ms(&view)?,
            grace_ms: millis(self.0.options.gc_grace),
            backups: kept_backups(wire.backups)?,
        };
        let verdicts = objects.iter().map(|name| collector::judge(&view, &terms, name));
        let verdicts = verdicts.collect::<Result<Vec<_>, _>>().map_err(|e| store_failed(&e))?;
        Ok(Response::new(verdicts_wire(&verdicts)))
    }

    async fn allow(
        &self,
        request: Request<v1::AllowDeletionRequest>,
    ) -> Answer<v1::JudgeObjectsResponse> {
        let wire = request.into_inner();
        let step = CollectorStep::Allow {
            session: wire.session,
            epoch: wire.epoch,
            grace_ms: millis(self.0.options.gc_grace),
            backups: kept_backups(wire.backups)?,
            objects: names(wire.objects)?,
        };
        match self.step(step).await? {
            CollectorReply::Allowed(verdicts) => Ok(Response::new(verdicts_wire(&verdicts))),
            CollectorReply::Paused => Err(conflict("the collector is paused")),
            CollectorReply::ClockApart => {
                Err(conflict("cluster time is more than a minute from the leader's clock"))
            }
            CollectorReply::Held { holder } => {
                Err(conflict(format!("session {holder} collects now")))
            }
            _ => Err(unexpected("allow deletion")),
        }
    }

    async fn report(
        &self,
        request: Request<v1::ReportSweepRequest>,
    ) -> Answer<v1::ReportSweepResponse> {
        let wire = request.into_inner();
        let report = wire.report.ok_or_else(|| invalid("the report is missing"))?;
        let (session, epoch) = (wire.session, wire.epoch);
        let step = CollectorStep::Report { session, epoch, report: report_of(report) };
        match self.step(step).await? {
            CollectorReply::Done => Ok(Response::new(v1::ReportSweepResponse {})),
            CollectorReply::Held { holder } => {
                Err(conflict(format!("session {holder} collects now")))
            }
            _ => Err(unexpected("report sweep")),
        }
    }

    async fn get(&self, _: Request<v1::GetCollectorRequest>) -> Answer<v1::GetCollectorResponse> {
        let view = self.0.view_at(0, true).await?;
        let Cluster { cluster, generation, store_url, .. } =
            cluster::cluster(&view).map_err(|e| store_failed(&e))?.ok_or_else(|| {
                let message = "the cluster is not initialised yet";
                to_status(ErrorInfo::new(ErrorCode::NoLeader, message))
            })?;
        let known = collector::collector(&view).map_err(|e| store_failed(&e))?;
        let last = collector::last_sweep(&view).map_err(|e| store_failed(&e))?;
        let address = address_of(&view, known.holder).map_err(|e| store_failed(&e))?;
        Ok(Response::new(v1::GetCollectorResponse {
            cluster_id: cluster.to_vec(),
            generation: Some(generation_wire(generation)),
            store_url: store_url.unwrap_or_default(),
            paused: known.paused,
            confirmed: known.confirmed == Some(generation),
            // One whose session has ended collects no more.
            holder: if address.is_empty() { 0 } else { known.holder },
            address,
            epoch: known.epoch,
            grace_ms: millis(self.0.options.gc_grace),
            interval_ms: millis(self.0.options.gc_interval),
            last: last.map(report_wire),
        }))
    }

    async fn control(
        &self,
        request: Request<v1::ControlCollectorRequest>,
    ) -> Answer<v1::ControlCollectorResponse> {
        let control = request.into_inner().control;
        let step = match control.ok_or_else(|| invalid("nothing to be decided"))? {
            Control::Paused(paused) => CollectorStep::SetPaused(paused),
            Control::ConfirmGeneration(counter) => {
                let view = self.0.view_at(0, true).await?;
                let own = cluster::cluster(&view).map_err(|e| store_failed(&e))?;
                let own = own.map(|own| own.generation);
                CollectorStep::ConfirmGeneration(confirmed(own, counter)?)
            }
        };
        match self.step(step).await? {
            CollectorReply::Done => Ok(Response::new(v1::ControlCollectorResponse {})),
            _ => Err(unexpected("control collector")),
        }
    }
}

/// The cluster's own generation, if its `counter` is what the operator names.
fn confirmed(own: Option<GenerationKey>, counter: u32) -> Result<GenerationKey, Status> {
    match own {
        Some(own) if own.counter == counter => Ok(own),
        Some(GenerationKey { counter: own, .. }) => {
            Err(invalid(format!("generation {counter} is not the cluster's, which is {own}")))
        }
        None => Err(invalid(format!("generation {counter}: the cluster has none yet"))),
    }
}

fn names(wire: Vec<v1::L0Object>) -> Result<Vec<ObjectName>, Status> {
    if wire.len() > MAX_OBJECTS {
        return Err(invalid(format!("{} objects, allowed are {MAX_OBJECTS}", wire.len())));
    }
    let name = |object: v1::L0Object| {
        let generation = generation_key(object.generation)?;
        Ok(ObjectName { generation, session: object.session, sequence: object.sequence })
    };
    wire.into_iter().map(name).collect()
}

fn kept_backups(wire: Option<v1::KeptBackups>) -> Result<KeptBackups, Status> {
    let wire = wire.ok_or_else(|| invalid("it is not said which backups are kept"))?;
    Ok(KeptBackups { oldest_index: wire.oldest_index, of_others: wire.of_others })
}

fn verdicts_wire(verdicts: &[Verdict]) -> v1::JudgeObjectsResponse {
    let wire = |verdict: &Verdict| match verdict {
        Verdict::Reachable => v1::ObjectVerdict::Reachable,
        Verdict::Undecided => v1::ObjectVerdict::Undecided,
        Verdict::Waiting => v1::ObjectVerdict::Waiting,
        Verdict::InBackup => v1::ObjectVerdict::InBackup,
        Verdict::Unconfirmed => v1::ObjectVerdict::Unconfirmed,
        Verdict::Foreign => v1::ObjectVerdict::Foreign,
        Verdict::Unreachable => v1::ObjectVerdict::Unreachable,
    };
    v1::JudgeObjectsResponse { verdicts: verdicts.iter().map(|v| wire(v).into()).collect() }
}

fn report_of(wire: v1::SweepReport) -> SweepReport {
    SweepReport {
        finished_ms: wire.finished_ms,
        took_ms: wire.took_ms,
        listed: wire.listed,
        listed_bytes: wire.listed_bytes,
        orphans: wire.orphans,
        orphan_bytes: wire.orphan_bytes,
        deleted: wire.deleted,
        deleted_bytes: wire.deleted_bytes,
        waiting: wire.waiting,
        kept_for_backups: wire.kept_for_backups,
        unconfirmed: wire.unconfirmed,
        foreign: wire.foreign,
        errors: wire.errors,
        oldest_orphan_ms: wire.oldest_orphan_ms,
        last_error: wire.last_error,
    }
}

fn report_wire(report: SweepReport) -> v1::SweepReport {
    v1::SweepReport {
        finished_ms: report.finished_ms,
        took_ms: report.took_ms,
        listed: report.listed,
        listed_bytes: report.listed_bytes,
        orphans: report.orphans,
        orphan_bytes: report.orphan_bytes,
        deleted: report.deleted,
        deleted_bytes: report.deleted_bytes,
        waiting: report.waiting,
        kept_for_backups: report.kept_for_backups,
        unconfirmed: report.unconfirmed,
        foreign: report.foreign,
        errors: report.errors,
        oldest_orphan_ms: report.oldest_orphan_ms,
        last_error: report.last_error,
    }
}
