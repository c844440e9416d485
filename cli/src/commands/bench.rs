//! `streamhouse bench`: figures of a running cluster, and how they were measured.

mod consume;
mod failover;
mod figures;
mod link;
mod metadata;
mod sessions;
mod usage;

use clap::Subcommand;

use crate::output::Format;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The controllers: commits of objects, group offsets, heartbeats, look-ups.
    Metadata(metadata::Args),
    /// Kill the leading controller of a local cluster again and again; how long writers wait.
    Failover(failover::Args),
    /// One process that reads a topic from its beginning.
    Consume(consume::Args),
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    match args.action {
        Action::Metadata(args) => metadata::run(args, format).await,
        Action::Failover(args) => failover::run(args, format).await,
        Action::Consume(args) => consume::run(args, format).await,
    }
}
