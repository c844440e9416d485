//! What the collector asks of the controllers, each question for a limited time.

use super::console::Standing;
use super::report::SweepReport;
use super::sweep::{Grant, SweepError};
use crate::controllers::{CallFailed, Controllers};
use std::future::Future;
use std::time::Duration;
use streamhouse_proto::v1::{
    AcquireCollectorRequest, AcquireCollectorResponse, AllowDeletionRequest,
    ControlCollectorRequest, ErrorCode, ErrorInfo, GetCollectorRequest, JudgeObjectsRequest,
    KeptBackups, L0Object, ObjectVerdict, ReportSweepRequest, control_collector_request::Control,
};

/// For one question, elections included.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the [module](self).
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    controllers: &'a Controllers,
    patience: Duration,
}

type Answer<T> = Result<T, SweepError>;

impl<'a> Ask<'a> {
    pub(super) fn new(controllers: &'a Controllers) -> Self {
        Self { controllers, patience: PATIENCE }
    }

    pub(super) fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    async fn answered<T>(&self, asked: impl Future<Output = Result<T, CallFailed>>) -> Answer<T> {
        match tokio::time::timeout(self.patience, asked).await {
            Ok(answer) => answer.map_err(|failed| SweepError::Cluster(failed.error)),
            Err(_) => {
                let message = format!("no controller answered within {:?}", self.patience);
                Err(SweepError::Cluster(ErrorInfo::new(ErrorCode::NoLeader, message)))
            }
        }
    }

    pub(super) async fn acquire(
        &self,
        session: u64,
        instance: [u8; 16],
    ) -> Answer<AcquireCollectorResponse> {
        let request = AcquireCollectorRequest { session, instance: instance.to_vec() };
        let asked = self.controllers.call_collector("acquire collector", |mut client| {
            let request = request.clone();
            async move { client.acquire(request).await }
        });
        self.answered(asked).await
    }

    pub(super) async fn judge(
        &self,
        objects: Vec<L0Object>,
        backups: KeptBackups,
    ) -> Answer<Vec<ObjectVerdict>> {
        let count = objects.len();
        let request = JudgeObjectsRequest { objects, backups: Some(backups) };
        let asked = self.controllers.call_collector("judge objects", |mut client| {
            let request = request.clone();
            async move { client.judge(request).await }
        });
        verdicts(count, &self.answered(asked).await?.verdicts)
    }

    pub(super) async fn allow(
        &self,
        grant: &Grant,
        objects: Vec<L0Object>,
        backups: KeptBackups,
    ) -> Answer<Vec<ObjectVerdict>> {
        let count = objects.len();
        let (session, epoch) = (grant.session, grant.epoch);
        let request = AllowDeletionRequest { session, epoch, objects, backups: Some(backups) };
        let asked = self.controllers.call_collector("allow deletion", |mut client| {
            let request = request.clone();
            async move { client.allow(request).await }
        });
        verdicts(count, &self.answered(asked).await?.verdicts)
    }

    pub(super) async fn report(&self, grant: &Grant, report: &SweepReport) -> Answer<()> {
        let (session, epoch) = (grant.session, grant.epoch);
        let request = ReportSweepRequest { session, epoch, report: Some(report.to_wire()) };
        let asked = self.controllers.call_collector("report sweep", |mut client| {
            let request = request.clone();
            async move { client.report(request).await }
        });
        self.answered(asked).await.map(|_| ())
    }

    pub(super) async fn standing(&self) -> Answer<Standing> {
        let asked = self.controllers.call_collector("get collector", |mut client| async move {
            client.get(GetCollectorRequest {}).await
        });
        Standing::from_wire(self.answered(asked).await?)
    }

    pub(super) async fn control(&self, control: Control) -> Answer<()> {
        let asked = self.controllers.call_collector("control collector", |mut client| async move {
            client.control(ControlCollectorRequest { control: Some(control) }).await
        });
        self.answered(asked).await.map(|_| ())
    }
}

/// GC: an answer that does not fit the question allows nothing.
fn verdicts(count: usize, wire: &[i32]) -> Answer<Vec<ObjectVerdict>> {
    if wire.len() != count {
        let message = format!("{} verdicts on {count} objects", wire.len());
        return Err(SweepError::Cluster(ErrorInfo::new(ErrorCode::Internal, message)));
    }
    let known = |verdict: &i32| ObjectVerdict::try_from(*verdict).unwrap_or_default();
    Ok(wire.iter().map(known).collect())
}
