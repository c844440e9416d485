//! `streamhouse topic offsets`: where a topic's partitions begin and end, and where they were at a time.

use std::collections::BTreeMap;

use serde::Serialize;
use streamhouse_client::consumer::OffsetAndTimestamp;
use streamhouse_client::{Admin, Consumer, TopicPartition};

use crate::clock;
use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::input::when;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic.
    name: String,
    /// Show the first record that is not older than this, too: 2026-11-21T12:00:00Z or 2026-11-21, milliseconds since
    /// 1970 with or without an @ in front, or -1h for an hour ago.
    #[arg(long, value_name = "TIMESTAMP", allow_hyphen_values = true)]
    at: Option<String>,
    #[command(flatten)]
    controllers: Controllers,
}

#[derive(Debug, Serialize)]
struct Offsets {
    topic: String,
    /// The time asked for, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
struct Partition {
    partition: u32,
    /// The first offset that is kept.
    log_start: u64,
    /// One past the last offset.
    high_watermark: u64,
    /// The first record that is not older than the time asked for; null if all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<Option<Found>>,
}

#[derive(Debug, Serialize)]
struct Found {
    offset: u64,
    timestamp: i64,
}

pub(super) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let at = args.at.as_deref().map(|text| when::parse(text, clock::wall_ms())).transpose()?;
    let controllers = args.controllers.resolve()?;
    let admin = Admin::builder()
        .controllers(controllers.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .build()?;
    let topic = admin.describe_topic(&args.name).await?;
    let mut found = match at {
        Some(at) => find(controllers, &args.name, topic.topic.partitions, at).await?,
        None => BTreeMap::new(),
    };
    let partitions = topic.partitions.iter().map(|state| Partition {
        partition: state.partition,
        log_start: state.log_start,
        high_watermark: state.high_watermark,
        found: at.map(|_| {
            let found = found.remove(&TopicPartition::new(&*args.name, state.partition)).flatten();
            found.map(|found| Found { offset: found.offset, timestamp: found.timestamp })
        }),
    });
    let offsets = Offsets { partitions: partitions.collect(), topic: args.name, at };
    format.print(&offsets, human)
}

async fn find(
    controllers: Vec<String>,
    topic: &str,
    partitions: u32,
    at: i64,
) -> anyhow::Result<BTreeMap<TopicPartition, Option<OffsetAndTimestamp>>> {
    let builder = Consumer::builder().controllers(controllers).connect_timeout(CONNECT_TIMEOUT);
    let consumer = builder.build().await?;
    let times = (0..partitions).map(|partition| ((topic, partition), at));
    let found = consumer.offsets_for_times(times).await?;
    consumer.close().await?;
    Ok(found)
}

fn human(offsets: &Offsets) -> String {
    let Some(at) = offsets.at else {
        let mut table = output::table(["partition", "log start", "high watermark"]);
        for p in &offsets.partitions {
            let cells =
                [p.partition.to_string(), p.log_start.to_string(), p.high_watermark.to_string()];
            table.add_row(cells);
        }
        return format!("topic {}\n{table}", offsets.topic);
    };
    let heads = ["partition", "log start", "high watermark", "offset", "timestamp"];
    let mut table = output::table(heads);
    for p in &offsets.partitions {
        let found = p.found.as_ref().and_then(Option::as_ref);
        table.add_row([
            p.partition.to_string(),
            p.log_start.to_string(),
            p.high_watermark.to_string(),
            output::or_dash(found.map(|found| found.offset)),
            output::or_dash(found.map(|found| when::show(found.timestamp))),
        ]);
    }
    format!("topic {} · first records from {}\n{table}", offsets.topic, when::show(at))
}
