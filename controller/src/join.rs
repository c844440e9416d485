//! How a controller gets its number from a running cluster: a new one, and
//! one that begins anew with an empty disk after its own was damaged.

use crate::controller::StartError;
use crate::options::ControllerOptions;
use crate::raft::{self, OpenError, TooOld};
use crate::repair_plan::{PREPARED, Plan};
use crate::seeds::{CALL, Seeds};
use crate::state::features;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use streamhouse_proto::advice;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::{self, ErrorInfo};

/// Fills in number and peers of a controller that joins.
pub(crate) async fn resolve(options: &mut ControllerOptions) -> Result<(), StartError> {
    let advertise = options.advertise.clone().unwrap_or_else(|| options.listen.to_string());
    if options.advertise.is_none() && options.listen.ip().is_unspecified() {
        let message = format!(
            "{} is no address that others can reach: say which they are to use with --advertise",
            options.listen
        );
        return Err(StartError::Options(message));
    }
    let data = options.data.clone();
    let (number, disk) = blocking(move || raft::owner(&data)).await?;
    let mut seeds = Seeds::new(&options.join);
    let known = seeds.once(|channel| async move {
        MetadataClient::new(channel).get_cluster(v1::GetClusterRequest {}).await
    });
    let known = known.await.unwrap_or_default();
    let (level, reads) = (known.feature_level, features::NEWEST);
    if level > reads {
        return Err(StartError::TooOld(TooOld { level, reads }));
    }
    let members = match number {
        // It has its place; whoever answers tells where the others are.
        Some(_) => known.controllers,
        None => {
            let disk_id = disk.to_vec();
            let answer = seeds.call("asking for a number", None, |channel| {
                let request = request_for(&disk_id);
                async move { MetadataClient::new(channel).allocate_controller(request).await }
            });
            let answer = answer.await.map_err(|error| StartError::Join(error.message))?;
            let (data, id) = (options.data.clone(), answer.id);
            blocking(move || raft::assign(&data, id, 0)).await?;
            tracing::info!(id, "the cluster gave this controller its number");
            answer.controllers
        }
    };
    let data = options.data.clone();
    let (number, _) = blocking(move || raft::owner(&data)).await?;
    let number = number.ok_or_else(|| StartError::Join("no number was given".into()))?;
    options.node_id = number;
    options.peers = members.into_iter().map(|member| (member.id, member.address)).collect();
    options.peers.insert(number, advertise);
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, StartError> {
    let done = streamhouse_host::spawn_blocking(work).await;
    let done = done.map_err(|e| StartError::Join(e.to_string()))?;
    done.map_err(|e| StartError::Raft(raft::StartError::Open(e)))
}

/// What [`repair`] did.
#[derive(Debug)]
pub struct Repaired {
    /// The controller whose disk was given up.
    pub old: u64,
    /// Its successor: a learner, until it has caught up.
    pub new: u64,
    /// Where the old data is, for whoever wants to look at it.
    pub kept: PathBuf,
}

/// A data directory that was not repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// It is in use, or cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Whose it was cannot be read any more.
    #[error("{}: the damage hides whose data it was; name its controller with --node-id", .0.display())]
    Whose(PathBuf),
    /// A file could not be moved.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The cluster does not take its successor.
    #[error("{message}")]
    Cluster {
        /// A retry may help.
        retryable: bool,
        /// Why not.
        message: String,
    },
}

/// Gives up the disk of a stopped controller, whose data is damaged or lost,
/// and prepares the directory for a successor with a number of its own. The
/// successor is started as the old one was, catches up as a learner, and
/// takes the old one's place; in between it does not vote.
///
/// May be run again if it was interrupted.
pub fn repair<'a>(
    data: &'a Path,
    controllers: &'a [String],
    node_id: Option<u64>,
    advertise: Option<&'a str>,
) -> BoxFuture<'a, Result<Repaired, RepairError>> {
    // Compiled here, and not with every binary that repairs.
    Box::pin(repair_here(data, controllers, node_id, advertise))
}

async fn repair_here(
    data: &Path,
    controllers: &[String],
    node_id: Option<u64>,
    advertise: Option<&str>,
) -> Result<Repaired, RepairError> {
    let io = |error| RepairError::Io { path: data.to_owned(), error };
    if let Some(plan) = Plan::read(data).map_err(io)? {
        // All but the files is done.
        let kept = plan.finish(data).map_err(io)?;
        return Ok(Repaired { old: plan.member, new: plan.new, kept });
    }
    let prepared = data.join(PREPARED);
    let old_db = data.join("db");
    let last_known = raft::last_known(data);
    let read = match old_db.exists() {
        false => None,
        true => match raft::known_as(data) {
            Ok(known_as) => known_as.zip(raft::owner(data)?.0),
            Err(OpenError::Damaged { .. } | OpenError::Unreadable { .. }) => None,
            Err(error) => return Err(error.into()),
        },
    };
    let (old, member) = match (read.or(last_known), node_id) {
        (Some((known_as, member)), None) => (known_as, member),
        (Some((known_as, member)), Some(id)) if id == known_as || id == member => {
            (known_as, member)
        }
        (Some((known_as, _)), Some(id)) => {
            let message = format!("{} is controller {known_as}'s, not {id}'s", data.display());
            return Err(RepairError::Cluster { retryable: false, message });
        }
        (None, Some(id)) => (id, id),
        (None, None) => return Err(RepairError::Whose(data.to_owned())),
    };
    let done = Plan::read_done(data).map_err(io)?.filter(|done| done.new == member);

    let mut seeds = Seeds::new(controllers);
    let cluster = seeds.call("asking for the cluster", Some(CALL), |channel| async move {
        MetadataClient::new(channel).get_cluster(v1::GetClusterRequest {}).await
    });
    let listed = cluster.await.map_err(cluster_error)?.controllers;
    let waits = listed.iter().any(|one| {
        let there = advertise.is_none_or(|address| address == one.address);
        one.id == member && !one.voter && there
    });
    let members: BTreeMap<u64, String> =
        listed.into_iter().map(|one| (one.id, one.address)).collect();
    if let Some(known) = members.get(&member)
        && let Some(answer) = Seeds::new(std::slice::from_ref(known))
            .once(|channel| async move {
                MetadataClient::new(channel).get_controller(v1::GetControllerRequest {}).await
            })
            .await
        && answer.id == member
    {
        let message = format!(
            "controller {member} is alive at {known}: stop it first, or name the one whose data {} is",
            data.display()
        );
        return Err(RepairError::Cluster { retryable: false, message });
    }
    if let Some(done) = done.filter(|_| waits) {
        // It was repaired, and not started since.
        return Ok(Repaired { old: done.member, new: member, kept: data.join(done.kept) });
    }
    // Interrupted after its successor was added; what it replaces may be gone.
    let (prepared_as, disk) = raft::owner(&prepared)?;
    let added = prepared_as.filter(|number| members.contains_key(number));
    let new = match added {
        Some(new) => new,
        None => {
            let successor = Successor { old, member, disk, address: advertise.map(str::to_owned) };
            add_successor(&mut seeds, &members, &prepared, successor).await?
        }
    };
    let plan = Plan::new(data, member, new);
    plan.begin(data).map_err(io)?;
    let kept = plan.finish(data).map_err(io)?;
    Ok(Repaired { old: member, new, kept })
}

/// Who is to take the place of `member`, which is started as `old`.
struct Successor {
    old: u64,
    member: u64,
    disk: [u8; 16],
    address: Option<String>,
}

/// Gives the successor its number, and makes it a learner.
async fn add_successor(
    seeds: &mut Seeds,
    members: &BTreeMap<u64, String>,
    prepared: &Path,
    successor: Successor,
) -> Result<u64, RepairError> {
    let Successor { old, member, disk, address } = successor;
    let Some(address) = address.or_else(|| members.get(&member).cloned()) else {
        let message = format!(
            "controller {member} is no member of the cluster (it was removed or replaced): to have it \
             back as a new one start it with --join and an empty --data, or say where its \
             successor will be with --advertise"
        );
        return Err(RepairError::Cluster { retryable: false, message });
    };
    let disk_id = disk.to_vec();
    let allotted = seeds.call("asking for a number", Some(CALL), |channel| {
        let request = request_for(&disk_id);
        async move { MetadataClient::new(channel).allocate_controller(request).await }
    });
    let new = allotted.await.map_err(cluster_error)?.id;
    raft::assign(prepared, new, old)?;
    let replaces = if members.contains_key(&member) { member } else { 0 };
    let add = v1::AddControllerRequest { address, id: new, disk_id, replaces };
    let added = seeds.call("adding the successor", Some(CALL), |channel| {
        let request = add.clone();
        async move { MetadataClient::new(channel).add_controller(request).await }
    });
    added.await.map_err(cluster_error)?;
    Ok(new)
}

fn request_for(disk_id: &[u8]) -> v1::AllocateControllerRequest {
    let (disk_id, reads_level) = (disk_id.to_vec(), features::NEWEST);
    v1::AllocateControllerRequest { disk_id, reads_level }
}

fn cluster_error(error: ErrorInfo) -> RepairError {
    let retryable = advice(error.code()).retryable;
    RepairError::Cluster { retryable, message: error.message }
}
