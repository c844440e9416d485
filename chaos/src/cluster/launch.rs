//! How each process is started: its command, and what stands between it and its C library.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use streamhouse_store::endpoint::Endpoint;
use tokio::process::Command;

use super::process::Plan;
use super::{Cluster, Node, Place};
use crate::error::ChaosError;

/// How long a repair may take.
const REPAIRED: Duration = Duration::from_secs(120);

impl Cluster {
    pub(super) fn plan(&self, node: Node, endpoint: SocketAddr) -> Result<Plan, ChaosError> {
        let mut environment = Endpoint::options_by(endpoint);
        if self.shape.layers {
            let layer = self.layer(node);
            let layer = layer.map_err(ChaosError::io("the layer below a process"))?;
            let text = |path: PathBuf| path.to_string_lossy().into_owned();
            environment.extend(layer.into_iter().map(|(name, path)| (name.to_owned(), text(path))));
        }
        Ok(Plan {
            binary: self.shape.binary.clone(),
            args: self.args(node),
            environment,
            log: self.shape.folder.join(format!("{}.log", node.file_name())),
            group: self.guardian.group(),
        })
    }

    /// What stands between a process and its C library.
    fn layer(&self, node: Node) -> std::io::Result<Vec<(&'static str, PathBuf)>> {
        let mut layer = self.clock(node).environment()?;
        match node {
            Node::Controller(n) => layer.extend(self.disk(n).environment()?),
            Node::Agent(_) => {
                if let Some(disk) = self.objects() {
                    layer.extend(disk.environment()?);
                }
            }
            Node::Store | Node::Client => {}
        }
        Ok(layer)
    }

    fn args(&self, node: Node) -> Vec<String> {
        let Place { listens, known } = self.places[&node];
        let (listens, known) = (listens.to_string(), known.to_string());
        let words: Vec<String> = match node {
            Node::Controller(n) => {
                let peers = self.access.controllers.iter().zip(1..);
                let peers: Vec<_> = peers.map(|(known, id)| format!("{id}={known}")).collect();
                let (id, peers, data) = (n.to_string(), peers.join(","), self.data(n));
                let data = data.display().to_string();
                // Snapshots and purges go on all the while.
                let often = ["--snapshot-every", "2000", "--keep-logs", "500"];
                // So does the collector, with a grace that no reader here needs.
                let collects = ["--gc-interval", "2s", "--gc-grace", "5s"];
                let words = ["controller", "--node-id", &id, "--peers", &peers, "--data", &data];
                words.into_iter().chain(often).chain(collects).map(str::to_owned).collect()
            }
            _ => {
                let controllers = self.access.controllers.join(",");
                let url = self.access.store.url();
                let words = ["agent", "--controllers", &controllers, "--store", url];
                words.map(str::to_owned).into()
            }
        };
        let addresses = ["--listen".to_owned(), listens, "--advertise".to_owned(), known];
        words.into_iter().chain(addresses).collect()
    }

    /// `controller repair --rejoin-as-learner`, as an operator does it for one whose disk is of no use any more: it comes
    /// back under a new number, and takes its old place. What that said.
    pub(crate) async fn repair(&self, controller: usize) -> Result<String, ChaosError> {
        let plan = &self.plans[&Node::Controller(controller)];
        let data = self.data(controller).display().to_string();
        let controllers = self.access.controllers.join(",");
        // One that was removed is in nobody's book any more.
        let known = self.places[&Node::Controller(controller)].known.to_string();
        let mut command = Command::new(&plan.binary);
        command
            .args(["controller", "repair", "--rejoin-as-learner"])
            .args(["--data", &data, "--controllers", &controllers, "--advertise", &known])
            .envs(plan.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            // It outlives neither the run nor the suite.
            .process_group(plan.group)
            .kill_on_drop(true);
        let Ok(repaired) = tokio::time::timeout(REPAIRED, command.output()).await else {
            let problem = format!("controller {controller} is not repaired after {REPAIRED:?}");
            return Err(ChaosError::Finding(problem));
        };
        let repaired = repaired.map_err(ChaosError::io("controller repair"))?;
        let said = [repaired.stdout, repaired.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if !repaired.status.success() {
            let problem = format!("controller {controller} cannot be repaired: {said}");
            return Err(ChaosError::Finding(problem));
        }
        Ok(said)
    }
}
