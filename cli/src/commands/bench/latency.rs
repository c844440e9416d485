//! `streamhouse bench latency`: how long a record takes to its acknowledgement and to a consumer's `poll`, at a steady
//! rate.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use streamhouse_client::{Admin, Consumer, OffsetReset, Producer, Record};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::acks::Acks;
use super::figures::{percentile, rounded};
use super::link;
use crate::controllers::CONNECT_TIMEOUT;
use crate::exit::{Failure, Kind};
use crate::output::{self, Format};
use crate::{clock, controllers};

/// Records are sent at every such moment, as many as are due.
const TICK: Duration = Duration::from_millis(1);
/// How long the last records may take to the consumer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The random name of this run and the time of sending, both as hexadecimal text.
const STAMP_BYTES: usize = 32 + 16;

/// Sends records at a steady rate, one producer and one consumer in this process, and takes the time of each record
/// from its `send` to its acknowledgement and to the poll that hands it out.
///
/// The producer has its default options.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A topic that exists. Default: one made for this run and deleted at its end.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Partitions of the topic that is made.
    #[arg(long, value_name = "N", default_value_t = 4, conflicts_with = "topic")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000))]
    partitions: u32,
    /// Records a second.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// How long records are sent: seconds, or a time with its unit.
    #[arg(long, value_name = "TIME", default_value = "20", value_parser = seconds)]
    duration: Duration,
    /// Bytes of a record.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(STAMP_BYTES as i64..=1 << 20))]
    record_size: u32,
    #[command(flatten)]
    controllers: controllers::Controllers,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let bare = text.parse::<u32>().map(|seconds| Duration::from_secs(seconds.into()));
    let time = bare.or_else(|_| humantime::parse_duration(text).map_err(|e| e.to_string()))?;
    if time.is_zero() { Err("must not be zero".to_owned()) } else { Ok(time) }
}

#[derive(Debug, Serialize)]
struct Report {
    rate: u64,
    seconds: f64,
    records: u64,
    /// From `send` to the acknowledgement.
    ack_ms: Percentiles,
    /// From `send` to the poll that hands the record out.
    end_to_end_ms: Percentiles,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Percentiles {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let at = |percent| percentile(&took, percent);
        Self { p50: at(50.0), p99: at(99.0), max: at(100.0) }
    }
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let admin = Admin::builder().controllers(args.controllers.resolve()?).build()?;
    let own = args.topic.is_none();
    let topic = args.topic.clone().unwrap_or_else(link::unique_name);
    if own {
        admin.create_topic(&topic, args.partitions, BTreeMap::new()).await?;
    }
    let measured = measure(&args, &topic).await;
    if own {
        admin.delete_topic(&topic).await?;
    }
    format.print(&measured?, |r| {
        format!(
            "{} records, {} a second for {:.0} s\n\
             acknowledged after p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms\n\
             polled after p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            output::count(r.records),
            output::count(r.rate),
            r.seconds,
            r.ack_ms.p50,
            r.ack_ms.p99,
            r.ack_ms.max,
            r.end_to_end_ms.p50,
            r.end_to_end_ms.p99,
            r.end_to_end_ms.max,
        )
    })
}

async fn measure(args: &Args, topic: &str) -> anyhow::Result<Report> {
    let seeds = args.controllers.resolve()?;
    let count = ((args.rate as f64 * args.duration.as_secs_f64()).round() as u64).max(1);
    let stamp = Stamp { run: link::unique_id(), zero: clock::now() };
    let consumer = Consumer::builder()
        .controllers(seeds.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .topics([topic])
        .offset_reset(OffsetReset::Latest)
        .build()
        .await?;
    let producer =
        Producer::builder().controllers(seeds).connect_timeout(CONNECT_TIMEOUT).build().await?;
    producer.partitions(topic).await?;
    let mut polling = JoinSet::new();
    polling.spawn(poll_all(consumer, stamp.clone(), count));

    let acks = Acks::collect();
    let began = clock::now();
    send(args, topic, count, &producer, &stamp, &acks).await?;
    let seconds = rounded(began.elapsed().as_secs_f64());
    producer.flush().await?;
    let ack_ms = Percentiles::of(acks.end().await?);
    let polled = tokio::time::timeout(PATIENCE, polling.join_next()).await.map_err(|_| {
        let message = format!("not every record was polled within {PATIENCE:?} of the last");
        Failure::new(Kind::Failed, message)
    })?;
    let polled = polled.expect("one task was spawned")??;
    producer.close().await?;
    let end_to_end_ms = Percentiles::of(polled);
    Ok(Report { rate: args.rate, seconds, records: count, ack_ms, end_to_end_ms })
}

async fn send(
    args: &Args,
    topic: &str,
    count: u64,
    producer: &Producer,
    stamp: &Stamp,
    acks: &Acks,
) -> anyhow::Result<()> {
    let began = clock::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut sent = 0;
    while sent < count {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * args.rate as f64) as u64 + 1;
        while sent < due.min(count) {
            let now = clock::now();
            let record = Record::to(topic).value(stamp.value(now, args.record_size as usize));
            acks.watch(now, producer.send(record).await?).await;
            sent += 1;
        }
    }
    Ok(())
}

async fn poll_all(
    mut consumer: Consumer,
    stamp: Stamp,
    count: u64,
) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    while (took.len() as u64) < count {
        let records = consumer.poll(Duration::from_secs(1)).await?;
        let now = clock::now();
        for record in records {
            let sent = record.value.and_then(|value| stamp.read(&value));
            took.extend(sent.map(|sent| now.saturating_duration_since(sent)));
        }
    }
    consumer.close().await?;
    Ok(took)
}

/// When a record was sent, written into it: this process reads it again.
#[derive(Clone, Debug)]
struct Stamp {
    /// Tells this run's records from others'.
    run: String,
    zero: Instant,
}

impl Stamp {
    fn value(&self, sent: Instant, size: usize) -> Vec<u8> {
        let nanos = sent.duration_since(self.zero).as_nanos() as u64;
        let mut value = format!("{}{nanos:016x}", self.run).into_bytes();
        value.resize(size, b'.');
        value
    }

    fn read(&self, value: &[u8]) -> Option<Instant> {
        let text = std::str::from_utf8(value.get(..STAMP_BYTES)?).ok()?;
        let nanos = u64::from_str_radix(text.strip_prefix(&self.run)?, 16).ok()?;
        self.zero.checked_add(Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_others_are_left_alone() {
        let stamp = Stamp { run: link::unique_id(), zero: clock::now() };
        let sent = stamp.zero + Duration::from_nanos(1_234_567_890);
        let value = stamp.value(sent, 100);
        assert_eq!((value.len(), stamp.read(&value)), (100, Some(sent)));
        let other = Stamp { run: link::unique_id(), ..stamp };
        assert_eq!(other.read(&value), None);
        assert_eq!(other.read(b"short"), None);
    }

    #[test]
    fn a_duration_without_a_unit_is_in_seconds() {
        assert_eq!(seconds("20"), Ok(Duration::from_secs(20)));
        assert_eq!(seconds("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(seconds("0").is_err() && seconds("soon").is_err());
    }
}
