//! Controllers' disks that lose their power, hang, or fail.

use std::time::Duration;

use async_trait::async_trait;

use super::kill::Whom;
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
    /// Whether the leader's disk is to be harmed, or that of one who follows.
    leader: bool,
    victims: Vec<usize>,
}

impl DiskTrouble {
    pub(super) fn new(harm: Harm) -> Self {
        Self { harm, leader: true, victims: Vec::new() }
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
                let n = self.victim(cluster, random).await?;
                cluster.disk(n).stall().map_err(Self::io("the disk", n))?;
                Ok(format!("controller {n} ({})", self.role()))
            }
            Harm::Fail | Harm::Full => {
                let n = self.victim(cluster, random).await?;
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
                Ok(format!("controller {n} ({}), which ended with {code}", self.role()))
            }
        }
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        let mut struck = 0;
        for n in &self.victims {
            let disk = cluster.disk(*n);
            struck += disk.struck();
            disk.mend().map_err(Self::io("the disk", *n))?;
        }
        for node in [cluster.controllers(), cluster.agents()].concat() {
            cluster.start_process(node)?;
        }
        let all_run = "the disks work, all processes run";
        Ok(match self.harm {
            // That they died is what it is.
            Harm::PowerCut => Healed::done(all_run),
            Harm::Stall | Harm::Fail | Harm::Full => Healed {
                detail: format!("{all_run}; {struck} calls met it"),
                effective: struck > 0,
            },
        })
    }

    fn aim(&mut self, leader: bool) {
        self.leader = leader;
    }

    fn hit_leader(&self) -> Option<bool> {
        (!matches!(self.harm, Harm::PowerCut) && !self.victims.is_empty()).then_some(self.leader)
    }
}

impl DiskTrouble {
    async fn victim(
        &mut self,
        cluster: &Cluster,
        random: &mut Random,
    ) -> Result<usize, ChaosError> {
        let whom = if self.leader { Whom::Leader } else { Whom::Follower };
        match whom.pick(cluster, random).await?.first() {
            Some((Node::Controller(n), _)) => {
                self.victims.push(*n);
                Ok(*n)
            }
            _ => Err(ChaosError::Cluster("no controller can be chosen".to_owned())),
        }
    }

    fn role(&self) -> &'static str {
        if self.leader { "the leader" } else { "a follower" }
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
