//! `streamhouse chaos`: a cluster of its own under faults, and what that proves.

mod run;

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use streamhouse_chaos::{History, Report, all_faults, judge};

use crate::exit::{self, Failure, Kind};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a cluster of real processes, load it, break it in many ways, and check what it kept.
    Run(run::Args),
    /// List the faults.
    Faults,
    /// Check the history of an earlier run once more. Exits with 0 only if nothing is wrong in a history that is whole.
    Check {
        /// Its `history.jsonl`.
        history: PathBuf,
    },
}

#[derive(Debug, Serialize)]
struct Fault {
    name: &'static str,
    does: &'static str,
    /// From, to.
    lasts_ms: (u64, u64),
    /// For how long a partition may take no record because of it, where that is bounded.
    pause_ms: Option<u64>,
    needs: &'static str,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    match args.action {
        Action::Run(args) => run::run(args, format).await,
        Action::Faults => faults(format),
        Action::Check { history } => {
            let unreadable = |error: String| {
                Failure::new(Kind::Harness, format!("{}: {error}", history.display()))
            };
            let file = File::open(&history).map_err(|error| unreadable(error.to_string()))?;
            let history = History::read(BufReader::new(file));
            let history = history.map_err(|error| unreadable(error.to_string()))?;
            let report = judge(&history);
            let printed = format.print(&report, human);
            exit::after_printing(printed, verdict(&report, history.is_whole()))
        }
    }
}

fn faults(format: Format) -> anyhow::Result<()> {
    let all = all_faults().iter();
    let all: Vec<_> = all
        .map(|spec| Fault {
            name: spec.name,
            does: spec.line,
            lasts_ms: spec.lasts,
            pause_ms: spec.pause.map(|pause| pause.as_millis() as u64),
            needs: spec.needs.text(),
        })
        .collect();
    format.print(&all, |all| {
        let mut table = output::table(["FAULT", "DOES", "LASTS", "PAUSE AT MOST", "NEEDS"]);
        for fault in all {
            let lasts = match fault.lasts_ms {
                (_, 0) => "at once".to_owned(),
                (from, to) => format!("{} to {} s", from / 1_000, to / 1_000),
            };
            let pause = output::or_dash(fault.pause_ms.map(|ms| format!("{} s", ms / 1_000)));
            table.add_row([fault.name, fault.does, &lasts, &pause, fault.needs]);
        }
        table.to_string()
    })
}

fn human(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} records acknowledged, {} read, {} there twice by clients that may",
        output::count(report.acknowledged),
        output::count(report.reads),
        output::count(report.allowed_duplicates)
    )];
    lines.push(anomalies(report));
    lines.extend(report.undecided.iter().cloned());
    lines.join("\n")
}

/// How many of each kind, and the first of each with its proof.
fn anomalies(report: &Report) -> String {
    if report.counts.is_empty() {
        return "no anomaly".to_owned();
    }
    let first = report.counts.iter().filter_map(|(kind, count)| {
        let anomaly = report.anomalies.iter().find(|anomaly| anomaly.kind == *kind)?;
        let lines: Vec<_> = anomaly.events.iter().map(|event| (event + 1).to_string()).collect();
        let proof = lines.join(", ");
        Some(format!("ANOMALY {count} × {kind}: {}; lines {proof} of the history", anomaly.detail))
    });
    first.collect::<Vec<_>>().join("\n")
}

/// What was found counts, whatever else is said of the history.
fn verdict(report: &Report, whole: bool) -> anyhow::Result<()> {
    let failure = |kind, message: String| Err(Failure::new(kind, message).into());
    match report.counts.values().sum::<u64>() {
        0 => {}
        1 => return failure(Kind::Found, "1 anomaly was found".to_owned()),
        count => return failure(Kind::Found, format!("{count} anomalies were found")),
    }
    if !whole {
        let message = "the run was not held to its end: what is missing was not looked for";
        return failure(Kind::Harness, message.to_owned());
    }
    if report.acknowledged == 0 {
        return failure(Kind::Invalid, "no record was acknowledged: it proves nothing".to_owned());
    }
    if !report.undecided.is_empty() {
        let message = "nothing was found, but the history proves nothing";
        return failure(Kind::Invalid, message.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamhouse_chaos::AnomalyKind;

    fn code(report: &Report, whole: bool) -> Option<Kind> {
        let error = verdict(report, whole).err()?;
        Some(error.downcast_ref::<Failure>().unwrap().kind())
    }

    #[test]
    fn a_history_with_anomalies_one_that_is_not_whole_and_one_that_proves_nothing_differ() {
        let fine = || Report { acknowledged: 7, ..Report::default() };
        assert_eq!(code(&fine(), true), None);
        let found = Report { counts: [(AnomalyKind::LostWrite, 2)].into(), ..fine() };
        assert_eq!(code(&found, true), Some(Kind::Found));
        assert_eq!(code(&found, false), Some(Kind::Found));
        assert_eq!(code(&fine(), false), Some(Kind::Harness));
        assert_eq!(code(&Report::default(), true), Some(Kind::Invalid));
        let undecided =
            Report { undecided: vec!["a topic cannot be decided about".to_owned()], ..fine() };
        assert_eq!(code(&undecided, true), Some(Kind::Invalid));
    }
}
