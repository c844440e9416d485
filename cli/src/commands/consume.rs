//! `streamhouse consume`: records, to stdout.

mod position;
mod print;
mod rebalances;

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;
use serde::Serialize;
use streamhouse_client::{Admin, AdminError, Consumer, OffsetReset};

use crate::clock;
use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::signals::StopSignals;
use position::Positions;
use print::{Printer, RecordFormat};
use rebalances::Teller;

/// How long one poll waits; a signal ends it earlier.
const POLL: Duration = Duration::from_secs(1);

/// How often a group's offsets are committed while records keep coming.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// Prints records until interrupted, which is no failure, or until one of the limits below.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic.
    topic: String,
    /// Join this group, which shares the partitions out among its members; go on where it stopped, and commit to it what
    /// was written out. With --partition: read that one, which is refused while the group has members, for only they commit.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Which instance of the group's members this is: started again in time, it gets what it had.
    #[arg(long, value_name = "ID", requires = "group", conflicts_with = "partition")]
    instance: Option<String>,
    /// How long the group waits for a member that says nothing.
    #[arg(long, value_name = "TIME", requires = "group", default_value = "10s", value_parser = humantime::parse_duration)]
    session_timeout: Duration,
    /// Tell on stderr which partitions come and go.
    #[arg(long, requires = "group")]
    show_rebalances: bool,
    /// Where to begin where the group has no offset, or without a group.
    #[arg(long, value_enum, default_value_t = From::Earliest)]
    from: From,
    /// Read this partition only. Default: all.
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// Stop after this many records.
    #[arg(long, value_name = "N")]
    max_records: Option<u64>,
    /// How to print a record: its value and a newline, or a line of JSON.
    #[arg(long, value_enum, default_value_t = RecordFormat::Value)]
    format: RecordFormat,
    /// Stop at the high watermarks that the partitions have now.
    #[arg(long)]
    to_end: bool,
    #[command(flatten)]
    controllers: Controllers,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    Earliest,
    Latest,
}

/// What is said on stderr at the end.
#[derive(Debug, Serialize)]
struct Summary {
    topic: String,
    records: u64,
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let session = tokio::select! {
        session = Session::open(&args) => session?,
        _ = signals.next() => return Ok(()),
    };
    session.run(&args, format, &mut signals).await
}

/// One consumption from its first poll to its end.
struct Session {
    consumer: Consumer,
    positions: Positions,
    printer: Printer,
    commits: bool,
    /// A member's commits go by themselves, besides the last one.
    member: bool,
    last_commit: Instant,
}

impl Session {
    async fn open(args: &Args) -> anyhow::Result<Self> {
        let controllers = args.controllers.resolve()?;
        if args.group.as_deref() == Some("") {
            return Err(Failure::usage("--group is empty").into());
        }
        let admin = Admin::builder()
            .controllers(controllers.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        if let (Some(group), Some(_)) = (&args.group, args.partition) {
            without_members(&admin, group).await?;
        }
        let reset = match args.from {
            From::Earliest => OffsetReset::Earliest,
            From::Latest => OffsetReset::Latest,
        };
        let mut builder = Consumer::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .controllers(controllers)
            .offset_reset(reset)
            // As a member: what goes to another one is committed first.
            .auto_commit(args.group.is_some() && args.partition.is_none())
            .auto_commit_interval(COMMIT_EVERY);
        builder = match args.partition {
            Some(partition) => builder.assign([(args.topic.as_str(), partition)]),
            None => builder.topics([args.topic.as_str()]),
        };
        if let Some(group) = &args.group {
            builder = builder.group_id(group.as_str()).client_id("streamhouse consume");
            builder = builder.session_timeout(args.session_timeout);
        }
        if let Some(instance) = &args.instance {
            builder = builder.group_instance_id(instance.as_str());
        }
        if args.show_rebalances {
            builder = builder.rebalance_listener(Teller);
        }
        let consumer = builder.build().await?;
        let mut positions = Positions::default();
        for (at, next) in consumer.positions() {
            positions.passed(at.partition, next);
        }
        if args.to_end {
            let topic = admin.describe_topic(&args.topic).await?;
            positions.end_at(topic.partitions.iter().map(|p| (p.partition, p.high_watermark)));
        }
        Ok(Self {
            consumer,
            positions,
            printer: Printer::new(args.format)?,
            commits: args.group.is_some(),
            member: args.group.is_some() && args.partition.is_none(),
            last_commit: clock::now(),
        })
    }

    async fn run(
        mut self,
        args: &Args,
        format: Format,
        signals: &mut StopSignals,
    ) -> anyhow::Result<()> {
        let started = clock::now();
        let read = self.read(args, signals).await;
        // What was written out is committed even if reading ended with an error; what was not is not.
        let committed = tokio::select! {
            committed = self.commit() => committed,
            signal = signals.again() => {
                bail!("interrupted by {signal} before the offsets were committed")
            }
        };
        let summary = self.summary(args, started.elapsed());
        // However it ended: the others of its group need not wait for its silence.
        let closed = tokio::select! {
            closed = self.consumer.close() => closed,
            signal = signals.again() => bail!("interrupted by {signal} before the group was left"),
        };
        read?;
        committed?;
        closed?;
        tell(&summary, format);
        Ok(())
    }

    async fn read(&mut self, args: &Args, signals: &mut StopSignals) -> anyhow::Result<()> {
        let limit = args.max_records.unwrap_or(u64::MAX);
        while self.printer.records < limit && !self.is_done() {
            let records = tokio::select! {
                records = self.consumer.poll(POLL) => records?,
                _ = signals.next() => return Ok(()),
            };
            // Partitions come and go; what went was committed.
            let assigned = self.consumer.assignment();
            self.positions.keep(&assigned.iter().map(|at| at.partition).collect());
            for record in records {
                if self.printer.records == limit {
                    break;
                }
                if self.positions.take(record.partition, record.offset) {
                    self.printer.print(&record)?;
                }
                if self.printer.is_full() {
                    self.flush()?;
                }
            }
            if self.printer.records < limit {
                // Offsets without a record count as read, too.
                for (at, next) in self.consumer.positions() {
                    self.positions.passed(at.partition, next);
                }
            }
            self.flush()?;
            if !self.member && self.last_commit.elapsed() > COMMIT_EVERY {
                tokio::select! {
                    committed = self.commit() => committed?,
                    // The last commit makes this one good.
                    _ = signals.next() => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// A member that has no partitions yet may get some.
    fn is_done(&self) -> bool {
        self.positions.all_ended() && !(self.member && self.positions.is_empty())
    }

    /// Only what the system took counts as printed for good.
    fn flush(&mut self) -> anyhow::Result<()> {
        self.printer.flush()?;
        self.positions.flushed();
        Ok(())
    }

    /// Commits what was written out, nothing further.
    async fn commit(&mut self) -> anyhow::Result<()> {
        if !self.commits {
            return Ok(());
        }
        let mut offsets = Vec::new();
        for (at, position) in self.consumer.positions() {
            // Of a partition without a word nothing was printed.
            let Some(written) = self.positions.written(at.partition) else { continue };
            if written != position {
                self.consumer.seek(&at.topic, at.partition, written)?;
            }
            offsets.push((at, written));
        }
        self.consumer.commit_offsets(offsets).await?;
        self.last_commit = clock::now();
        Ok(())
    }

    fn summary(&self, args: &Args, took: Duration) -> Summary {
        let seconds = took.as_secs_f64();
        Summary {
            topic: args.topic.clone(),
            records: self.printer.records,
            bytes: self.printer.bytes,
            seconds,
            records_per_second: self.printer.records as f64 / seconds,
        }
    }
}

/// Of a group that has members only they commit; better said before anything is read.
async fn without_members(admin: &Admin, group: &str) -> anyhow::Result<()> {
    let members = match admin.describe_group(group).await {
        Ok(group) => group.summary.members,
        // Its first commit makes it.
        Err(AdminError::UnknownGroup { .. }) => 0,
        Err(error) => return Err(error.into()),
    };
    if members > 0 {
        let members = output::counted(members, "member");
        let message = format!("group '{group}' has {members}: leave --partition out, or --group");
        return Err(Failure::usage(message).into());
    }
    Ok(())
}

/// On stderr: stdout is for records.
fn tell(summary: &Summary, format: Format) {
    let text = match format {
        Format::Json => serde_json::to_string(summary).unwrap_or_default(),
        Format::Human if std::io::stderr().is_terminal() => format!(
            "{}, {} in {:.2} s: {} records/s",
            output::counted(summary.records, "record"),
            output::bytes(summary.bytes),
            summary.seconds,
            output::count(summary.records_per_second as u64)
        ),
        Format::Human => return,
    };
    // Nobody is there to be told if stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}
