//! A member of a consumer group as a process of its own: `group-member CONTROLLERS GROUP TOPIC SESSION_TIMEOUT_MS`. After
//! that may come `--manual-commit` (it commits when it is told to, and then only), `--max-poll N` (records a poll) and
//! `--every MS` (it polls so often).
//!
//! It says on stdout, each line with the machine's monotonic time in microseconds, what it is given, what it reads and
//! what becomes of a commit. It does what it is told on stdin: `hold` (poll no more until it is told to commit), `commit`
//! (what it was handed out, then go on), `close`.
#![allow(clippy::unwrap_used, reason = "it is part of a test, which fails when it does")]

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

use streamhouse_client::consumer::{ConsumeError, RebalanceListener, Records};
use streamhouse_client::{Consumer, OffsetReset, TopicPartition};
use streamhouse_tests::micros;
use tokio::sync::mpsc;

/// A word on stdin is heard after a poll at the latest.
const POLL: Duration = Duration::from_millis(20);

fn say(what: impl Display) {
    say_at(micros(), what);
}

fn say_at(micros: u64, what: impl Display) {
    // A line is written at once: whoever stops the process stops it between two lines.
    io::stdout().lock().write_all(format!("{micros} {what}\n").as_bytes()).unwrap();
}

struct Teller;

fn tell(what: &str, partitions: &[TopicPartition]) {
    let numbers: Vec<_> = partitions.iter().map(|at| at.partition.to_string()).collect();
    say(format!("{what} {}", numbers.join(" ")));
}

impl RebalanceListener for Teller {
    fn assigned(&self, partitions: &[TopicPartition]) {
        tell("assigned", partitions);
    }
    fn revoked(&self, partitions: &[TopicPartition]) {
        tell("revoked", partitions);
    }
    fn lost(&self, partitions: &[TopicPartition]) {
        tell("lost", partitions);
    }
}

/// What one poll handed out, as runs of offsets that follow one another.
fn report(records: Records) {
    let now = micros();
    let mut run: Option<(u32, u64, u64)> = None;
    let tell = |(partition, first, last)| say_at(now, format!("read {partition} {first} {last}"));
    for record in records {
        run = match run {
            Some((partition, first, last))
                if partition == record.partition && last + 1 == record.offset =>
            {
                Some((partition, first, record.offset))
            }
            before => {
                if let Some(run) = before {
                    tell(run);
                }
                Some((record.partition, record.offset, record.offset))
            }
        };
    }
    if let Some(run) = run {
        tell(run);
    }
}

async fn commit(consumer: &mut Consumer) {
    match consumer.commit().await {
        Ok(()) => say("commit taken"),
        Err(ConsumeError::FencedMember { .. }) => say("commit fenced"),
        Err(error) => say(format!("commit failed: {error}")),
    }
}

/// The number that follows an option.
fn number<'a>(
    options: &mut impl Iterator<Item = &'a String>,
) -> Result<u64, Box<dyn std::error::Error>> {
    Ok(options.next().ok_or("a number is missing")?.parse()?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [controllers, group, topic, timeout, options @ ..] = &args[..] else {
        return Err("four arguments at least".into());
    };
    let mut building = Consumer::builder().auto_commit_interval(Duration::from_millis(500));
    let (mut options, mut every) = (options.iter(), Duration::ZERO);
    while let Some(option) = options.next() {
        match option.as_str() {
            "--manual-commit" => building = building.auto_commit(false),
            "--max-poll" => building = building.max_poll_records(number(&mut options)? as usize),
            "--every" => every = Duration::from_millis(number(&mut options)?),
            _ => return Err(format!("unknown option {option}").into()),
        }
    }
    let (words, mut told) = mpsc::channel(16);
    let listen =
        move || io::stdin().lines().map_while(Result::ok).all(|w| words.blocking_send(w).is_ok());
    // It ends with the process: a read of stdin cannot be called off.
    std::thread::Builder::new().name("stdin".to_owned()).spawn(listen)?;
    let mut consumer = building
        .controllers(controllers.split(','))
        .group_id(group.as_str())
        .topics([topic.as_str()])
        .offset_reset(OffsetReset::Earliest)
        .session_timeout(Duration::from_millis(timeout.parse()?))
        .rebalance_listener(Teller)
        .build()
        .await?;
    say("joined");
    loop {
        let word = told.try_recv().unwrap_or_default();
        match word.as_str() {
            "hold" => {
                say("holding");
                while told.recv().await.is_some_and(|word| word != "commit") {}
                commit(&mut consumer).await;
            }
            "commit" => commit(&mut consumer).await,
            "close" => break,
            _ => {}
        }
        match consumer.poll(POLL).await {
            Ok(records) => report(records),
            Err(error) if error.retryable() => say(format!("error {error}")),
            Err(error) => return Err(error.into()),
        }
        if !every.is_zero() {
            // The pace of its reading.
            tokio::time::sleep(every).await;
        }
    }
    say("closing");
    consumer.close().await?;
    say("closed");
    Ok(())
}
