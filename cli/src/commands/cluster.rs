//! `streamhouse cluster`: who the controllers are, how they stand, who leads them, and backups of what they keep.

mod backup;
mod gc;
mod status;
mod verify;

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use streamhouse_client::Admin;

use crate::clock;
use crate::controllers::{self, CONNECT_TIMEOUT, Controllers};
use crate::exit::{Failure, Kind};
use crate::output::Format;

/// How often it is looked whether a new controller has become a voter.
const LOOK: Duration = Duration::from_millis(200);

/// How long one question of `status` may take: it is asked when something does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
const TRY: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show how each controller stands, and how far it is behind the leader.
    Status {
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Add a controller that was started with `controller --join`, and wait until it votes.
    AddController {
        /// Where it listens, HOST:PORT.
        address: String,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Remove a controller. One that leads hands over first.
    RemoveController {
        /// Its id, as `status` shows it.
        id: u64,
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Let a new controller, started with `controller --join`, take the place of another; wait until it votes.
    ReplaceController {
        /// The id of the one that goes; it may be gone for good already.
        id: u64,
        /// Where the new one listens, HOST:PORT.
        address: String,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Hand over the leadership of the controllers.
    TransferLeader {
        /// To whom. Default: the one whose log is furthest.
        id: Option<u64>,
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Compare the controllers with each other, and the segment index with the bucket. Changes nothing.
    Verify(verify::Args),
    /// Copy all metadata, as of now, to an object store.
    Backup(backup::TakeArgs),
    /// Bring a backup back into a new, empty cluster, and what was written after it from the bucket.
    Restore(backup::RestoreArgs),
    /// How the collector of unreachable objects stands, and what its last sweep found; or pause it, or let it go on.
    Gc(gc::Args),
}

#[derive(Debug, clap::Args)]
struct Wait {
    /// How long the new controller may take to catch up; it goes on after that.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

#[derive(Debug, Serialize)]
struct Changed {
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<u64>,
    /// The ids of all voters now.
    voters: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Led {
    leader: u64,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    match args.action {
        Action::Status { controllers } => {
            let admin = Admin::builder()
                .controllers(controllers.resolve()?)
                .operation_timeout(PATIENCE)
                .connect_timeout(CONNECT_TIMEOUT)
                .try_timeout(TRY)
                .build()?;
            status::run(&admin, format).await
        }
        Action::AddController { address, wait, controllers } => {
            let changed = add(&admin(&controllers)?, &address, None, wait.wait).await?;
            format.print(&changed, |c| {
                format!("controller {} joined; voters: {}", c.id, list(&c.voters))
            })
        }
        Action::ReplaceController { id, address, wait, controllers } => {
            let changed = add(&admin(&controllers)?, &address, Some(id), wait.wait).await?;
            format.print(&changed, |c| {
                format!("controller {} took the place of {id}; voters: {}", c.id, list(&c.voters))
            })
        }
        Action::RemoveController { id, controllers } => {
            let admin = admin(&controllers)?;
            admin.remove_controller(id).await?;
            let voters = voters(&admin).await?;
            let changed = Changed { id, address: None, replaced: None, voters };
            format.print(&changed, |c| {
                format!("controller {} was removed; voters: {}", c.id, list(&c.voters))
            })
        }
        Action::TransferLeader { id, controllers } => {
            let leader = admin(&controllers)?.transfer_leader(id).await?;
            format.print(&Led { leader }, |led| format!("controller {} leads", led.leader))
        }
        Action::Verify(args) => verify::run(args, format).await,
        Action::Backup(args) => backup::take(args, format).await,
        Action::Restore(args) => backup::restore(args, format).await,
        Action::Gc(args) => gc::run(args, format).await,
    }
}

fn admin(controllers: &Controllers) -> anyhow::Result<Admin> {
    Ok(Admin::builder()
        .controllers(controllers.resolve()?)
        .connect_timeout(CONNECT_TIMEOUT)
        .build()?)
}

fn list(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

async fn voters(admin: &Admin) -> anyhow::Result<Vec<u64>> {
    let members = admin.cluster().await?.controllers;
    Ok(members.iter().filter(|member| member.voter).map(|member| member.id).collect())
}

async fn add(
    admin: &Admin,
    address: &str,
    replaces: Option<u64>,
    wait: Duration,
) -> anyhow::Result<Changed> {
    let address = controllers::address(address)?;
    let begun = clock::now();
    let id = admin.add_controller(&address, replaces).await?;
    loop {
        let voters = voters(admin).await?;
        let replaced = replaces.is_none_or(|old| !voters.contains(&old));
        if voters.contains(&id) && replaced {
            return Ok(Changed { id, address: Some(address), replaced: replaces, voters });
        }
        if begun.elapsed() > wait {
            let message = format!(
                "controller {id} at {address} has joined as a learner, but has not caught up within \
                 {}; it becomes a voter once it has",
                humantime::format_duration(wait)
            );
            return Err(Failure::new(Kind::Unavailable, message).into());
        }
        tokio::time::sleep(LOOK).await;
    }
}
