//! How a cluster stands, as its controllers say; past the proxies.

use std::time::Duration;

use futures::future::join_all;
use streamhouse_client::{Admin, ControllerStatus, Role};

use super::{Access, Cluster, Node};
use crate::clock;
use crate::error::ChaosError;

/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(100);
/// How long a controller may take to say how it stands.
const TRY: Duration = Duration::from_secs(2);

impl Cluster {
    /// How each controller stands, as itself says; past the proxies.
    pub(crate) async fn statuses(&self) -> Vec<(usize, ControllerStatus)> {
        statuses(&self.access).await
    }

    /// The controller that leads with a majority behind it.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let statuses = self.statuses().await;
        let leading =
            statuses.iter().filter(|(_, s)| s.role == Role::Leader && s.leader == Some(s.id));
        leading.max_by_key(|(_, status)| status.term).map(|(n, _)| *n)
    }

    /// The agents with a session, and how many partitions each holds; past the proxies.
    pub(crate) async fn holders(&self) -> Result<Vec<(Node, u32, u64)>, ChaosError> {
        let agents = admin(&self.access.direct)?.agents().await;
        let agents = agents.map_err(|error| ChaosError::Cluster(error.to_string()))?;
        let node = |address: &str| {
            let mut places = self.places.iter();
            places.find(|(_, place)| place.known.to_string() == address).map(|(node, _)| *node)
        };
        let known = agents.iter().filter_map(|a| Some((node(&a.address)?, a.pid, a.leases)));
        Ok(known.collect())
    }

    /// Whether every process runs and is at its work.
    async fn is_whole(&mut self) -> Result<(), String> {
        for node in self.plans.keys().copied().collect::<Vec<_>>() {
            if !self.is_running(node) {
                return Err(format!("{node} does not run"));
            }
        }
        let statuses = self.statuses().await;
        let Some((_, leader)) = statuses.iter().find(|(_, s)| s.role == Role::Leader) else {
            return Err("no controller leads".to_owned());
        };
        if statuses.len() < self.shape.controllers {
            return Err(format!(
                "{} of {} controllers answer",
                statuses.len(),
                self.shape.controllers
            ));
        }
        let behind =
            statuses.iter().find(|(_, s)| s.leader != Some(leader.id) || s.role == Role::Learner);
        if let Some((n, status)) = behind {
            return Err(format!(
                "controller {n} is {} and follows {:?}",
                status.role, status.leader
            ));
        }
        let holders = self.holders().await.map_err(|error| error.to_string())?;
        let serves = |node| {
            holders.iter().any(|(n, pid, _)| {
                *n == node && self.processes.get(&node).is_some_and(|process| process.pid() == *pid)
            })
        };
        match self.agents().into_iter().find(|agent| !serves(*agent)) {
            Some(agent) => Err(format!("{agent} has no session")),
            None => Ok(()),
        }
    }

    /// Waits until every process is at its work; how long that took.
    pub(crate) async fn wait_until_whole(
        &mut self,
        within: Duration,
    ) -> Result<Duration, ChaosError> {
        let begun = clock::now();
        loop {
            let Err(problem) = self.is_whole().await else { return Ok(begun.elapsed()) };
            if begun.elapsed() > within {
                return Err(ChaosError::Cluster(format!("not whole after {within:?}: {problem}")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// How each controller stands that answers, with its number.
pub(crate) async fn statuses(access: &Access) -> Vec<(usize, ControllerStatus)> {
    let asked = access.direct.iter().zip(1..).map(|(address, n)| async move {
        let admin = admin(std::slice::from_ref(address)).ok()?;
        Some((n, admin.controller(address).await.ok()?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// A client for questions about the cluster.
pub fn admin(controllers: &[String]) -> Result<Admin, ChaosError> {
    let admin = Admin::builder().controllers(controllers.iter().cloned()).try_timeout(TRY).build();
    admin.map_err(|error| ChaosError::Harness(error.to_string()))
}
