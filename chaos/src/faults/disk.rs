//! Controllers' disks that lose their power, hang, or fail.

use std::time::Duration;

use async_trait::async_trait;

use super::kill::leader;
use super::{Fault, Healed, found};
use crate::cluster::{Cluster, Node};
use crate::disk::Tail;
use crate::error::ChaosError;
use crate::random::Random;

/// How long a controller may take to end once its disk has failed: it writes at least once a second.
const ENDS: Duration = Duration::from_secs(20);
/// What it says with its exit code then: the log could not be written, or a snapshot.
const DISK_FAILED: [i32; 2] = [74, 80];

#[derive(Debug, Clone, Copy)]
pub(super) enum Harm {
    PowerCut,
    Stall,
    Fail,
    Full,
}

pub(super) struct DiskTrouble {
    harm: Harm,
    victims: Vec<usize>,
}

impl DiskTrouble {
    pub(super) fn new(harm: Harm) -> Self {
        Self { harm, victims: Vec::new() }
    }

    fn io(what: &str, n: usize) -> impl FnOnce(std::io::Error) -> ChaosError {
        ChaosError::io(format!("{what} of controller {n}"))
    }
}

#[async_trait]
impl Fault for DiskTrouble {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        match self.harm {
            Harm::PowerCut => self.cut(cluster, random),
            Harm::Stall => {
                let n = self.leader(cluster).await?;
                cluster.disk(n).stall().map_err(Self::io("the disk", n))?;
                Ok(format!("controller {n} (the leader)"))
            }
            Harm::Fail | Harm::Full => {
                let n = self.leader(cluster).await?;
                let disk = cluster.disk(n);
                let harmed =
                    if matches!(self.harm, Harm::Fail) { disk.fail() } else { disk.fill() };
                harmed.map_err(Self::io("the disk", n))?;
                // One that serves on without its disk acknowledges what it does not have.
                let code = cluster.exit(Node::Controller(n), ENDS).await.map_err(found)?;
                if !DISK_FAILED.contains(&code) {
                    let problem = format!("controller {n} exited with {code} when its disk failed");
                    return Err(ChaosError::Finding(problem));
                }
                Ok(format!("controller {n} (the leader), which ended with {code}"))
            }
        }
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        for n in &self.victims {
            cluster.disk(*n).mend().map_err(Self::io("the disk", *n))?;
        }
        for node in [cluster.controllers(), cluster.agents()].concat() {
            cluster.start_process(node)?;
        }
        Ok(Healed::done("the disks work, all processes run"))
    }
}

impl DiskTrouble {
    async fn leader(&mut self, cluster: &Cluster) -> Result<usize, ChaosError> {
        let Node::Controller(n) = leader(cluster).await? else {
            return Err(ChaosError::Cluster("no controller leads".to_owned()));
        };
        self.victims.push(n);
        Ok(n)
    }

    /// All die first, so that none learns of another's loss; then each disk forgets. Agents keep nothing, but where
    /// objects are on a disk, that loses its power, too.
    fn cut(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<String, ChaosError> {
        let objects = cluster.objects();
        let agents = if objects.is_some() { cluster.agents() } else { Vec::new() };
        for node in [cluster.controllers(), agents].concat() {
            cluster.kill(node)?;
        }
        let mut told = Vec::new();
        for n in 1..=cluster.controllers().len() {
            let lost = cluster.disk(n).cut(random, Tail::Short).map_err(Self::io("the disk", n))?;
            told.push(format!("controller {n} lost {lost} bytes"));
        }
        if let Some(objects) = objects {
            let lost = objects.cut(random, Tail::Short);
            let lost = lost.map_err(ChaosError::io("the disk of the objects"))?;
            told.push(format!("the objects lost {lost} bytes"));
        }
        Ok(told.join(", "))
    }
}
