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
use futures::future::LocalBoxFuture;

use crate::cli::{Cli, Command};
use crate::local::cluster::Logs;
use crate::logs;

/// What the processes of a cluster log unless told otherwise: openraft tells every step it takes, and we what of it matters.
const SERVER_LOG: &str = "info,openraft=error";

/// Threads of a client that read files and decode.
const READERS: usize = 2;

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
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if matches!(cli.command, Command::Consume(_) | Command::Bench(_)) {
        // Each thread that reads or decodes keeps memory of its own for the next time.
        runtime.max_blocking_threads(READERS);
    }
    let runtime = runtime.enable_all().build().context("starting the runtime")?;
    let format = cli.output;
    // Boxed: as one future with all commands in it, it takes the compiler minutes.
    let command: LocalBoxFuture<'_, anyhow::Result<()>> = match cli.command {
        Command::Up(args) => {
            let logs = Logs { level: cli.log.as_deref(), format: cli.log_format };
            Box::pin(up::run(args, format, logs))
        }
        Command::Down(args) => Box::pin(down::run(args, format)),
        Command::Controller(args) => Box::pin(controller::run(*args, format)),
        Command::Cluster(args) => Box::pin(cluster::run(args, format)),
        Command::Agent(args) => Box::pin(agent::run(args)),
        Command::Status(args) => Box::pin(status::run(args, format)),
        Command::Topic(args) => Box::pin(topic::run(args, format)),
        Command::Group(args) => Box::pin(group::run(args, format)),
        Command::Produce(args) => Box::pin(produce::run(args, format)),
        Command::Consume(args) => Box::pin(consume::run(args, format)),
        Command::Bench(args) => bench::run(args, format),
        Command::Segment(args) => Box::pin(segment::run(args, format)),
        Command::Chaos(args) => Box::pin(chaos::run(args, format)),
        Command::Explain(args) => Box::pin(explain::run(args, format)),
    };
    let result = runtime.block_on(command);
    // A thread may still sit in a read of stdin that nobody can end; it must not hold up the exit.
    runtime.shutdown_background();
    result
}
