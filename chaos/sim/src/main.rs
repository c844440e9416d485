//! `sim`: whole clusters of StreamHouse in one thread, with a network, clocks, disks and a bucket that a seed drives.
//!
//! | command | what it does |
//! |---|---|
//! | `sim run --seeds A..B` | each seed in a process of its own; failures with the command that repeats them |
//! | `sim one --seed N` | one seed, here |
//! | `sim twice --seeds A..B` | each seed twice with a trace and once without: all must be the same, byte for byte |
//! | `sim selftest` | each planted mistake must be found |

mod chance;
mod children;
mod expected;
mod fault;
mod hosts;
mod invariants;
mod late;
mod links;
mod nemesis;
mod selftest;
mod store;
mod totals;
mod trial;
mod watchdog;

use clap::{Args, Parser, Subcommand};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::alarm;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;
use streamhouse_host::Mistake;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// The trace of a seed, in its folder.
pub(crate) const TRACE: &str = "trace.log";
/// Seconds of faults, if nothing else is asked for: with what comes before and after them, a minute.
const FAULTS_LAST: u64 = 54;

/// What one seed may take, by its processor's time and by the wall's: it ends by a signal then, and is a violation.
const MOST_CPU_SECONDS: u64 = 600;
const MOST_SECONDS: u32 = 1_800;

/// As in the product; most of a simulated minute is spent on small values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "sim", about = "Deterministic simulation of StreamHouse clusters")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run many seeds, each in a process of its own
    Run {
        #[command(flatten)]
        seeds: Seeds,
    },
    /// Run one seed and print its verdict as JSON
    One {
        /// The seed
        #[arg(long)]
        seed: u64,
        /// Seconds of faults
        #[arg(long, default_value_t = FAULTS_LAST)]
        seconds: u64,
        /// Make this mistake
        #[arg(long, value_parser = mistake)]
        plant: Option<Mistake>,
        /// What to trace, as RUST_LOG has it; the trace is in the folder
        #[arg(long)]
        log: Option<String>,
        /// Keep history and trace here
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Run each seed twice and compare traces and histories byte for byte; and once without a trace
    Twice {
        #[command(flatten)]
        seeds: Seeds,
        /// What to trace
        #[arg(long, default_value = "debug")]
        log: String,
    },
    /// Plant each known mistake and see that it is found
    Selftest {
        /// Give up on a mistake after so many seeds
        #[arg(long, default_value_t = 40)]
        most: u64,
        /// Only these
        #[arg(long, value_parser = mistake)]
        only: Vec<Mistake>,
        /// Seconds of faults
        #[arg(long, default_value_t = FAULTS_LAST)]
        seconds: u64,
        /// Processes at once
        #[arg(long, default_value_t = children::cores())]
        jobs: usize,
    },
}

#[derive(Debug, Args)]
struct Seeds {
    /// From the first up to, without it, the last: A..B
    #[arg(long, value_parser = range)]
    seeds: Range<u64>,
    /// Seconds of faults
    #[arg(long, default_value_t = FAULTS_LAST)]
    seconds: u64,
    /// Processes at once
    #[arg(long, default_value_t = children::cores())]
    jobs: usize,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parsed =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed
        .filter(|range| !range.is_empty())
        .ok_or_else(|| format!("{text} is not A..B with A below B"))
}

fn mistake(name: &str) -> Result<Mistake, String> {
    let found = Mistake::ALL.iter().find(|mistake| mistake.name() == name);
    let all = || Mistake::ALL.iter().map(|mistake| mistake.name()).collect::<Vec<_>>().join(", ");
    found.copied().ok_or_else(|| format!("there is no mistake {name}; there are {}", all()))
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run { seeds } => children::run(seeds.seeds, seeds.seconds, seeds.jobs),
        Command::One { seed, seconds, plant, log, folder } => {
            one(seed, Duration::from_secs(seconds), plant, log.as_deref(), folder)
        }
        Command::Twice { seeds, log } => {
            children::twice(seeds.seeds, seeds.seconds, seeds.jobs, &log)
        }
        Command::Selftest { most, only, seconds, jobs } => {
            let only = if only.is_empty() { Mistake::ALL.to_vec() } else { only };
            selftest::run(&only, most, seconds, jobs)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Simulated time.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let elapsed = streamhouse_host::simulated::elapsed();
        write!(writer, "{:>10.6}", elapsed.as_secs_f64())
    }
}

/// Nobody waits for a process for ever, and none outlives whoever started it.
fn limit() -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    setrlimit(Resource::RLIMIT_CPU, MOST_CPU_SECONDS, MOST_CPU_SECONDS)?;
    alarm::set(MOST_SECONDS);
    Ok(())
}

/// Whether nothing was violated.
fn one(
    seed: u64,
    seconds: Duration,
    plant: Option<Mistake>,
    log: Option<&str>,
    folder: Option<PathBuf>,
) -> io::Result<bool> {
    limit()?;
    watchdog::start(seed)?;
    let temporary = tempfile::tempdir()?;
    let folder = folder.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    // What an earlier run left would be a disk to this one.
    if std::fs::read_dir(&folder)?.next().is_some() {
        return Err(io::Error::other(format!("{} is not empty", folder.display())));
    }
    // Paths are relative from here on: no trace says where this is.
    std::env::set_current_dir(&folder)?;
    if let Some(log) = log {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(log))
            .with_timer(SimulatedTime)
            .with_ansi(false)
            .with_writer(Mutex::new(File::create(TRACE)?));
        subscriber.init();
    }
    if let Some(mistake) = plant {
        streamhouse_host::planted::plant(mistake);
    }
    chance::seed(seed);
    // Hash maps draw their keys once a thread.
    let trial = std::thread::Builder::new().name("simulation".to_owned()).stack_size(64 << 20);
    let verdict = trial.spawn(move || trial::run(seed, seconds))?.join();
    let verdict = verdict.unwrap_or_else(|_| trial::Verdict {
        violations: std::iter::once("of the simulation itself".to_owned())
            .chain(std::mem::take(&mut *trial::PANICS.lock()))
            .map(|panic| ("panic".to_owned(), panic))
            .collect(),
        ..trial::Verdict::default()
    });
    println!("{}", verdict.to_json(seed));
    Ok(verdict.violations.is_empty())
}
