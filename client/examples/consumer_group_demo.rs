//! Three members of a group come and go: `consumer_group_demo ADDR TOPIC`. Each change of who reads what is shown as it
//! happens; records are only counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use streamhouse_client::consumer::{ConsumeError, RebalanceListener};
use streamhouse_client::{
    Admin, AdminError, Consumer, GroupDescription, GroupPartition, GroupState, OffsetReset,
    TopicPartition,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "consumer-group-demo";

/// How long the group may take to share its partitions out.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long three members read; what is there may be too much for them, and may become more.
const READING: Duration = Duration::from_secs(20);
/// How often the group is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// What all members have seen.
#[derive(Default)]
struct Seen {
    /// Partitions that they have, as they were told.
    held: AtomicUsize,
    records: AtomicU64,
}

/// Shows what one member is told.
struct Shown(&'static str, Arc<Seen>);

impl Shown {
    fn line(&self, what: &str, partitions: &[TopicPartition]) {
        let names: Vec<_> = partitions.iter().map(ToString::to_string).collect();
        println!("{:>6} {what}: {}", self.0, names.join(" "));
    }

    fn gone(&self, what: &str, partitions: &[TopicPartition]) {
        self.line(what, partitions);
        self.1.held.fetch_sub(partitions.len(), Relaxed);
    }
}

impl RebalanceListener for Shown {
    fn assigned(&self, partitions: &[TopicPartition]) {
        self.line("+ assigned", partitions);
        self.1.held.fetch_add(partitions.len(), Relaxed);
    }
    fn revoked(&self, partitions: &[TopicPartition]) {
        self.gone("- revoked", partitions);
    }
    fn lost(&self, partitions: &[TopicPartition]) {
        self.gone("! lost", partitions);
    }
}

/// Reads until it is told to stop, then leaves the group.
async fn member(
    name: &'static str,
    (controller, topic): (String, String),
    stop: CancellationToken,
    seen: Arc<Seen>,
) -> Result<(), ConsumeError> {
    let mut consumer = Consumer::builder()
        .controllers([controller])
        .group_id(GROUP)
        .client_id(name)
        .topics([topic])
        .offset_reset(OffsetReset::Earliest)
        .auto_commit_interval(Duration::from_millis(500))
        .rebalance_listener(Shown(name, seen.clone()))
        .build()
        .await?;
    while !stop.is_cancelled() {
        // A poll that waits would notice the end late.
        match consumer.poll(Duration::from_millis(100)).await {
            Ok(records) => drop(seen.records.fetch_add(records.len() as u64, Relaxed)),
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
    let seen = Arc::<Seen>::default();
    for name in ["alice", "bob", "carol"] {
        println!("{name} joins");
        let stop = CancellationToken::new();
        let place = (controller.clone(), topic.clone());
        members.spawn(member(name, place, stop.clone(), seen.clone()));
        stops.insert(name, stop);
        let settled = settled(&admin, stops.len(), &seen);
        show(&tokio::time::timeout(PATIENCE, settled).await??);
    }
    if let Ok(read) = tokio::time::timeout(READING, everything_is_read(&admin)).await {
        read?;
    }
    while let Some((name, stop)) = stops.pop_first() {
        println!("{name} leaves");
        stop.cancel();
        members.join_next().await.transpose()?.transpose()?;
        let settled = settled(&admin, stops.len(), &seen);
        show(&tokio::time::timeout(PATIENCE, settled).await??);
    }
    println!("{} records read", seen.records.load(Relaxed));
    Ok(())
}

/// Waits until the group has so many members, which share its partitions and have been told so.
async fn settled(
    admin: &Admin,
    members: usize,
    seen: &Seen,
) -> Result<GroupDescription, AdminError> {
    let wanted = if members == 0 { GroupState::Empty } else { GroupState::Stable };
    loop {
        match admin.describe_group(GROUP).await {
            Ok(group) => {
                let owned = group.partitions.iter().filter(|p| p.owner.is_some()).count();
                let told = seen.held.load(Relaxed) == owned;
                if told && group.members.len() == members && group.summary.state == wanted {
                    return Ok(group);
                }
            }
            // The first one is still on its way.
            Err(AdminError::UnknownGroup { .. }) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the group has committed all that there is.
async fn everything_is_read(admin: &Admin) -> Result<(), AdminError> {
    let unread = |p: &GroupPartition| p.lag().unwrap_or(p.end - p.log_start) > 0;
    while admin.describe_group(GROUP).await?.partitions.iter().any(unread) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn show(group: &GroupDescription) {
    for member in &group.members {
        let owned = group.partitions.iter().filter(|p| p.owner == Some(member.id));
        let owned: Vec<_> = owned.map(|p| p.at.to_string()).collect();
        println!("       {} · {}: {}", group.summary.state, member.client, owned.join(" "));
    }
}
