//! What an operator sees of the collector, and decides.

use super::ask::Ask;
use super::report::{DryRun, SweepReport};
use super::sweep::{Sweep, SweepError};
use crate::controllers::Controllers;
use crate::metrics::Probes;
use crate::options::StartError;
use std::time::Duration;
use streamhouse_proto::v1::control_collector_request::Control;
use streamhouse_proto::v1::{ErrorCode, ErrorInfo, GetCollectorResponse};
use streamhouse_segment::{ClusterId, Generation};
use streamhouse_store::{Store, StoreOptions};

/// How the collector stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The cluster's id: the folder of its objects.
    pub cluster: ClusterId,
    /// Its current generation.
    pub generation: Generation,
    /// Where its objects are; `None` before the first agent.
    pub store_url: Option<String>,
    /// Nothing is to be deleted.
    pub paused: bool,
    /// Objects of older generations may be deleted.
    pub older_confirmed: bool,
    /// The session that collects, and its agent's address; `None` while nobody does.
    pub holder: Option<(u64, String)>,
    /// How long objects stay that left the index.
    pub grace: Duration,
    /// From one sweep to the next.
    pub interval: Duration,
    /// What the last sweep found; `None` before the first.
    pub last: Option<SweepReport>,
}

impl Standing {
    pub(super) fn from_wire(wire: GetCollectorResponse) -> Result<Self, SweepError> {
        let cluster = <[u8; 16]>::try_from(wire.cluster_id.as_slice()).map_err(|_| {
            let message = "the cluster's id has not 16 bytes";
            SweepError::Cluster(ErrorInfo::new(ErrorCode::Internal, message))
        })?;
        let generation = wire.generation.unwrap_or_default();
        Ok(Self {
            cluster: ClusterId::from_bytes(cluster),
            generation: Generation { counter: generation.counter, random: generation.random },
            store_url: Some(wire.store_url).filter(|url| !url.is_empty()),
            paused: wire.paused,
            older_confirmed: wire.confirmed,
            holder: (wire.holder > 0).then_some((wire.holder, wire.address)),
            grace: Duration::from_millis(wire.grace_ms),
            interval: Duration::from_millis(wire.interval_ms),
            last: wire.last.map(SweepReport::from_wire),
        })
    }
}

/// An operator's way to the collector, through any controllers. No session is opened.
#[derive(Debug)]
pub struct Console {
    controllers: Controllers,
    patience: Duration,
}

impl Console {
    /// Asks the controllers at these addresses, each question for as long as `patience`.
    ///
    /// # Errors
    /// If an address is none.
    pub fn new(controllers: &[String], patience: Duration) -> Result<Self, StartError> {
        Ok(Self { controllers: Controllers::new(controllers)?, patience })
    }

    fn ask(&self) -> Ask<'_> {
        Ask::new(&self.controllers).within(self.patience)
    }

    /// How the collector stands. Linearizable.
    ///
    /// # Errors
    /// If no controller answers in time.
    pub async fn standing(&self) -> Result<Standing, SweepError> {
        self.ask().standing().await
    }

    /// From now on nothing is to be deleted, or again what may be. A batch that was allowed before is still deleted.
    ///
    /// # Errors
    /// If no controller answers in time; it may have taken effect then.
    pub async fn pause(&self, paused: bool) -> Result<(), SweepError> {
        self.ask().control(Control::Paused(paused)).await
    }

    /// Nothing of older generations than this one, the current one, runs any more: their unreachable objects may be
    /// deleted.
    ///
    /// # Errors
    /// If it is not the current one, or no controller answers in time; it may have taken effect then.
    pub async fn confirm_generation(&self, counter: u32) -> Result<(), SweepError> {
        self.ask().control(Control::ConfirmGeneration(counter)).await
    }

    /// Looks for what a sweep would delete now, from here, and deletes nothing.
    ///
    /// # Errors
    /// If the store or the controllers do not answer.
    pub async fn dry_run(&self) -> Result<DryRun, SweepError> {
        let standing = self.standing().await?;
        let Some(url) = &standing.store_url else { return Ok(DryRun::default()) };
        let store = open(url)?;
        let sweep = Sweep::new(&store, self.ask(), standing.cluster).remembering_keys();
        sweep.dry_run(&Probes::default()).await
    }
}

fn open(url: &str) -> Result<Store, SweepError> {
    Ok(StoreOptions::new().reader().open(url)?)
}
