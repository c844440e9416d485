//! `streamhouse bench failover`: `kill -9` of the leading controller of a local cluster, restart, and again; and how
//! long no write succeeded. Or of an agent: see [`agents`].
//!
//! Writers commit group offsets without a pause, each until it is answered. A try that takes longer than `--try` goes
//! to the next controller, so a write that hangs at a dead one costs that much of every gap.

mod agents;
mod load;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde::Serialize;
use streamhouse_client::{Admin, ControllerStatus, Role};
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::figures::{percentile, rounded};
use super::link;
use crate::clock;
use crate::commands::up::DEFAULT_DATA;
use crate::exit::{Failure, Kind};
use crate::local::cluster::{self, Logs};
use crate::local::folder::{Folder, Lock};
use crate::local::record::{Member, Record};
use crate::output::Format;

/// How long the cluster may take to be whole again.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Load between a restart and the next kill.
const SETTLE: Duration = Duration::from_millis(500);
/// What was answered in the moment of the kill is no recovery.
const MOMENT: Duration = Duration::from_millis(50);
/// A controller that is so far behind is not back yet.
const MAX_LAG: u64 = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data folder of a local cluster, started by `up --detach`.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// Whom to kill: the controller that leads, or the agents in turn while a producer writes.
    #[arg(long, value_enum, default_value_t)]
    target: Target,
    /// How often one is killed.
    #[arg(long, value_name = "N", default_value_t = 50)]
    kills: usize,
    /// Controllers: how many writers at once.
    #[arg(long, value_name = "N", default_value_t = 4)]
    writers: usize,
    /// Controllers: how long a writer waits for an answer before it asks another one.
    #[arg(long = "try", value_name = "TIME", default_value = "100ms")]
    #[arg(value_parser = humantime::parse_duration)]
    attempt: Duration,
    /// Agents: how many records a second are written.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(100..=100_000))]
    rate: u32,
}

/// Who is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// The controller that leads.
    #[default]
    Controller,
    /// Each agent in turn.
    Agent,
}

/// The local cluster, for as long as nobody else starts or stops its processes.
struct Local {
    folder: Folder,
    lock: Lock,
    record: Record,
}

#[derive(Debug, Serialize)]
struct Report {
    controllers: u16,
    kills: usize,
    writers: usize,
    try_ms: f64,
    /// Writes that succeeded, over the whole run.
    writes: usize,
    /// The longest time without a successful write, per kill.
    gap_ms: Gaps,
}

#[derive(Debug, Serialize)]
struct Gaps {
    min: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Gaps {
    fn of(sorted: &[Duration]) -> Self {
        let at = |percent| percentile(sorted, percent);
        Self { min: at(0.0), p50: at(50.0), p99: at(99.0), max: at(100.0) }
    }
}

type Successes = Arc<Mutex<Vec<Instant>>>;

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let folder = Folder::find(&args.data)?;
    let none = || Failure::usage(format!("--data {}: no local cluster", args.data.display()));
    let folder = folder.ok_or_else(none)?;
    let lock = folder.lock().await?;
    let record = Record::load(&folder)?.ok_or_else(none)?;
    let local = Local { folder, lock, record };
    match args.target {
        Target::Controller => run_controllers(args, local, format).await,
        Target::Agent => agents::run(args, local, format).await,
    }
}

async fn run_controllers(args: Args, local: Local, format: Format) -> anyhow::Result<()> {
    let Local { folder, lock, mut record } = local;
    let addresses = record.controller_addresses();
    let admin = Admin::builder().controllers(addresses.clone()).build()?;
    whole(&admin, &record).await?;
    let topic = link::unique_name();
    let id = admin.create_topic(&topic, 1, BTreeMap::new()).await?;
    let partition = v1::TopicPartition { topic_id: id.to_bytes().to_vec(), partition: 0 };

    let successes: Successes = Arc::new(Mutex::new(vec![clock::now()]));
    let mut writers = JoinSet::new();
    for n in 0..args.writers {
        let writer = Writer {
            clients: vec![None; addresses.len()],
            addresses: addresses.clone(),
            next: n,
            requester: link::random_id(),
            group: format!("{topic}-{n}"),
            partition: partition.clone(),
            attempt: args.attempt,
            successes: Arc::clone(&successes),
        };
        writers.spawn(writer.run());
    }
    let gaps = kill_leaders(args.kills, &admin, (&folder, &lock), &mut record, &successes).await;
    writers.shutdown().await;
    let mut gaps = gaps?;
    admin.delete_topic(&topic).await?;
    gaps.sort_unstable();
    let report = Report {
        controllers: record.controllers,
        kills: args.kills,
        writers: args.writers,
        try_ms: rounded(args.attempt.as_secs_f64() * 1e3),
        writes: successes.lock().len() - 1,
        gap_ms: Gaps::of(&gaps),
    };
    format.print(&report, |r| {
        format!(
            "{} kills of the leader of {} controllers, {} writes by {} writers\n\
             without a successful write: p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
            r.kills, r.controllers, r.writes, r.writers, r.gap_ms.p50, r.gap_ms.p99, r.gap_ms.max
        )
    })
}

/// The gap of every kill.
async fn kill_leaders(
    kills: usize,
    admin: &Admin,
    (folder, lock): (&Folder, &Lock),
    record: &mut Record,
    successes: &Successes,
) -> anyhow::Result<Vec<Duration>> {
    let mut gaps = Vec::with_capacity(kills);
    for kill in 1..=kills {
        tokio::time::sleep(SETTLE).await;
        let leader = leader(admin).await?;
        let member = Member::Controller(u16::try_from(leader)?);
        let process = record.running(member).context("the leader is not of this folder")?;
        let killed = clock::now();
        process.signal(Signal::SIGKILL);
        recovered(successes, killed).await?;
        tokio::time::sleep(SETTLE).await;
        // They outlive this command, like those that `up --detach` starts.
        cluster::start_missing(folder, lock, record, Logs::default()).await?;
        whole(admin, record).await?;
        let gap = longest(&successes.lock(), killed);
        tracing::info!(kill, leader, ?gap, "killed");
        gaps.push(gap);
    }
    Ok(gaps)
}

async fn controllers(admin: &Admin) -> Vec<ControllerStatus> {
    // Who does not answer is not back yet.
    admin.controllers().await.unwrap_or_default()
}

/// Waits until all controllers answer and have applied what the others have.
async fn whole(admin: &Admin, record: &Record) -> anyhow::Result<()> {
    let deadline = clock::now() + PATIENCE;
    loop {
        let all = controllers(admin).await;
        let applied = || all.iter().map(|controller| controller.applied);
        let lag = applied().max().unwrap_or(0) - applied().min().unwrap_or(0);
        let answer = all.iter().filter(|controller| controller.problem.is_none()).count();
        let leads = all.iter().any(|controller| controller.role == Role::Leader);
        if answer == usize::from(record.controllers) && leads && lag < MAX_LAG {
            return Ok(());
        }
        if clock::now() > deadline {
            return Err(Failure::new(Kind::Unavailable, "the controllers are not all there").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn leader(admin: &Admin) -> anyhow::Result<u64> {
    let deadline = clock::now() + PATIENCE;
    loop {
        let all = controllers(admin).await;
        let leads = all.iter().filter(|controller| controller.role == Role::Leader);
        if let Some(leader) = leads.max_by_key(|controller| controller.term) {
            return Ok(leader.id);
        }
        if clock::now() > deadline {
            return Err(Failure::new(Kind::Unavailable, "no controller leads").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn recovered(successes: &Successes, killed: Instant) -> anyhow::Result<()> {
    while successes.lock().last().is_none_or(|last| *last < killed + MOMENT) {
        if clock::now() > killed + PATIENCE {
            let message = format!("no write succeeded within {PATIENCE:?} of a kill");
            return Err(Failure::new(Kind::Failed, message).into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The longest time between two successes, of those after the last one before `killed`.
fn longest(successes: &[Instant], killed: Instant) -> Duration {
    let from = successes.partition_point(|at| *at <= killed).saturating_sub(1);
    let pairs = successes[from..].windows(2);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

struct Writer {
    addresses: Vec<String>,
    clients: Vec<Option<MetadataClient<Channel>>>,
    next: usize,
    requester: Vec<u8>,
    group: String,
    partition: v1::TopicPartition,
    attempt: Duration,
    successes: Successes,
}

impl Writer {
    async fn run(mut self) {
        const PAUSE: Duration = Duration::from_millis(5);
        for number in 1.. {
            while self.write(number).await.is_err() {
                let at = self.next % self.addresses.len();
                self.clients[at] = None;
                self.next += 1;
                tokio::time::sleep(PAUSE).await;
            }
            // In order: whoever holds the lock takes the time inside.
            let mut successes = self.successes.lock();
            successes.push(clock::now());
        }
    }

    /// RETRY: the same request number until it is answered.
    async fn write(&mut self, number: u64) -> anyhow::Result<()> {
        let at = self.next % self.addresses.len();
        let offset = v1::OffsetCommit {
            partition: Some(self.partition.clone()),
            offset: number,
            metadata: String::new(),
        };
        let request = v1::CommitOffsetsRequest {
            request: Some(v1::RequestId { requester: self.requester.clone(), number }),
            group: self.group.clone(),
            offsets: vec![offset],
            ..v1::CommitOffsetsRequest::default()
        };
        let attempt = async {
            let mut client = match &self.clients[at] {
                Some(client) => client.clone(),
                None => link::metadata(&self.addresses[at]).await?,
            };
            self.clients[at] = Some(client.clone());
            client.commit_offsets(request).await?;
            anyhow::Ok(())
        };
        tokio::time::timeout(self.attempt, attempt).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_of_a_kill_reaches_back_to_the_last_success_before_it() {
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let successes = [at(0), at(10), at(20), at(720), at(725)];
        assert_eq!(longest(&successes, at(25)), Duration::from_millis(700));
        assert_eq!(longest(&successes, at(721)), Duration::from_millis(5));
    }
}
