//! `streamhouse agent`: the process that writes.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use anyhow::Context as _;
use streamhouse_agent::{Agent, AgentOptions};

use super::{listen, stores};
use crate::controllers::{self, Controllers};
use crate::exit::{Failure, Kind};
use crate::input::size::some_size;
use crate::signals::StopSignals;

/// Runs until SIGTERM or SIGINT, then flushes, hands its partitions over and exits with 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    controllers: Controllers,
    /// Where to listen for producers, HOST:PORT.
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// How producers reach this agent, HOST:PORT. Default: where it listens.
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// Where the objects go: file:///path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix. The same for
    /// all agents of a cluster; endpoint, region and keys come from the environment.
    #[arg(long, value_name = "URL")]
    store: String,
    /// The agent group whose partitions it serves.
    #[arg(long, default_value = "default")]
    group: String,
    /// Where it runs, for operators.
    #[arg(long, default_value = "")]
    zone: String,
    /// Make an object when it would be this large. Default: 8 MiB.
    #[arg(long, value_name = "BYTES", value_parser = some_size)]
    flush_bytes: Option<NonZeroUsize>,
    /// The longest that a batch waits for company, like `250ms`. Default: 250 ms on a remote store, 5 ms on a local one.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    flush_interval: Option<Duration>,
    /// How many objects may be uploaded at once. Default: 4.
    #[arg(long, value_name = "N")]
    max_uploads: Option<NonZeroUsize>,
    /// Bytes of batches not yet acknowledged; beyond it producers have to wait. Default: 256 MiB.
    #[arg(long, value_name = "BYTES", value_parser = some_size)]
    buffer_bytes: Option<NonZeroUsize>,
    /// Where to answer /healthz, /readyz and /metrics over HTTP, HOST:PORT. Default: nowhere.
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<String>,
    /// Unreachable objects deleted in a second, while this agent is the one that deletes them. Default: 100.
    #[arg(long, value_name = "N")]
    gc_rate: Option<NonZeroU32>,
}

impl Args {
    fn options(self) -> Result<AgentOptions, Failure> {
        stores::require_shared("--store", &self.store)?;
        let listen = listen::address("--listen", &self.listen)?;
        let advertise = self.advertise.as_deref().map(controllers::address).transpose()?;
        if advertise.is_none() && listen.ip().is_unspecified() {
            return Err(Failure::usage(format!(
                "--listen {listen} is no address to reach the agent at: give --advertise HOST:PORT"
            )));
        }
        let http_listen = self.http_listen.as_deref();
        let http_listen = http_listen.map(|text| listen::address("--http-listen", text));
        let mut options = AgentOptions::new(self.controllers.resolve()?, listen, self.store);
        options.http_listen = http_listen.transpose()?;
        options.gc_rate = self.gc_rate.map_or(options.gc_rate, NonZeroU32::get);
        options.advertise = advertise;
        options.group = self.group;
        options.zone = self.zone;
        options.flush_interval = self.flush_interval;
        options.flush_bytes = self.flush_bytes.map_or(options.flush_bytes, NonZeroUsize::get);
        options.max_uploads = self.max_uploads.map_or(options.max_uploads, NonZeroUsize::get);
        options.buffer_bytes = self.buffer_bytes.map_or(options.buffer_bytes, NonZeroUsize::get);
        Ok(options)
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let options = args.options()?;
    let naming = format!("agent on {}", options.listen);
    // Before anything is started, so that no signal finds it half done.
    let mut stop = StopSignals::listen()?;
    let agent = tokio::select! {
        // Starting waits for a controller that leads; being asked to stop meanwhile is no failure.
        started = Agent::start(options, None) => started.with_context(|| naming.clone())?,
        signal = stop.next() => {
            tracing::info!(signal, "stopped before it was started");
            return Ok(());
        }
    };
    tokio::select! {
        signal = stop.next() => tracing::info!(signal, "stopping"),
        reason = agent.failed() => {
            return Err(Failure::new(Kind::Failed, format!("{naming}: {reason}")).into());
        }
    }
    if let Err(incomplete) = agent.shutdown().await {
        // Its producers were told; what they had not been acknowledged they send elsewhere.
        tracing::warn!(%incomplete, "stopped");
    }
    Ok(())
}
