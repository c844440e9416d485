//! `streamhouse bench consume`: how fast one process reads a topic.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use streamhouse_client::consumer::ConsumerBuilder;
use streamhouse_client::{Consumer, OffsetReset};

use super::figures::rounded;
use super::usage::usage;
use crate::clock;
use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::exit::{Failure, Kind};
use crate::input::size::size;
use crate::output::{self, Format};

/// How long nothing may come while records are missing.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic, read from its beginning.
    #[arg(long)]
    topic: String,
    /// How many records to read. Default: all that are there at the start.
    #[arg(long, value_name = "N")]
    records: Option<u64>,
    /// How many bytes may be fetched and decoded ahead.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = size::<usize>)]
    fetch_memory_bytes: usize,
    /// Keep segments in this folder, and read those from there that it has.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// How large that folder may become.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = size::<u64>)]
    cache_size_bytes: u64,
    #[command(flatten)]
    controllers: Controllers,
}

/// From before the consumer is made until the last record was looked at.
#[derive(Debug, Serialize)]
struct Figures {
    topic: String,
    records: u64,
    /// Of keys and values.
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    mb_per_second: f64,
    get_requests: u64,
    bytes_fetched: u64,
    look_ups: u64,
    cache_hits: u64,
    cache_misses: u64,
    /// Of this process.
    cpu_seconds: f64,
    peak_memory_bytes: u64,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let before = usage()?;
    let started = clock::now();
    let mut consumer = builder(&args)?.build().await?;
    let wanted = match args.records {
        Some(records) => records,
        None => consumer.lag().await?.values().sum(),
    };
    let (records, bytes) = read(&mut consumer, wanted).await?;
    let seconds = started.elapsed().as_secs_f64();
    let (after, metrics) = (usage()?, consumer.metrics());
    consumer.close().await?;
    let figures = Figures {
        topic: args.topic,
        records,
        bytes,
        seconds: rounded(seconds),
        records_per_second: rounded(records as f64 / seconds),
        mb_per_second: rounded(bytes as f64 / 1e6 / seconds),
        get_requests: metrics.get_requests,
        bytes_fetched: metrics.bytes_fetched,
        look_ups: metrics.look_ups,
        cache_hits: metrics.cache_hits,
        cache_misses: metrics.cache_misses,
        cpu_seconds: rounded(after.cpu_seconds - before.cpu_seconds),
        peak_memory_bytes: after.peak_memory_bytes,
    };
    format.print(&figures, human)
}

fn builder(args: &Args) -> anyhow::Result<ConsumerBuilder> {
    let mut builder = Consumer::builder()
        .controllers(args.controllers.resolve()?)
        .connect_timeout(CONNECT_TIMEOUT)
        .topics([args.topic.as_str()])
        .offset_reset(OffsetReset::Earliest)
        .fetch_memory(args.fetch_memory_bytes);
    if let Some(dir) = &args.cache_dir {
        builder = builder.cache_dir(dir).cache_size_bytes(args.cache_size_bytes);
    }
    Ok(builder)
}

/// Looks at key and value of every record, as an application would.
async fn read(consumer: &mut Consumer, wanted: u64) -> anyhow::Result<(u64, u64)> {
    let (mut records, mut bytes) = (0, 0);
    while records < wanted {
        let polled = consumer.poll(PATIENCE).await?;
        if polled.is_empty() {
            let reason = format!("{records} of {wanted} records came, then none for {PATIENCE:?}");
            return Err(Failure::new(Kind::Unavailable, reason).into());
        }
        let left = usize::try_from(wanted - records).unwrap_or(usize::MAX);
        for record in polled.into_iter().take(left) {
            let (key, value) =
                (record.key.map_or(0, |k| k.len()), record.value.map_or(0, |v| v.len()));
            bytes += (key + value) as u64;
            records += 1;
        }
    }
    Ok((records, bytes))
}

fn human(f: &Figures) -> String {
    format!(
        "{} records, {} in {:.2} s: {} records/s, {:.1} MB/s; {} GETs of {}; {:.2} s of processor time, {} of memory",
        output::count(f.records),
        output::bytes(f.bytes),
        f.seconds,
        output::count(f.records_per_second as u64),
        f.mb_per_second,
        output::count(f.get_requests),
        output::bytes(f.bytes_fetched),
        f.cpu_seconds,
        output::bytes(f.peak_memory_bytes),
    )
}
