//! `streamhouse controller`: the process that keeps the metadata.

mod limits;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use streamhouse_controller::backup::BackupPlan;
use streamhouse_controller::raft::{self, OpenError};
use streamhouse_controller::{
    Controller, ControllerFailure, ControllerOptions, RepairError, StartError,
};

use self::limits::LimitFlags;
use super::listen;
use crate::controllers::{self, Controllers};
use crate::exit::{Failure, Kind};
use crate::input::size::size;
use crate::output::{self, Format};
use crate::signals::StopSignals;

const SHORTEST_BACKUP: Duration = Duration::from_secs(1);
const SHORTEST_SWEEP: Duration = Duration::from_secs(1);
const FEWEST_SNAPSHOT_BYTES: u64 = 1 << 20;

/// Runs until SIGTERM or SIGINT, then hands leadership over and exits with 0.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: Option<Run>,
    // Beside them: a group within an optional group would hide whether that is there.
    #[command(flatten)]
    limits: LimitFlags,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Give up the damaged or lost data of a stopped controller, so that it rejoins as a learner.
    Repair(Repair),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// This controller's number among its peers. Not with --join: the cluster gives it one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(required_unless_present = "join", requires = "peers", conflicts_with = "join")]
    node_id: Option<u64>,
    /// Where to listen, HOST:PORT.
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// Where to answer /healthz, /readyz and /metrics over HTTP, HOST:PORT. Default: nowhere.
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<String>,
    /// How others reach this controller, HOST:PORT. Default: its address among the peers, or where it listens.
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// All controllers of a new cluster, this one included: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT.
    #[arg(long, value_name = "PEERS", conflicts_with = "join", requires = "node_id")]
    peers: Option<String>,
    /// Controllers of a running cluster, HOST:PORT with commas between: this one gets its number from them, and is a
    /// member once `cluster add-controller` or `cluster replace-controller` was called.
    #[arg(long, value_name = "ADDRS")]
    join: Option<String>,
    /// The folder for its data, its alone; made if missing.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Make a snapshot after so many log entries.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..))]
    snapshot_every: u64,
    /// Make one also after so many bytes of log entries. Default: 256 MiB.
    #[arg(long, value_name = "BYTES", default_value_t = raft::SNAPSHOT_EVERY_BYTES)]
    #[arg(value_parser = snapshot_every_bytes, hide_default_value = true)]
    snapshot_every_bytes: u64,
    /// Keep so many log entries behind the snapshot, for controllers that are a little behind.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keep_logs: u64,
    /// Remove a consumer group without members, and its offsets, once nothing has happened in it for so long.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
    group_retention: Duration,
    /// Of these keep no more than so many bytes. Default: 64 MiB.
    #[arg(long, value_name = "BYTES", default_value_t = raft::KEEP_LOG_BYTES, hide_default_value = true)]
    #[arg(value_parser = size::<u64>)]
    keep_log_bytes: u64,
    /// Back the metadata up into the cluster's store once so much time has passed since the newest backup there, as 1h;
    /// whoever leads does. Default: never.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    backup_every: Option<Duration>,
    /// How many backups stay; older ones are removed after a new one was taken.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    #[arg(requires = "backup_every")]
    backup_keep: u64,
    /// How long objects stay that left the index: readers may still be at them.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    gc_grace: Duration,
    /// From one sweep for unreachable objects to the next; one of the agents makes them.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    gc_interval: Duration,
}

/// The old data is kept beside the new. The controller is then started as before: it comes back under a number of its
/// own, catches up as a learner, and takes the old one's place among the voters. In between it does not vote.
#[derive(Debug, clap::Args)]
struct Repair {
    /// The controller's folder. Its process must not be running.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Confirms that what only this disk holds is given up.
    #[arg(long, required = true)]
    rejoin_as_learner: bool,
    /// The number with which the controller is started, if the damage hides it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    node_id: Option<u64>,
    /// How others reach it, HOST:PORT. Default: as before.
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    #[command(flatten)]
    controllers: Controllers,
}

/// What `controller repair --output json` prints.
#[derive(Debug, Serialize)]
struct Repaired {
    /// The id that was given up.
    old: u64,
    /// The id of its successor.
    new: u64,
    /// Where the old data is now.
    kept: PathBuf,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    match (args.action, args.run) {
        (Some(Action::Repair(args)), _) => repair(args, format).await,
        (None, Some(run)) => serve(run, &args.limits).await,
        (None, None) => Err(Failure::usage("say --node-id and --peers, or --join").into()),
    }
}

async fn repair(args: Repair, format: Format) -> anyhow::Result<()> {
    if !args.data.is_dir() {
        let message = format!("--data {} is no folder", args.data.display());
        return Err(Failure::usage(message).into());
    }
    let advertise = args.advertise.as_deref().map(controllers::address).transpose()?;
    let seeds = args.controllers.resolve()?;
    let repaired =
        streamhouse_controller::repair(&args.data, &seeds, args.node_id, advertise.as_deref());
    let repaired = repaired.await.map_err(|error| {
        let kind = match &error {
            RepairError::Whose(_) => Kind::Usage,
            RepairError::Cluster { retryable: true, .. } => Kind::Unavailable,
            RepairError::Open(_) | RepairError::Io { .. } | RepairError::Cluster { .. } => {
                Kind::Failed
            }
        };
        Failure::new(kind, error.to_string())
    })?;
    let repaired = Repaired { old: repaired.old, new: repaired.new, kept: repaired.kept };
    format.print(&repaired, |r| {
        format!(
            "controller {} takes the place of {}: start it as before, and it catches up\n\
             the old data is kept in {}",
            r.new,
            r.old,
            r.kept.display()
        )
    })
}

async fn serve(args: Run, limits: &LimitFlags) -> anyhow::Result<()> {
    let address = listen::address("--listen", &args.listen)?;
    let (mut options, naming) = match (args.node_id, &args.join) {
        (Some(id), _) => {
            let text = args.peers.unwrap_or_default();
            let peers = parse_peers(&text)?;
            if !peers.contains_key(&id) {
                let message = format!("--peers '{text}' does not name --node-id {id}");
                return Err(Failure::usage(message).into());
            }
            let naming = format!("controller {id} on {address}");
            (ControllerOptions::new(id, address, peers, args.data), naming)
        }
        (None, Some(join)) => {
            let join = join.split(',').map(controllers::address).collect::<Result<_, _>>()?;
            let naming = format!("joining controller on {address}");
            (ControllerOptions::joining(join, address, args.data), naming)
        }
        (None, None) => return Err(Failure::usage("say --node-id and --peers, or --join").into()),
    };
    (options.snapshot_every, options.keep_logs) = (args.snapshot_every, args.keep_logs);
    options.group_retention = args.group_retention;
    (options.snapshot_every_bytes, options.keep_log_bytes) =
        (args.snapshot_every_bytes, args.keep_log_bytes);
    options.limits = limits.limits()?;
    options.http_listen = args
        .http_listen
        .as_deref()
        .map(|text| listen::address("--http-listen", text))
        .transpose()?;
    options.backups = backups(args.backup_every, args.backup_keep)?;
    options.gc_grace = args.gc_grace;
    options.gc_interval = gc_interval(args.gc_interval)?;
    options.advertise = args.advertise.as_deref().map(controllers::address).transpose()?;

    // Before anything is started, so that no signal finds it half done.
    let mut stop = StopSignals::listen()?;
    let controller = tokio::select! {
        started = Controller::start(options) => started.map_err(|error| {
            let kind = match &error {
                StartError::Raft(raft::StartError::Open(OpenError::Damaged { .. })) => Kind::Damaged,
                StartError::TooOld(_) | StartError::Raft(raft::StartError::TooOld { .. }) => {
                    Kind::TooOld
                }
                _ => Kind::Failed,
            };
            Failure::new(kind, format!("{naming}: {error}"))
        })?,
        signal = stop.next() => {
            tracing::info!(signal, "stopped before it was started");
            return Ok(());
        }
    };
    let node_id = controller.raft().status().id;
    tracing::info!(node_id, %address, pid = std::process::id(), "controller listens");
    tokio::select! {
        signal = stop.next() => tracing::info!(signal, "stopping"),
        failure = controller.failed() => {
            let kind = match failure {
                ControllerFailure::Refused(raft::Refused::TooOld(..)) => Kind::TooOld,
                ControllerFailure::Refused(_) => Kind::Damaged,
                ControllerFailure::Broken(_) => Kind::Failed,
            };
            controller.shutdown().await;
            return Err(Failure::new(kind, format!("{naming}: {failure}")).into());
        }
    }
    controller.shutdown().await;
    tracing::info!("stopped");
    raft::leave(0)
}

fn backups(every: Option<Duration>, keep: u64) -> Result<Option<BackupPlan>, Failure> {
    let Some(every) = every else { return Ok(None) };
    if every < SHORTEST_BACKUP {
        return Err(Failure::usage("--backup-every is shorter than a second"));
    }
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    Ok(Some(BackupPlan { every, keep }))
}

fn gc_interval(interval: Duration) -> Result<Duration, Failure> {
    if interval < SHORTEST_SWEEP {
        return Err(Failure::usage("--gc-interval is shorter than a second"));
    }
    Ok(interval)
}

/// `1=a:1,2=b:2` as a map.
fn snapshot_every_bytes(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    let enough = (bytes >= FEWEST_SNAPSHOT_BYTES).then_some(bytes);
    enough.ok_or_else(|| format!("is less than {}", output::bytes(FEWEST_SNAPSHOT_BYTES)))
}

fn parse_peers(text: &str) -> Result<BTreeMap<u64, String>, Failure> {
    let mut peers = BTreeMap::new();
    for part in text.split(',') {
        let wrong = |problem: &str| Failure::usage(format!("--peers: '{}' {problem}", part.trim()));
        let (id, address) = part.split_once('=').ok_or_else(|| wrong("is not ID=HOST:PORT"))?;
        let id = id.trim().parse().ok().filter(|id| *id > 0);
        let id = id.ok_or_else(|| wrong("has no number above 0 in front"))?;
        let address = controllers::address(address)?;
        if peers.values().any(|other| *other == address) {
            return Err(wrong("has the address of another peer"));
        }
        if peers.insert(id, address).is_some() {
            return Err(wrong("has the number of another peer"));
        }
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_numbered_addresses() {
        let peers = parse_peers("1=a:7601, 3=c:7603").unwrap();
        let expected = [(1, "a:7601".to_owned()), (3, "c:7603".to_owned())];
        assert_eq!(peers, BTreeMap::from(expected));
    }

    #[test]
    fn a_wrong_peer_is_named() {
        for (wrong, problem) in [
            ("", "is not ID=HOST:PORT"),
            ("a:1", "is not ID=HOST:PORT"),
            ("0=a:1", "no number above 0"),
            ("x=a:1", "no number above 0"),
            ("1=a", "has no port"),
            ("1=a:1,1=b:1", "'1=b:1' has the number of another"),
            ("1=a:1,2=a:1", "'2=a:1' has the address of another"),
        ] {
            let error = parse_peers(wrong).unwrap_err().to_string();
            assert!(error.contains(problem), "{wrong}: {error}");
        }
    }
}
