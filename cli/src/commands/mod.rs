//! The subcommands, and what starts them all: logs and the runtime.

pub(crate) mod agent;
pub(crate) mod bench;
pub(crate) mod chaos;
pub(crate) mod cluster;
pub(crate) mod consume;
pub(crate) mod controller;
pub(crate) mod down;
pub(crate) mod explain;
pub(crate) mod group;
mod listen;
pub(crate) mod produce;
pub(crate) mod segment;
pub(crate) mod status;
mod stores;
pub(crate) mod topic;
pub(crate) mod up;

use anyhow::Context as _;

use crate::cli::{Cli, Command};
use crate::local::cluster::Logs;
use crate::logs;

/// What the processes of a cluster log unless told otherwise: openraft tells every step it takes, and we what of it matters.
const SERVER_LOG: &str = "info,openraft=error";

/// Runs the command to its end.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    let serves = matches!(cli.command, Command::Controller(_) | Command::Agent(_));
    let default = match cli.command {
        _ if serves => SERVER_LOG,
        // Its clients' troubles are the point of it.
        Command::Chaos(_) => "off",
        _ => "warn",
    };
    logs::start(cli.log.as_deref(), default, cli.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let format = cli.output;
    let result = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => {
                let logs = Logs { level: cli.log.as_deref(), format: cli.log_format };
                up::run(args, format, logs).await
            }
            Command::Down(args) => down::run(args, format).await,
            Command::Controller(args) => controller::run(*args, format).await,
            Command::Cluster(args) => cluster::run(args, format).await,
            Command::Agent(args) => agent::run(args).await,
            Command::Status(args) => status::run(args, format).await,
            Command::Topic(args) => topic::run(args, format).await,
            Command::Group(args) => group::run(args, format).await,
            Command::Produce(args) => produce::run(args, format).await,
            Command::Consume(args) => consume::run(args, format).await,
            Command::Bench(args) => bench::run(args, format).await,
            Command::Segment(args) => segment::run(args, format).await,
            Command::Chaos(args) => chaos::run(args, format).await,
            Command::Explain(args) => explain::run(args, format).await,
        }
    });
    // A thread may still sit in a read of stdin that nobody can end; it must not hold up the exit.
    runtime.shutdown_background();
    result
}
