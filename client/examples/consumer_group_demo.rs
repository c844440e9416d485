//! Three members of a group come and go: `consumer_group_demo ADDR TOPIC`. Each change of who reads what is shown as it
//! happens; records are only counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use streamhouse_client::consumer::{ConsumeError, RebalanceListener};
use streamhouse_client::{Admin, Consumer, OffsetReset, TopicPartition};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "consumer-group-demo";

/// Shows what one member is told.
struct Shown(&'static str);

impl Shown {
    fn line(&self, what: &str, partitions: &[TopicPartition]) {
        let names: Vec<_> = partitions.iter().map(ToString::to_string).collect();
        println!("{:>6} {what}: {}", self.0, names.join(" "));
    }
}

impl RebalanceListener for Shown {
    fn assigned(&self, partitions: &[TopicPartition]) {
        self.line("+ assigned", partitions);
    }
    fn revoked(&self, partitions: &[TopicPartition]) {
        self.line("- revoked", partitions);
    }
    fn lost(&self, partitions: &[TopicPartition]) {
        self.line("! lost", partitions);
    }
}

/// Reads until it is told to stop, then leaves the group.
async fn member(
    name: &'static str,
    (controller, topic): (String, String),
    stop: CancellationToken,
    read: Arc<AtomicU64>,
) -> Result<(), ConsumeError> {
    let mut consumer = Consumer::builder()
        .controllers([controller])
        .group_id(GROUP)
        .client_id(name)
        .topics([topic])
        .offset_reset(OffsetReset::Earliest)
        .rebalance_listener(Shown(name))
        .build()
        .await?;
    while !stop.is_cancelled() {
        // A poll that waits would notice the end late.
        match consumer.poll(Duration::from_millis(100)).await {
            Ok(records) => drop(read.fetch_add(records.len() as u64, Relaxed)),
            Err(error) if error.retryable() => eprintln!("{name}: trying again: {error}"),
            Err(error) => return Err(error),
        }
    }
    consumer.close().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let controller = arguments.next().unwrap_or_else(|| "127.0.0.1:7601".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());
    let admin = Admin::builder().controllers([controller.as_str()]).build()?;

    let (mut members, mut stops) = (JoinSet::new(), BTreeMap::new());
    let read = Arc::new(AtomicU64::new(0));
    for name in ["alice", "bob", "carol"] {
        println!("{name} joins");
        let stop = CancellationToken::new();
        let place = (controller.clone(), topic.clone());
        members.spawn(member(name, place, stop.clone(), read.clone()));
        stops.insert(name, stop);
        tokio::time::sleep(Duration::from_secs(2)).await;
        show(&admin).await?;
    }
    for (name, stop) in stops {
        println!("{name} leaves");
        stop.cancel();
        members.join_next().await.transpose()?.transpose()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        show(&admin).await?;
    }
    println!("{} records read", read.load(Relaxed));
    Ok(())
}

async fn show(admin: &Admin) -> Result<(), Box<dyn std::error::Error>> {
    let group = admin.describe_group(GROUP).await?;
    for member in &group.members {
        let owned = group.partitions.iter().filter(|p| p.owner == Some(member.id));
        let owned: Vec<_> = owned.map(|p| p.at.to_string()).collect();
        println!("       {} · {}: {}", group.summary.state, member.client, owned.join(" "));
    }
    Ok(())
}
