//! `streamhouse topic`: create, list, describe, delete, offsets.

mod offsets;

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Serialize;
use streamhouse_client::{Admin, PartitionDescription, Topic, TopicDescription};

use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::exit::Failure;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a topic.
    Create {
        /// Letters, digits, `.`, `_` and `-`; at most 249.
        name: String,
        /// How many partitions it has, for good.
        #[arg(long, value_name = "N")]
        partitions: u32,
        /// A setting of the topic, for good; may be given again for another one. `agent.group`: the agents that serve
        /// it.
        #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
        config: Vec<(String, String)>,
        #[command(flatten)]
        controllers: Controllers,
    },
    /// List all topics.
    List {
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Show a topic's partitions: who writes them, and what they hold.
    Describe {
        /// The topic.
        name: String,
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Delete a topic and all its records.
    Delete {
        /// The topic.
        name: String,
        #[command(flatten)]
        controllers: Controllers,
    },
    /// Show where a topic's partitions begin and end, and which record was the first from a time on.
    Offsets(offsets::Args),
}

#[derive(Debug, Serialize)]
struct Changed {
    topic: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    id: String,
    partitions: u32,
    config: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Described {
    name: String,
    id: String,
    config: BTreeMap<String, String>,
    /// Offsets from log start to high watermark, over all partitions.
    records: u64,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
struct Partition {
    partition: u32,
    /// Session of the agent that holds the write lease; null while none does.
    holder: Option<u64>,
    address: Option<String>,
    lease_epoch: u32,
    log_start: u64,
    high_watermark: u64,
    segments: u64,
    bytes: u64,
    /// Over the last minute.
    records_per_second: f64,
    bytes_per_second: f64,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    match args.action {
        Action::Create { name, partitions, config, controllers } => {
            let config = once_each(config)?;
            let id = admin(&controllers)?.create_topic(&name, partitions, config).await?;
            let changed = Changed { topic: name, id: id.to_string(), partitions: Some(partitions) };
            format.print(&changed, |c| {
                format!("created topic {} ({})", c.topic, output::counted(partitions, "partition"))
            })
        }
        Action::List { controllers } => {
            let topics = admin(&controllers)?.list_topics().await?;
            let topics: Vec<Listed> = topics.into_iter().map(Listed::from).collect();
            format.print(&topics, |topics| human_list(topics))
        }
        Action::Describe { name, controllers } => {
            let described = Described::from(admin(&controllers)?.describe_topic(&name).await?);
            format.print(&described, human_description)
        }
        Action::Delete { name, controllers } => {
            let id = admin(&controllers)?.delete_topic(&name).await?;
            let changed = Changed { topic: name, id: id.to_string(), partitions: None };
            format.print(&changed, |c| format!("deleted topic {}", c.topic))
        }
        Action::Offsets(args) => offsets::run(args, format).await,
    }
}

/// `KEY=VALUE`.
fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("no '=' in it: write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn once_each(settings: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut all = BTreeMap::new();
    for (key, value) in settings {
        if let Some(before) = all.insert(key.clone(), value) {
            return Err(Failure::usage(format!("--config {key} is given twice, as {before} too")));
        }
    }
    Ok(all)
}

fn admin(controllers: &Controllers) -> anyhow::Result<Admin> {
    Ok(Admin::builder()
        .controllers(controllers.resolve()?)
        .connect_timeout(CONNECT_TIMEOUT)
        .build()?)
}

impl From<Topic> for Listed {
    fn from(topic: Topic) -> Self {
        Self {
            name: topic.name,
            id: topic.id.to_string(),
            partitions: topic.partitions,
            config: topic.config,
        }
    }
}

impl From<TopicDescription> for Described {
    fn from(description: TopicDescription) -> Self {
        let partitions: Vec<Partition> =
            description.partitions.into_iter().map(Partition::from).collect();
        let records = partitions.iter().map(|p| p.high_watermark.saturating_sub(p.log_start)).sum();
        let Topic { id, name, config, partitions: _ } = description.topic;
        Self { name, id: id.to_string(), config, records, partitions }
    }
}

impl From<PartitionDescription> for Partition {
    fn from(partition: PartitionDescription) -> Self {
        Self {
            partition: partition.partition,
            holder: partition.holder.map(|session| session.0),
            address: partition.address,
            lease_epoch: partition.lease_epoch,
            log_start: partition.log_start,
            high_watermark: partition.high_watermark,
            segments: partition.segments,
            bytes: partition.bytes,
            records_per_second: partition.last_minute_records as f64 / 60.0,
            bytes_per_second: partition.last_minute_bytes as f64 / 60.0,
        }
    }
}

fn human_list(topics: &[Listed]) -> String {
    if topics.is_empty() {
        return "no topics".to_owned();
    }
    let mut table = output::table(["topic", "partitions", "id"]);
    for topic in topics {
        table.add_row([topic.name.clone(), topic.partitions.to_string(), topic.id.clone()]);
    }
    table.to_string()
}

fn human_description(described: &Described) -> String {
    let mut table = output::table([
        "partition",
        "lease holder",
        "session",
        "epoch",
        "log start",
        "high watermark",
        "segments",
        "size",
        "records/s",
        "bytes/s",
    ]);
    for p in &described.partitions {
        table.add_row([
            p.partition.to_string(),
            output::or_dash(p.address.as_ref()),
            output::or_dash(p.holder),
            p.lease_epoch.to_string(),
            p.log_start.to_string(),
            p.high_watermark.to_string(),
            p.segments.to_string(),
            output::bytes(p.bytes),
            format!("{:.1}", p.records_per_second),
            output::bytes(p.bytes_per_second as u64),
        ]);
    }
    let records = output::counted(described.records, "record");
    let config: String =
        described.config.iter().map(|(key, value)| format!(" · {key}={value}")).collect();
    format!("topic {} · id {} · {records}{config}\n{table}", described.name, described.id)
}
