//! `streamhouse produce`: each line of a file or of stdin becomes a record.

mod progress;
mod waiting;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use streamhouse_client::producer::ProduceError;
use streamhouse_client::{Producer, Record};
use tokio::sync::mpsc;

use progress::Progress;
use waiting::Waiting;

use crate::clock;
use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::exit::{self, Failure, Kind};
use crate::input::key::{self, KeyField};
use crate::input::lines::{Block, Blocks, ReadError};
use crate::input::source::Source;
use crate::output::{self, Format};
use crate::signals::StopSignals;

/// How many blocks may be read ahead of sending.
const READ_AHEAD: usize = 4;

/// Each line is a record: its bytes without the newline, nothing else taken off.
///
/// Succeeds only if every record was acknowledged. A line that cannot be sent ends the work; what stands before it is
/// sent and acknowledged all the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic.
    topic: String,
    /// Read this file instead of stdin; gzip is undone.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The first line is no record.
    #[arg(long)]
    skip_header: bool,
    /// The key is this field of the line, counting from 1, read as CSV.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    key_field: Option<u32>,
    /// What sets fields apart: one byte, or \t.
    #[arg(long, value_name = "BYTE", default_value = ",", value_parser = key::delimiter)]
    delimiter: u8,
    /// Send every record to this partition.
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// Take over from whoever produces under this name; it may send nothing more.
    #[arg(long, value_name = "NAME")]
    producer_name: Option<String>,
    /// Do without what keeps a record from being written twice when a batch is sent again.
    #[arg(long, conflicts_with = "producer_name")]
    no_idempotence: bool,
    #[command(flatten)]
    controllers: Controllers,
}

/// What `produce --output json` prints.
#[derive(Debug, Serialize)]
struct Report {
    topic: String,
    records: u64,
    /// Of values, as read.
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    bytes_per_second: f64,
    acknowledged: u64,
    failed: u64,
    /// Batches sent once more.
    retries: u64,
    /// Of these, the ones whose earlier try may have been written.
    ambiguous_retries: u64,
    /// Records in those: how many may stand in the log twice, at most.
    ambiguous_records: u64,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let source = Source::open(args.file.as_deref())?;
    let mut builder = Producer::builder()
        .controllers(args.controllers.resolve()?)
        .connect_timeout(CONNECT_TIMEOUT)
        .enable_idempotence(!args.no_idempotence);
    if let Some(name) = &args.producer_name {
        builder = builder.producer_name(name);
    }
    let producer = builder.build().await.map_err(unreachable)?;
    let progress = Progress::start(&source, format);
    let waiting = Waiting::new(&producer, &args, &progress)?;
    // Even without any input, a topic that is not there is an error.
    let partitions = waiting.during_look_up(producer.partitions(&args.topic)).await;
    let partitions = waiting.explain(partitions.map_err(anyhow::Error::from))?;
    if let Some(partition) = args.partition.filter(|partition| *partition >= partitions) {
        let message = format!(
            "topic {} has no partition {partition}, only 0 to {}",
            args.topic,
            partitions - 1
        );
        return Err(Failure::new(Kind::Name, message).into());
    }

    let started = clock::now();
    let mut sender = Sender::new(&producer, &args);
    let mut stop = StopSignals::listen()?;
    let sending = waiting.during(send_all(&mut sender, source, &progress, &mut stop));
    let sent = waiting.explain(sending.await);
    // Interrupted once, it waits for what is on its way; interrupted again, it does not.
    let flushed = waiting.during(async {
        tokio::select! {
            flushed = producer.close() => flushed.map_err(anyhow::Error::from),
            signal = interruption(&mut stop, sent.is_err()) => {
                Err(anyhow::anyhow!("interrupted by {signal} before all records were acknowledged"))
            }
        }
    });
    let flushed = waiting.explain(flushed.await);
    progress.end();
    let report = sender.report(started.elapsed());

    let printed =
        if sent.is_ok() || report.records > 0 { format.print(&report, human) } else { Ok(()) };
    outcome(sent, flushed, printed, &report)
}

/// No topic was asked for yet.
fn unreachable(error: ProduceError) -> anyhow::Error {
    match error {
        ProduceError::Metadata { error, .. } => error.into(),
        other => other.into(),
    }
}

async fn interruption(stop: &mut StopSignals, once_before: bool) -> &'static str {
    if once_before { stop.again().await } else { stop.next().await }
}

/// What became of the records says how the command ends; only if all went well, whether the report could be printed.
fn outcome(
    sent: anyhow::Result<()>,
    flushed: anyhow::Result<()>,
    printed: anyhow::Result<()>,
    report: &Report,
) -> anyhow::Result<()> {
    match (sent, flushed) {
        (Ok(()), Ok(())) => printed,
        (Ok(()), Err(error)) => Err(error),
        (Err(error), _) if report.records > 0 => {
            let said = format!(
                "{}; of {} records sent {} were acknowledged",
                exit::chain(&error),
                report.records,
                report.acknowledged
            );
            Err(error.context(said))
        }
        (Err(error), _) => Err(error),
    }
}

/// Reads on a thread of its own, so that decompression and sending overlap; stops early when asked to.
async fn send_all(
    sender: &mut Sender<'_>,
    source: Source,
    progress: &Progress,
    stop: &mut StopSignals,
) -> anyhow::Result<()> {
    let (blocks, mut read) = mpsc::channel(READ_AHEAD);
    let reading = tokio::task::spawn_blocking(move || read_all(source, &blocks));
    loop {
        let block: Block = tokio::select! {
            block = read.recv() => match block {
                Some(block) => block,
                None => break,
            },
            signal = stop.next() => {
                anyhow::bail!("interrupted by {signal} after line {}", sender.line);
            }
        };
        tokio::select! {
            sent = sender.send(&block) => sent?,
            signal = stop.next() => {
                anyhow::bail!("interrupted by {signal} after line {}", sender.line);
            }
        }
        progress.at(sender.records);
    }
    reading.await.context("the reading thread")??;
    Ok(())
}

fn read_all(source: Source, blocks: &mpsc::Sender<Block>) -> Result<(), ReadError> {
    let mut lines = Blocks::new(source.reader);
    while let Some(block) = lines.next()? {
        if blocks.blocking_send(block).is_err() {
            break;
        }
    }
    Ok(())
}

/// Makes records of lines and counts them.
struct Sender<'a> {
    producer: &'a Producer,
    topic: &'a str,
    partition: Option<u32>,
    key: Option<KeyField>,
    skip_line: bool,
    /// Lines done with, the header included.
    line: u64,
    records: u64,
    bytes: u64,
}

impl<'a> Sender<'a> {
    fn new(producer: &'a Producer, args: &'a Args) -> Self {
        Self {
            producer,
            topic: &args.topic,
            partition: args.partition,
            key: args.key_field.map(|number| KeyField::new(number as usize, args.delimiter)),
            skip_line: args.skip_header,
            line: 0,
            records: 0,
            bytes: 0,
        }
    }

    async fn send(&mut self, block: &Block) -> anyhow::Result<()> {
        for line in block.lines() {
            let number = self.line + 1;
            if !std::mem::take(&mut self.skip_line) {
                self.send_line(line).await.with_context(|| format!("line {number}"))?;
                self.records += 1;
                self.bytes += line.len() as u64;
            }
            self.line = number;
        }
        Ok(())
    }

    async fn send_line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let mut record = Record::to(self.topic).value(line);
        if let Some(key) = &mut self.key {
            record = record.key(key.of(line)?);
        }
        if let Some(partition) = self.partition {
            record = record.partition(partition);
        }
        // Failures are counted by the producer and told by its flush: no need to keep a delivery per record.
        drop(self.producer.send(record).await?);
        Ok(())
    }

    fn report(&self, took: Duration) -> Report {
        let metrics = self.producer.metrics();
        let seconds = took.as_secs_f64();
        Report {
            topic: self.topic.to_owned(),
            records: self.records,
            bytes: self.bytes,
            seconds,
            records_per_second: self.records as f64 / seconds,
            bytes_per_second: self.bytes as f64 / seconds,
            acknowledged: metrics.records,
            failed: self.records.saturating_sub(metrics.records),
            retries: metrics.retries,
            ambiguous_retries: metrics.ambiguous_retries,
            ambiguous_records: metrics.ambiguous_records,
        }
    }
}

fn human(report: &Report) -> String {
    if report.failed > 0 {
        return format!(
            "{} of {} acknowledged, {} not, in {:.2} s",
            output::count(report.acknowledged),
            output::counted(report.records, "record"),
            output::count(report.failed),
            report.seconds,
        );
    }
    let mut text = format!(
        "{}, {} in {:.2} s: {} records/s, {}/s",
        output::counted(report.records, "record"),
        output::bytes(report.bytes),
        report.seconds,
        output::count(report.records_per_second as u64),
        output::bytes(report.bytes_per_second as u64),
    );
    if report.retries > 0 {
        text.push_str(&format!("; {} batches were sent again", report.retries));
    }
    if report.ambiguous_records > 0 {
        let records = report.ambiguous_records;
        text.push_str(&format!(", at most {records} records may stand twice"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::StdoutClosed;

    #[test]
    fn a_closed_stdout_does_not_hide_records_that_were_not_acknowledged() {
        let report = Report {
            topic: "t".to_owned(),
            records: 5,
            bytes: 0,
            seconds: 1.0,
            records_per_second: 5.0,
            bytes_per_second: 0.0,
            acknowledged: 3,
            failed: 2,
            retries: 0,
            ambiguous_retries: 0,
            ambiguous_records: 0,
        };
        let closed = || Err(StdoutClosed.into());
        let lost = || Err(anyhow::anyhow!("2 records were not acknowledged"));
        assert!(outcome(Ok(()), Ok(()), closed(), &report).unwrap_err().is::<StdoutClosed>());
        assert!(!outcome(Ok(()), lost(), closed(), &report).unwrap_err().is::<StdoutClosed>());
        let error = outcome(lost(), Ok(()), closed(), &report).unwrap_err();
        assert!(error.to_string().contains("of 5 records sent 3 were acknowledged"), "{error}");
    }
}
