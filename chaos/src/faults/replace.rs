//! Controllers that come back as new ones: because their disk is not what it was, or because they were removed. All under
//! load, with a majority of the others at work.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::kill::Whom;
use super::{Fault, Healed, found};
use crate::cluster::{Cluster, DAMAGED, Node, admin};
use crate::error::ChaosError;
use crate::random::Random;

/// How long a controller may take to find out that it must not serve.
const ENDS: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_secs(60);
/// How often a removal is asked for, and how long it is waited in between.
const REMOVALS: usize = 3;
const AGAIN: Duration = Duration::from_secs(1);
/// How old the disk is that is put back.
const AGE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// It lacks what was acknowledged since.
    Old,
    /// One bit of its log is another.
    Flipped,
}

pub(super) struct BadDisk {
    bad: Bad,
    leader: bool,
    victim: Option<usize>,
}

impl BadDisk {
    pub(super) fn new(bad: Bad) -> Self {
        Self { bad, leader: false, victim: None }
    }
}

#[async_trait]
impl Fault for BadDisk {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        let n = victim(cluster, self.leader, random).await?;
        let (node, data) = (Node::Controller(n), cluster.data(n));
        let io = || ChaosError::io(format!("the disk of {node}"));
        let copy = data.with_extension("old");
        self.victim = Some(n);
        cluster.kill(node)?;
        let what = match self.bad {
            Bad::Flipped => flip(&data.join("db"), random).map_err(io())?,
            Bad::Old => {
                copy_folder(&data, &copy).map_err(io())?;
                cluster.start_process(node)?;
                cluster.wait_until_whole(WHOLE).await.map_err(found)?;
                tokio::time::sleep(AGE).await;
                cluster.kill(node)?;
                fs::remove_dir_all(&data).and_then(|()| fs::rename(&copy, &data)).map_err(io())?;
                "its disk of before".to_owned()
            }
        };
        cluster.disk(n).settle().map_err(io())?;
        cluster.start_process(node)?;
        match cluster.exit(node, ENDS).await {
            Ok(DAMAGED) => Ok(format!("{node}, {what}: refused")),
            Ok(code) => Err(ChaosError::Finding(format!("{node} with {what} exited with {code}"))),
            Err(_) => Err(ChaosError::Finding(format!("{node} serves with {what}"))),
        }
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        let Some(n) = self.victim else { return Ok(Healed::done("nothing to undo")) };
        renew(cluster, n).await?;
        Ok(Healed::done("repaired, it joins as a new one"))
    }

    fn aim(&mut self, leader: bool) {
        self.leader = leader;
    }

    fn hit_leader(&self) -> Option<bool> {
        self.victim.map(|_| self.leader)
    }
}

pub(super) struct Replace {
    leader: bool,
    victim: Option<usize>,
}

impl Replace {
    pub(super) fn new() -> Self {
        Self { leader: false, victim: None }
    }
}

#[async_trait]
impl Fault for Replace {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
    ) -> Result<String, ChaosError> {
        let n = victim(cluster, self.leader, random).await?;
        let statuses = cluster.statuses().await;
        let status = statuses.into_iter().find(|(number, _)| *number == n);
        let (_, status) = status.ok_or_else(|| {
            ChaosError::Cluster(format!("controller {n} does not say which number it has"))
        })?;
        self.victim = Some(n);
        // It may end before the answer is there.
        cluster.expect_end(Some(Node::Controller(n)));
        let removed = remove(cluster, n, status.id).await;
        if removed.is_err() {
            cluster.expect_end(None);
        }
        removed?;
        let code = cluster.exit(Node::Controller(n), ENDS).await.map_err(found)?;
        if code != DAMAGED {
            let problem = format!("controller {n} was removed and exited with {code}");
            return Err(ChaosError::Finding(problem));
        }
        Ok(format!("controller {n} ({}), number {}", status.role, status.id))
    }

    async fn heal(&mut self, cluster: &mut Cluster) -> Result<Healed, ChaosError> {
        let Some(n) = self.victim else { return Ok(Healed::done("nothing to undo")) };
        renew(cluster, n).await?;
        Ok(Healed::done("it joins as a new one"))
    }

    fn aim(&mut self, leader: bool) {
        self.leader = leader;
    }

    fn hit_leader(&self) -> Option<bool> {
        self.victim.map(|_| self.leader)
    }
}

/// Removes a controller, asked again where that is refused or not answered: one change of the members is made at a time,
/// and the leadership may move. One that was removed before is no member, whatever was answered.
async fn remove(cluster: &Cluster, n: usize, id: u64) -> Result<(), ChaosError> {
    let admin = admin(&cluster.access().direct)?;
    let mut tries = 1;
    loop {
        let Err(error) = admin.remove_controller(id).await else { return Ok(()) };
        if tries < REMOVALS {
            tries += 1;
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        let known = admin.cluster().await;
        if known.is_ok_and(|known| known.controllers.iter().all(|member| member.id != id)) {
            return Ok(());
        }
        let problem = format!("controller {n} cannot be removed, asked {tries} times: {error}");
        return Err(ChaosError::Finding(problem));
    }
}

/// The leader, or one that follows.
async fn victim(cluster: &Cluster, leads: bool, random: &mut Random) -> Result<usize, ChaosError> {
    let whom = if leads { Whom::Leader } else { Whom::Follower };
    match whom.pick(cluster, random).await?.first() {
        Some((Node::Controller(n), _)) => Ok(*n),
        _ => Err(ChaosError::Cluster("no controller can be chosen".to_owned())),
    }
}

/// Unless it runs, after all, it begins anew.
async fn renew(cluster: &mut Cluster, n: usize) -> Result<(), ChaosError> {
    let node = Node::Controller(n);
    if !cluster.is_running(node) {
        cluster.repair(n).await?;
        cluster.start_process(node)?;
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&path, &copy)?;
        } else {
            fs::copy(&path, &copy)?;
        }
    }
    Ok(())
}

/// Turns over a bit in the middle of the largest log, which has been read back whenever a controller starts.
fn flip(folder: &Path, random: &mut Random) -> io::Result<String> {
    let mut largest = None;
    for entry in fs::read_dir(folder)? {
        let (path, size) = {
            let entry = entry?;
            (entry.path(), entry.metadata()?.len())
        };
        if path.extension().is_some_and(|e| e == "log")
            && largest.as_ref().is_none_or(|(_, s)| size > *s)
        {
            largest = Some((path, size));
        }
    }
    let (path, size) = largest.ok_or_else(|| io::Error::other("there is no log"))?;
    // Neither the very end, which a power cut may have torn, nor nothing.
    let at = random.below((size / 2).max(1));
    let file: File = OpenOptions::new().read(true).write(true).open(&path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("a bit of {name} at {at} of {size} turned over"))
}
