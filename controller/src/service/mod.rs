//! The gRPC services of a controller.

mod attach;
mod attend;
mod backups;
mod collector;
mod group_views;
mod groups;
mod lookup;
mod members;
mod metadata;
mod offsets;
mod pace;
mod producers;
mod rates;
mod sessions;
mod topics;
mod watch;

pub(crate) use backups::BackupsService;
pub(crate) use collector::CollectorService;
pub(crate) use metadata::MetadataService;
pub(crate) use producers::ProducersService;
pub(crate) use sessions::SessionsService;

use crate::clock::ClusterClock;
use crate::errors::read_failed;
use crate::group_care::MemberKey;
use crate::hub::Hub;
use crate::liveness::Liveness;
use crate::metrics::Probes;
use crate::options::ControllerOptions;
use crate::places::Places;
use crate::raft::{RaftNode, StateView};
use crate::state::kv::KvError;
use crate::state::sessions as state_sessions;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the services share.
pub(crate) struct Shared {
    pub(crate) raft: RaftNode,
    pub(crate) hub: Arc<Hub>,
    pub(crate) liveness: Arc<Liveness<u64>>,
    pub(crate) member_liveness: Arc<Liveness<MemberKey>>,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) probes: Probes,
    pub(crate) watchers: Places,
    pub(crate) member_streams: Places,
    /// Backups that are being taken here.
    pub(crate) backups: Places,
    pub(crate) options: ControllerOptions,
    pub(crate) cancel: CancellationToken,
    /// Streams being served; the controller waits for them when it stops.
    pub(crate) tasks: TaskTracker,
}

/// How long a reader is kept waiting for an index it has seen elsewhere.
const CATCH_UP: Duration = Duration::from_secs(2);

impl Shared {
    /// A view that shows at least `min_applied`, and every write acknowledged
    /// before the call if `linearizable`.
    pub(crate) async fn view_at(
        &self,
        min_applied: u64,
        linearizable: bool,
    ) -> Result<StateView, tonic::Status> {
        if linearizable {
            self.raft.read_index().await.map_err(|e| read_failed(&e))?;
        }
        if min_applied > 0 {
            let waited = self.raft.wait_applied(min_applied, CATCH_UP).await;
            waited.map_err(|e| read_failed(&e))?;
        }
        Ok(self.raft.view())
    }
}

/// The address of a session, or nothing if it is 0 or gone.
pub(crate) fn address_of(view: &StateView, session: u64) -> Result<String, KvError> {
    if session == 0 {
        return Ok(String::new());
    }
    let found = state_sessions::session(view, session)?;
    Ok(found.filter(|s| s.is_live()).map(|s| s.address).unwrap_or_default())
}
