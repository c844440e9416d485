//! `streamhouse cluster gc`: the collector of unreachable objects, seen and told from outside.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use streamhouse_agent::collector::{Console, DryRun, Standing, SweepError, SweepReport};

use crate::controllers::Controllers;
use crate::exit::{Failure, Kind};
use crate::output::{self, Format};

/// For one question to the controllers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys of orphans, for people; programs get up to 1,000.
const LINES: usize = 20;

/// Without a flag: how it stands, and what the last sweep found.
#[derive(Debug, clap::Args)]
#[group(id = "what", multiple = false)]
pub(crate) struct Args {
    /// Look for what would be deleted now, from here, and delete nothing.
    #[arg(long, group = "what")]
    dry_run: bool,
    /// Delete nothing from now on.
    #[arg(long, group = "what")]
    pause: bool,
    /// Go on after a pause.
    #[arg(long, group = "what")]
    resume: bool,
    /// Confirm that nothing of older generations than this one, the current one, runs any more: their unreachable
    /// objects may be deleted.
    #[arg(long, value_name = "N", group = "what")]
    confirm_generation: Option<u32>,
    #[command(flatten)]
    controllers: Controllers,
}

/// What `cluster gc --output json` prints.
#[derive(Debug, Serialize)]
struct Shown {
    cluster: String,
    generation: String,
    store: Option<String>,
    paused: bool,
    /// Objects of older generations may be deleted.
    older_generations_confirmed: bool,
    /// Session and address of the agent that collects; null while none does.
    collector: Option<Holder>,
    grace_ms: u64,
    interval_ms: u64,
    /// Null before the first sweep.
    last_sweep: Option<SweepReport>,
}

#[derive(Debug, Serialize)]
struct Holder {
    session: u64,
    address: String,
}

pub(super) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let controllers = args.controllers.resolve()?;
    let console = Console::new(&controllers, PATIENCE)?;
    if args.dry_run {
        let found = console.dry_run().await.map_err(|error| failure(&error))?;
        return format.print(&found, human_dry_run);
    }
    let told = match (args.pause, args.resume, args.confirm_generation) {
        (true, ..) => console.pause(true).await,
        (_, true, _) => console.pause(false).await,
        (.., Some(counter)) => console.confirm_generation(counter).await,
        (false, false, None) => Ok(()),
    };
    told.map_err(|error| failure(&error))?;
    let standing = console.standing().await.map_err(|error| failure(&error))?;
    format.print(&Shown::from(standing), human)
}

fn failure(error: &SweepError) -> Failure {
    let kind = match error {
        error if error.is_refusal() => Kind::Usage,
        error if error.can_retry() => Kind::Unavailable,
        SweepError::Open(_) | SweepError::Store(_) | SweepError::Cluster(_) => Kind::Failed,
    };
    Failure::new(kind, error.to_string())
}

impl From<Standing> for Shown {
    fn from(standing: Standing) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            cluster: standing.cluster.to_string(),
            generation: standing.generation.to_string(),
            store: standing.store_url,
            paused: standing.paused,
            older_generations_confirmed: standing.older_confirmed,
            collector: standing.holder.map(|(session, address)| Holder { session, address }),
            grace_ms: millis(standing.grace),
            interval_ms: millis(standing.interval),
            last_sweep: standing.last,
        }
    }
}

fn human(shown: &Shown) -> String {
    let time = |millis| humantime::format_duration(Duration::from_millis(millis));
    let mut text = format!(
        "cluster {}, generation {}\ncollector: {}{}\nevery {}; objects stay for {} after they left the index\n",
        shown.cluster,
        shown.generation,
        shown.collector.as_ref().map_or("no agent".to_owned(), |holder| format!(
            "agent {} (session {})",
            holder.address, holder.session
        )),
        if shown.paused { ", paused: nothing is deleted" } else { "" },
        time(shown.interval_ms),
        time(shown.grace_ms),
    );
    match &shown.last_sweep {
        None => text.push_str("no sweep has ended yet\n"),
        Some(report) => {
            let ended = UNIX_EPOCH + Duration::from_millis(report.finished_ms);
            let ended = humantime::format_rfc3339_seconds(ended);
            let _ = writeln!(text, "last sweep, ended {ended}:");
            sweep(&mut text, report);
        }
    }
    text
}

fn human_dry_run(found: &DryRun) -> String {
    let mut text = "now, and nothing was deleted:\n".to_owned();
    sweep(&mut text, &found.report);
    for key in found.keys.iter().take(LINES) {
        let _ = writeln!(text, "  {key}");
    }
    if found.keys.len() > LINES {
        let _ = writeln!(text, "  … and {} more: see --output json", found.keys.len() - LINES);
    }
    text
}

fn sweep(text: &mut String, report: &SweepReport) {
    let sized = |objects, bytes| format!("{} ({})", output::count(objects), output::bytes(bytes));
    let mut table = output::table(["objects", "count"]);
    table.add_row(["listed".to_owned(), sized(report.listed, report.listed_bytes)]);
    table.add_row(["unreachable".to_owned(), sized(report.orphans, report.orphan_bytes)]);
    table.add_row(["deleted".to_owned(), sized(report.deleted, report.deleted_bytes)]);
    for (what, count) in [
        ("unreachable, within the grace", report.waiting),
        ("unreachable, kept for backups", report.kept_for_backups),
        ("of older generations, not confirmed", report.unconfirmed),
        ("foreign", report.foreign),
        ("errors", report.errors),
    ] {
        if count > 0 {
            table.add_row([what.to_owned(), output::count(count)]);
        }
    }
    let _ = writeln!(text, "{table}");
    if report.oldest_orphan_ms > 0 {
        let oldest = UNIX_EPOCH + Duration::from_millis(report.oldest_orphan_ms);
        let oldest = humantime::format_rfc3339_seconds(oldest);
        let _ = writeln!(text, "the oldest unreachable one was written {oldest}");
    }
    if !report.last_error.is_empty() {
        let _ = writeln!(text, "last error: {}", report.last_error);
    }
}
