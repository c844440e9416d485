//! `streamhouse bench`: figures of a running cluster, and how they were measured.

mod acks;
mod audit;
mod consume;
mod etcd;
mod failover;
mod figures;
mod latency;
mod link;
mod load;
mod made;
mod metadata;
mod objects;
mod processes;
mod produce;
mod sessions;
mod usage;
mod workload;

use clap::Subcommand;
use futures::future::LocalBoxFuture;

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
    /// An etcd, by the same load as `bench metadata`, to compare the two.
    Etcd(etcd::Args),
    /// Kill the leading controller or the agents of a local cluster again and again; how long writers wait.
    Failover(failover::Args),
    /// One producer as fast as it may: records, bytes, latencies, CPU time.
    Produce(produce::Args),
    /// A steady rate: from send to acknowledgement, and from send to poll.
    Latency(latency::Args),
    /// One process that reads a topic from its beginning.
    Consume(consume::Args),
}

pub(crate) fn run(args: Args, format: Format) -> LocalBoxFuture<'static, anyhow::Result<()>> {
    match args.action {
        Action::Metadata(args) => Box::pin(metadata::run(args, format)),
        Action::Etcd(args) => Box::pin(etcd::run(args, format)),
        Action::Failover(args) => Box::pin(failover::run(args, format)),
        Action::Produce(args) => Box::pin(produce::run(args, format)),
        Action::Latency(args) => Box::pin(latency::run(args, format)),
        Action::Consume(args) => Box::pin(consume::run(args, format)),
    }
}
