//! `streamhouse group reset`: where a group goes on.

use std::collections::BTreeMap;

use serde::Serialize;
use streamhouse_client::TopicPartition;
use streamhouse_client::{Admin, AdminError, Consumer, PartitionDescription, TopicDescription};

use crate::clock;
use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::exit::{Failure, Kind};
use crate::input::when;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The group. It must have no members; if it is not there, it is made.
    group: String,
    /// The topic of which the offsets are set.
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// Set this partition only. Default: all.
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// Where to: earliest, latest, an offset, or the first record that is not older than a date as
    /// 2026-11-21T12:00:00Z, or than -1h, an hour ago. Milliseconds since 1970 are written with a leading @.
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    to: String,
    /// Show what would be set, and set nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    controllers: Controllers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Earliest,
    Latest,
    Offset(u64),
    Time(i64),
}

impl Goal {
    fn parse(text: &str, now_ms: i64) -> Result<Self, Failure> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => match text.parse() {
                Ok(offset) => Ok(Self::Offset(offset)),
                Err(_) => when::parse(text, now_ms).map(Self::Time).map_err(|_| {
                    Failure::usage(format!(
                        "'{text}' is no place to go on: write earliest, latest, an offset, 2026-11-21T12:00:00Z, -1h \
                         for an hour ago, or milliseconds since 1970 as @1795262400000"
                    ))
                }),
            },
        }
    }
}

#[derive(Debug, Serialize)]
struct Reset {
    group: String,
    topic: String,
    dry_run: bool,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
struct Partition {
    partition: u32,
    /// What was committed before.
    before: Option<u64>,
    /// What is committed now, or would be.
    offset: u64,
    /// Records from there to the end.
    lag: u64,
}

pub(super) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let goal = Goal::parse(&args.to, clock::wall_ms())?;
    let controllers = args.controllers.resolve()?;
    let admin = Admin::builder()
        .controllers(controllers.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .build()?;
    let topic = admin.describe_topic(&args.topic).await?;
    let chosen = chosen(&topic, args.partition)?;
    let times = match goal {
        Goal::Time(at) => find(controllers, &args.topic, &chosen, at).await?,
        Goal::Earliest | Goal::Latest | Goal::Offset(_) => BTreeMap::new(),
    };
    let before = before(&admin, &args).await?;
    let partitions: Vec<Partition> = chosen
        .iter()
        .map(|state| {
            let offset = match goal {
                Goal::Earliest => state.log_start,
                Goal::Latest => state.high_watermark,
                Goal::Offset(offset) => within(&args.topic, state, offset),
                Goal::Time(_) => {
                    times.get(&state.partition).copied().unwrap_or(state.high_watermark)
                }
            };
            let before = before.get(&state.partition).copied();
            // What was found by its time may have come after the description.
            let lag = state.high_watermark.saturating_sub(offset);
            Partition { partition: state.partition, before, offset, lag }
        })
        .collect();
    if !args.dry_run {
        let offsets: Vec<_> =
            partitions.iter().map(|p| (topic.topic.id, p.partition, p.offset)).collect();
        admin.reset_offsets(&args.group, &offsets).await?;
    }
    let Args { group, topic, dry_run, .. } = args;
    format.print(&Reset { group, topic, dry_run, partitions }, human)
}

/// An offset outside the log is its nearest end, which is said.
fn within(topic: &str, state: &PartitionDescription, offset: u64) -> u64 {
    let (first, end) = (state.log_start, state.high_watermark);
    let nearest = offset.clamp(first, end);
    if nearest != offset {
        let partition = state.partition;
        output::say(format_args!(
            "{topic}/{partition} reaches from {first} to {end}: {nearest} in place of offset {offset}"
        ));
    }
    nearest
}

fn chosen(
    topic: &TopicDescription,
    partition: Option<u32>,
) -> Result<Vec<&PartitionDescription>, Failure> {
    let wanted = |state: &&PartitionDescription| partition.is_none_or(|p| p == state.partition);
    let chosen: Vec<_> = topic.partitions.iter().filter(wanted).collect();
    match (chosen.is_empty(), partition) {
        (true, Some(partition)) => {
            let (name, last) = (&topic.topic.name, topic.topic.partitions - 1);
            let message = format!("topic {name} has no partition {partition}, only 0 to {last}");
            Err(Failure::new(Kind::Name, message))
        }
        _ => Ok(chosen),
    }
}

/// What the group has committed; one that is not there has nothing. One with members is refused, in a dry run, too.
async fn before(admin: &Admin, args: &Args) -> anyhow::Result<BTreeMap<u32, u64>> {
    let group = match admin.describe_group(&args.group).await {
        Ok(group) => group,
        Err(AdminError::UnknownGroup { .. }) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    if group.summary.members > 0 {
        return Err(AdminError::GroupNotEmpty { name: args.group.clone() }.into());
    }
    let own = group.partitions.into_iter().filter(|p| *p.at.topic == *args.topic);
    Ok(own.filter_map(|p| Some((p.at.partition, p.committed?))).collect())
}

/// Per partition the offset of its first record from that time on.
async fn find(
    controllers: Vec<String>,
    topic: &str,
    partitions: &[&PartitionDescription],
    at: i64,
) -> anyhow::Result<BTreeMap<u32, u64>> {
    let builder = Consumer::builder().controllers(controllers).connect_timeout(CONNECT_TIMEOUT);
    let consumer = builder.build().await?;
    let times = partitions.iter().map(|state| (TopicPartition::new(topic, state.partition), at));
    let found = consumer.offsets_for_times(times).await?;
    consumer.close().await?;
    Ok(found.into_iter().filter_map(|(at, found)| Some((at.partition, found?.offset))).collect())
}

fn human(reset: &Reset) -> String {
    let mut table = output::table(["partition", "before", "offset", "lag"]);
    for p in &reset.partitions {
        table.add_row([
            p.partition.to_string(),
            output::or_dash(p.before),
            p.offset.to_string(),
            p.lag.to_string(),
        ]);
    }
    let what = if reset.dry_run { "would be set to" } else { "was set to" };
    format!("group {} of topic {} {what}\n{table}", reset.group, reset.topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_a_word_an_offset_or_a_time() {
        let now = 1_700_000_000_000;
        for (text, expected) in [
            ("earliest", Goal::Earliest),
            ("latest", Goal::Latest),
            ("42", Goal::Offset(42)),
            ("@42", Goal::Time(42)),
            ("-1h", Goal::Time(now - 3_600_000)),
            ("2023-11-14T22:13:20Z", Goal::Time(now)),
        ] {
            assert_eq!(Goal::parse(text, now).unwrap(), expected, "{text}");
        }
        let error = Goal::parse("soon", now).unwrap_err().to_string();
        assert!(error.starts_with("'soon' is no place to go on: write earliest"), "{error}");
    }
}
