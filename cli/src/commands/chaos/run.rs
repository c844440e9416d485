//! `streamhouse chaos run`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use streamhouse_chaos::{ChaosError, Options, Progress, RunReport, Storage, Verdict};
use tokio_util::sync::CancellationToken;

use super::anomalies;
use crate::exit::{self, Failure, Kind};
use crate::output::{self, Format};
use crate::signals::StopSignals;

/// Exits with 0 only if nothing was found in a run that could have found something.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How long faults rotate; faults that this has no time for have no turn, which the report tells. All have one
    /// within a quarter of an hour. What comes before and after takes about a minute more.
    #[arg(long, value_name = "M", default_value_t = 10.0)]
    minutes: f64,
    /// Decides which fault when, for how long and for whom, and what clients do. Default: any; the report tells it.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Which faults: names with commas between, as `chaos faults` lists them, or `all`.
    #[arg(long, value_name = "LIST", default_value = "all")]
    faults: String,
    /// How many controllers.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    controllers: u64,
    /// How many agents.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    agents: u64,
    /// Where objects are kept: in a bucket whose requests can fail, or in a folder, `file://`, that can lose its power.
    #[arg(long, value_name = "KIND", default_value = "s3")]
    store: StoreKind,
    /// Records a second, all producers together.
    #[arg(long, value_name = "N", default_value_t = 1_400, value_parser = clap::value_parser!(u64).range(4..=1_000_000))]
    rate: u64,
    /// Where history, logs, report and picture go; must be empty or missing. Default: chaos-PID in the current folder.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum StoreKind {
    S3,
    File,
}

impl From<StoreKind> for Storage {
    fn from(kind: StoreKind) -> Self {
        match kind {
            StoreKind::S3 => Self::S3,
            StoreKind::File => Self::File,
        }
    }
}

pub(super) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let options = args.options()?;
    // Before anything is started, so that no signal finds it half done.
    let mut stop = StopSignals::listen()?;
    let interrupt = CancellationToken::new();
    let progress: Progress = Arc::new(|line| output::say(line));
    let held = streamhouse_chaos::run(options, interrupt.clone(), progress);
    tokio::pin!(held);
    let held = tokio::select! {
        held = &mut held => held,
        _ = stop.next() => {
            interrupt.cancel();
            held.await
        }
    };
    let report = held.map_err(|error| {
        let kind = if matches!(error, ChaosError::Usage(_)) { Kind::Usage } else { Kind::Harness };
        Failure::new(kind, error.to_string())
    })?;
    let printed = format.print(&report, human);
    exit::after_printing(printed, ending(report.verdict, report.unfinished))
}

fn ending(verdict: Verdict, unfinished: Option<String>) -> anyhow::Result<()> {
    let (kind, why) = match verdict {
        Verdict::Passed => return Ok(()),
        Verdict::Failed => (Kind::Found, "something is not as it must be".to_owned()),
        Verdict::Invalid => (Kind::Invalid, "the run proves nothing".to_owned()),
        Verdict::Unfinished => (Kind::Harness, unfinished.unwrap_or_default()),
    };
    Err(Failure::new(kind, why).into())
}

impl Args {
    fn options(self) -> anyhow::Result<Options> {
        let time = Duration::try_from_secs_f64(self.minutes * 60.0)
            .map_err(|error| Failure::usage(format!("--minutes {}: {error}", self.minutes)))?;
        let folder = self.folder.unwrap_or_else(|| format!("chaos-{}", std::process::id()).into());
        let folder = std::path::absolute(folder).context("--folder")?;
        Ok(Options {
            time,
            seed: self.seed,
            faults: self.faults,
            controllers: usize::try_from(self.controllers)?,
            agents: usize::try_from(self.agents)?,
            storage: self.store.into(),
            rate: self.rate,
            folder,
            binary: std::env::current_exe().context("finding this program")?,
        })
    }
}

fn human(report: &RunReport) -> String {
    let verdict = match report.verdict {
        Verdict::Passed => "passed: nothing was found",
        Verdict::Failed => "FAILED",
        Verdict::Invalid => "invalid: nothing was found, but the run proves nothing",
        Verdict::Unfinished => "not held to its end: nothing was found in what there is",
    };
    let checked = &report.checked;
    let mut parts = vec![
        operations(report),
        faults(report),
        gaps(report),
        format!(
            "{} records acknowledged, {} read, {} there twice by producers that may",
            output::count(checked.acknowledged),
            output::count(checked.reads),
            output::count(checked.allowed_duplicates)
        ),
        format!(
            "audit: {} entries in {} objects, {} slices read and checked, {} objects in no index",
            output::count(report.audit.entries),
            output::count(report.audit.indexed_objects),
            output::count(report.audit.verified_slices),
            output::count(report.audit.unreferenced_objects)
        ),
        anomalies(checked),
    ];
    parts.push(match report.identical_after_ms {
        Some(after) => format!("controllers identical at most {after} ms after a healing"),
        None => "controllers not seen to be identical after healing".to_owned(),
    });
    parts.push(standstill(report));
    if !report.left_out.is_empty() {
        parts.push(format!("no time for {}", report.left_out.join(", ")));
    }
    parts.extend(report.problems.iter().map(|problem| format!("PROBLEM {problem}")));
    parts.extend(report.invalid.iter().map(|reason| format!("INVALID {reason}")));
    parts.extend(report.unfinished.iter().map(|reason| format!("UNFINISHED {reason}")));
    parts.push(format!(
        "seed {}, {:.0} s; history, logs, report.json and timeline.svg in {}",
        report.seed,
        report.seconds,
        report.folder.display()
    ));
    parts.push(format!("again: {}", report.command));
    parts.push(verdict.to_owned());
    parts.join("\n")
}

fn standstill(report: &RunReport) -> String {
    let stood = &report.standstill;
    if stood.times == 0 {
        return "the machine did not stand still".to_owned();
    }
    let allowed: u64 = report.faults.iter().map(|fault| fault.judged.allowed_us).sum();
    format!(
        "the machine stood still {}, for {} ms in all and {} ms at most; {} ms of it are not counted in pauses",
        output::counted(stood.times as u64, "time"),
        output::count(stood.total_ms),
        output::count(stood.longest_ms),
        output::count(allowed / 1_000)
    )
}

fn operations(report: &RunReport) -> String {
    let mut table = output::table(["OPERATION", "OK", "FAILED", "UNKNOWN"]);
    for (kind, counts) in &report.operations {
        let counts = [counts.ok, counts.fail, counts.info].map(output::count);
        table.add_row([&[(*kind).to_owned()][..], &counts].concat());
    }
    table.to_string()
}

fn faults(report: &RunReport) -> String {
    let mut table = output::table([
        "AT",
        "FAULT",
        "WHAT WAS DONE",
        "LASTED",
        "WHOLE AFTER",
        "WRITABLE AFTER",
        "PAUSE",
        "AT MOST",
    ]);
    for fault in &report.faults {
        let seconds = |from: u64, to: u64| format!("{:.1} s", to.saturating_sub(from) as f64 / 1e6);
        let done = if fault.installed { "" } else { "NOT COUNTED: " };
        table.add_row([
            seconds(0, fault.begun_us),
            fault.name.to_owned(),
            format!("{done}{}", fault.detail),
            seconds(fault.begun_us, fault.healed_us),
            seconds(fault.healed_us, fault.whole_us),
            fault.writable_us.map_or("never".to_owned(), |after| seconds(0, after)),
            seconds(0, fault.pause_us),
            fault.judged.bound.map_or_else(String::new, |bound| format!("{bound:?}")),
        ]);
    }
    table.to_string()
}

fn gaps(report: &RunReport) -> String {
    let mut table = output::table([
        "LONGEST PAUSE OF",
        "FAULTS",
        "NOT OVER",
        "P50",
        "P99",
        "MAX",
        "OF FAULT",
        "AT",
    ]);
    for gap in &report.gaps {
        table.add_row([
            gap.kind.clone(),
            gap.faults.to_string(),
            gap.not_over.to_string(),
            format!("{} ms", gap.p50_ms),
            format!("{} ms", gap.p99_ms),
            format!("{} ms", gap.max_ms),
            gap.worst_fault.clone(),
            format!("{:.1} s", gap.worst_at_s),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_has_an_exit_code_of_its_own() {
        let code = |verdict| {
            let error = ending(verdict, Some("interrupted".to_owned())).err()?;
            Some(error.downcast_ref::<Failure>().unwrap().kind())
        };
        assert_eq!(code(Verdict::Passed), None);
        assert_eq!(code(Verdict::Failed), Some(Kind::Found));
        assert_eq!(code(Verdict::Invalid), Some(Kind::Invalid));
        assert_eq!(code(Verdict::Unfinished), Some(Kind::Harness));
    }
}
