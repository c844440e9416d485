//! `streamhouse chaos`: a cluster of its own under faults, and what that proves.

mod run;

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;
use streamhouse_chaos::{History, Report, all_faults, judge};

use crate::exit::{Failure, Kind};
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
    /// Check the history of an earlier run once more.
    Check {
        /// Its `history.jsonl`.
        history: PathBuf,
    },
}

#[derive(Debug, Serialize)]
struct Fault {
    name: &'static str,
    does: &'static str,
    needs: &'static str,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    match args.action {
        Action::Run(args) => run::run(args, format).await,
        Action::Faults => faults(format),
        Action::Check { history } => {
            let named = || history.display().to_string();
            let file = File::open(&history).with_context(named)?;
            let history = History::read(BufReader::new(file)).with_context(named)?;
            let report = judge(&history);
            format.print(&report, human)?;
            judged(&report, history.is_whole())
        }
    }
}

fn faults(format: Format) -> anyhow::Result<()> {
    let all = all_faults().iter();
    let all: Vec<_> = all
        .map(|spec| Fault { name: spec.name, does: spec.line, needs: spec.needs.text() })
        .collect();
    format.print(&all, |all| {
        let mut table = output::table(["FAULT", "DOES", "NEEDS"]);
        for fault in all {
            table.add_row([fault.name, fault.does, fault.needs]);
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

/// The same exit codes as of the run itself.
fn judged(report: &Report, whole: bool) -> anyhow::Result<()> {
    let cut = "the run was not held to its end: what is missing was not looked for";
    let failure = match report.counts.values().sum::<u64>() {
        0 if !whole => Failure::new(Kind::Harness, cut),
        0 if !report.undecided.is_empty() => {
            Failure::new(Kind::Invalid, "nothing was found, but the history proves nothing")
        }
        0 => return Ok(()),
        count => {
            if !whole {
                output::say(cut);
            }
            Failure::new(Kind::Found, format!("{count} anomalies were found"))
        }
    };
    Err(failure.into())
}
