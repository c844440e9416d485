//! `streamhouse bench produce`: how fast one producer writes, each record acknowledged.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use streamhouse_client::{Admin, Producer, Record};

use super::acks::Acks;
use super::figures::{percentile, rounded};
use super::processes::{CpuSeconds, Processes};
use super::workload::{LineRules, Workload};
use super::{link, objects};
use crate::controllers::CONNECT_TIMEOUT;
use crate::input::key;
use crate::input::size::size;
use crate::output::{self, Format};
use crate::{clock, controllers};

/// One record in so many has its latency taken: each costs a waker and a look at the clock.
const SAMPLE_EVERY: u64 = 64;

/// One producer sends records as fast as it may, one `send` each; the clock stops when the last is acknowledged.
///
/// The input is in memory before the clock starts. Latencies are those of every 64th record, from `send` to its
/// acknowledgement; at full speed they are mostly waiting behind other records. `put_requests` counts the objects that
/// the index names for these records: a PUT each, tries that were repeated aside. `cpu_seconds` has this process and
/// those of the cluster that run on this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic; it must exist.
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// Each line of this file is a record, over and over; gzip is undone. Default: random records.
    #[arg(long, value_name = "FILE", conflicts_with = "record_size")]
    file: Option<PathBuf>,
    /// The file's first line is no record.
    #[arg(long, requires = "file")]
    skip_header: bool,
    /// The key is this field of the line, counting from 1, read as CSV. Default: no key.
    #[arg(long, value_name = "N", requires = "file")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    key_field: Option<u32>,
    /// What sets fields apart: one byte, or \t.
    #[arg(long, value_name = "BYTE", default_value = ",", value_parser = key::delimiter)]
    delimiter: u8,
    /// How many records.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Random records have so many printable bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    record_size: u32,
    /// The producer's `batch_bytes`. Default: the library's.
    #[arg(long, value_name = "BYTES", value_parser = size::<usize>)]
    batch_bytes: Option<usize>,
    /// The producer's `linger`. Default: the library's.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    linger: Option<Duration>,
    #[command(flatten)]
    controllers: controllers::Controllers,
}

#[derive(Debug, Serialize)]
struct Report {
    topic: String,
    records: u64,
    /// Of values.
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    /// In 10^6 bytes.
    mb_per_second: f64,
    ack_p50_ms: f64,
    ack_p99_ms: f64,
    /// Batches sent once more.
    retries: u64,
    /// Objects that the index names for these records: a PUT each, repeated tries aside.
    put_requests: u64,
    /// Of this process and of those of the cluster that run on this machine.
    cpu_seconds: CpuSeconds,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let rules = LineRules {
        skip_header: args.skip_header,
        key_field: args.key_field,
        delimiter: args.delimiter,
    };
    let workload = match &args.file {
        Some(path) => Workload::of_file(path, rules)?,
        None => Workload::random(args.record_size as usize),
    };
    let seeds = args.controllers.resolve()?;
    let admin = Admin::builder().controllers(seeds.clone()).build()?;
    let before = admin.describe_topic(&args.topic).await?;
    let controllers = link::Controllers::find(seeds.clone()).await?;
    let mut builder = Producer::builder().controllers(seeds).connect_timeout(CONNECT_TIMEOUT);
    if let Some(bytes) = args.batch_bytes {
        builder = builder.batch_bytes(bytes);
    }
    if let Some(linger) = args.linger {
        builder = builder.linger(linger);
    }
    let producer = builder.build().await?;
    producer.partitions(&args.topic).await?;
    let processes = Processes::find(&admin).await?;

    let started = clock::now();
    let samples = Acks::collect();
    let bytes = send(&producer, &args, &workload, &samples).await?;
    producer.flush().await?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = processes.since();
    let mut took = samples.end().await?;
    let retries = producer.metrics().retries;
    producer.close().await?;

    took.sort_unstable();
    let report = Report {
        topic: args.topic,
        records: args.records,
        bytes,
        seconds: rounded(seconds),
        records_per_second: (args.records as f64 / seconds).round(),
        mb_per_second: rounded(bytes as f64 / 1e6 / seconds),
        ack_p50_ms: percentile(&took, 50.0),
        ack_p99_ms: percentile(&took, 99.0),
        retries,
        put_requests: objects::committed_since(&admin, &controllers.leader, &before).await?,
        cpu_seconds,
    };
    format.print(&report, human)
}

/// Sends all records; returns how many bytes their values had.
async fn send(
    producer: &Producer,
    args: &Args,
    workload: &Workload,
    samples: &Acks,
) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for n in 0..args.records {
        let item = workload.item(n);
        bytes += item.value.len() as u64;
        let mut record = Record::to(&*args.topic).value(item.value);
        if let Some(key) = item.key {
            record = record.key(key);
        }
        if n % SAMPLE_EVERY == 0 {
            let sent = clock::now();
            samples.watch(sent, producer.send(record).await?).await;
        } else {
            // What fails is told by the flush.
            drop(producer.send(record).await?);
        }
    }
    Ok(bytes)
}

fn human(report: &Report) -> String {
    let mut text = format!(
        "{} records, {} in {:.2} s: {} records/s, {:.1} MB/s\n\
         acknowledged after p50 {:.1} ms, p99 {:.1} ms; {} batches sent again, {} objects",
        output::count(report.records),
        output::bytes(report.bytes),
        report.seconds,
        output::count(report.records_per_second as u64),
        report.mb_per_second,
        report.ack_p50_ms,
        report.ack_p99_ms,
        report.retries,
        output::count(report.put_requests),
    );
    for (process, seconds) in &report.cpu_seconds {
        text.push_str(&format!("\n{process}: {seconds:.2} CPU seconds"));
    }
    text
}
