//! The command line as a whole: what every subcommand takes, and the list of them.

use clap::{Parser, Subcommand};

use crate::commands::{
    agent, bench, chaos, cluster, consume, controller, down, explain, group, produce, segment,
    status, topic, up,
};
use crate::exit;
use crate::logs::LogFormat;
use crate::output::Format;

/// A streaming log whose data lives in object storage.
#[derive(Debug, Parser)]
#[command(name = "streamhouse", version, after_help = exit::HELP)]
pub(crate) struct Cli {
    /// How to print the result.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// What to log to stderr: error, warn, info, debug, trace, or directives like `info,openraft=debug`. Default: info
    /// for the processes of a cluster, warn for everything else.
    #[arg(long, global = true, env = "STREAMHOUSE_LOG", value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// How log lines are written: for people, or one JSON object each.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "STREAMHOUSE_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a local cluster, or whatever of it is not running.
    Up(up::Args),
    /// Stop a local cluster cleanly; its data stays.
    Down(down::Args),
    /// Run one controller.
    Controller(Box<controller::Args>),
    /// Run one agent.
    Agent(agent::Args),
    /// Show controllers, agents and what they do.
    Status(status::Args),
    /// Show, add, remove and replace controllers; hand over their leadership; back up and restore.
    Cluster(cluster::Args),
    /// Create, list, describe and delete topics.
    Topic(topic::Args),
    /// List and describe consumer groups; set their offsets, delete them.
    Group(group::Args),
    /// Write lines as records, from a file or stdin.
    Produce(produce::Args),
    /// Read records, to stdout.
    Consume(consume::Args),
    /// Measure a running cluster.
    Bench(bench::Args),
    /// Look into an object of the store.
    Segment(segment::Args),
    /// Try a cluster under faults: does it keep what it acknowledged?
    Chaos(chaos::Args),
    /// Show which object, slice and batch hold a record, and who wrote them.
    Explain(explain::Args),
}
