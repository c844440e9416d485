//! What a run came to: its verdict, and all that explains it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use super::bounds::{self, Judged};
use super::measure::{self, Gaps};
use super::schedule::Rotated;
use super::standstill::Stood;
use super::{Course, Options, timeline, valid};
use crate::audit::AuditReport;
use crate::checker::Report;
use crate::error::ChaosError;
use crate::history::{History, Operation, Outcome};

/// The verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was found, and the run was such that something could have been.
    Passed,
    /// Something is not as it must be.
    Failed,
    /// Nothing was found, but the run proves nothing: see `invalid`.
    Invalid,
    /// Nothing was found, but the run was not held to its end: see `unfinished`.
    Unfinished,
}

/// One use of a fault.
#[derive(Debug, Clone, Serialize)]
pub struct FaultRun {
    /// Its name.
    pub name: &'static str,
    /// What was really done, and to whom.
    pub detail: String,
    /// It was really there: what it is about to strike, it has struck.
    pub installed: bool,
    /// Whether a controller that led was among its victims; `None` where its victims are no processes.
    pub hit_leader: Option<bool>,
    /// When its installation began, microseconds into the run.
    pub begun_us: u64,
    /// When it was healed.
    pub healed_us: u64,
    /// When every process was at its work again.
    pub whole_us: u64,
    /// The longest time without an acknowledgement that began in its time, of the partition that was worst off.
    pub pause_us: u64,
    /// The same as it is judged.
    pub judged: Judged,
    /// From its healing until every partition had taken a record that was sent after it; `None` if one never did.
    pub writable_us: Option<u64>,
    /// Why that did not come about.
    pub problem: Option<String>,
}

/// How operations of one kind ended.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// They happened.
    pub ok: u64,
    /// They certainly did not.
    pub fail: u64,
    /// They may have.
    pub info: u64,
}

/// See the module.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// The verdict.
    pub verdict: Verdict,
    /// Decides everything that is the suite's to decide.
    pub seed: u64,
    /// What repeats it.
    pub command: String,
    /// Where history, logs, report and picture are.
    pub folder: PathBuf,
    /// How long it took.
    pub seconds: f64,
    /// Why the run proves nothing, if it does not.
    pub invalid: Vec<String>,
    /// Why the run was not held to its end, if it was not, or what of it could not be written. Anomalies that need an end are
    /// looked for as far as the run got.
    pub unfinished: Option<String>,
    /// What is not as it must be, beside anomalies of the history.
    pub problems: Vec<String>,
    /// What the checker found.
    pub checked: Report,
    /// Operations by kind.
    pub operations: BTreeMap<&'static str, Counts>,
    /// Every fault, in order.
    pub faults: Vec<FaultRun>,
    /// Faults that were asked for, and for which there was no time.
    pub left_out: Vec<&'static str>,
    /// When the machine stood still, which was not counted.
    pub standstill: Stood,
    /// Times without service, by kind of operation.
    pub gaps: Vec<Gaps>,
    /// The longest that the cluster took after healing until every process was at its work.
    pub slowest_recovery_ms: u64,
    /// The longest that the controllers took after a healing until they were identical; `None` if they never were.
    pub identical_after_ms: Option<u64>,
    /// The audit.
    pub audit: AuditReport,
}

/// Makes the report, and writes it and its picture into the run's folder.
pub(super) fn write(
    options: &Options,
    seed: u64,
    history: &History,
    checked: Report,
    course: Course,
    unfinished: Vec<ChaosError>,
) -> Result<RunReport, ChaosError> {
    let last_us = history.events.last().map_or(0, |event| event.time_us);
    let until_us = course.rotated_until.map_or(last_us, |until| until.as_micros() as u64);
    let Rotated { runs: mut faults, not_installed, left_out, identical_after } = course.rotated;
    measure::pauses(history, &mut faults, until_us, &course.standstill);
    let operations = count(history);
    let mut problems = course.problems;
    problems.extend(bounds::beyond(&faults));
    problems.extend(faults.iter().filter_map(|fault| {
        let problem = fault.problem.as_ref()?;
        Some(format!("after {} at {:.1} s: {problem}", fault.name, fault.begun_us as f64 / 1e6))
    }));
    for problem in &course.audit.problems {
        let text = serde_json::to_string(problem);
        problems.push(text.map_err(|error| ChaosError::Harness(error.to_string()))?);
    }
    let mut invalid = not_installed;
    if unfinished.is_empty() {
        invalid.extend(valid::reasons(history, &faults, &checked, until_us));
    }
    let verdict = match checked.counts.is_empty() && problems.is_empty() {
        false => Verdict::Failed,
        true if !invalid.is_empty() => Verdict::Invalid,
        true => Verdict::Passed,
    };
    let recovery = faults.iter().map(|fault| fault.whole_us.saturating_sub(fault.healed_us));
    let mut report = RunReport {
        verdict,
        seed,
        command: command(options, seed),
        folder: options.folder.clone(),
        seconds: last_us as f64 / 1e6,
        invalid,
        unfinished: None,
        problems,
        operations,
        gaps: measure::gaps(history, &faults, until_us),
        slowest_recovery_ms: recovery.max().unwrap_or(0) / 1_000,
        identical_after_ms: identical_after.map(|after| after.as_millis() as u64),
        checked,
        faults,
        left_out,
        standstill: course.standstill.stood(),
        audit: course.audit,
    };
    unfinished.into_iter().for_each(|error| report.cut_short(&error));
    let json = serde_json::to_vec_pretty(&report);
    let json = json.map_err(|error| ChaosError::Harness(error.to_string()))?;
    let picture = timeline::draw(&report, &measure::seconds(history));
    for (name, bytes) in [("report.json", json), ("timeline.svg", picture.into_bytes())] {
        let path = options.folder.join(name);
        if let Err(error) = fs::write(&path, bytes) {
            report.cut_short(&ChaosError::io(path.display().to_string())(error));
        }
    }
    Ok(report)
}

impl RunReport {
    /// The run was not held to its end, or what it left cannot be written: what was found counts all the same.
    fn cut_short(&mut self, error: &ChaosError) {
        if self.verdict != Verdict::Failed {
            self.verdict = Verdict::Unfinished;
        }
        self.unfinished = Some(match self.unfinished.take() {
            Some(before) => format!("{before}; {error}"),
            None => error.to_string(),
        });
    }
}

fn command(options: &Options, seed: u64) -> String {
    format!(
        "streamhouse chaos run --minutes {} --seed {seed} --faults {} --controllers {} --agents {} --store {} --rate {}",
        options.time.as_secs_f64() / 60.0,
        options.faults,
        options.controllers,
        options.agents,
        options.storage.name(),
        options.rate
    )
}

fn count(history: &History) -> BTreeMap<&'static str, Counts> {
    let mut counts: BTreeMap<&'static str, Counts> = BTreeMap::new();
    for event in &history.events {
        let kind = match &event.operation {
            Operation::Send { .. } => "send",
            Operation::Poll { .. } => "poll",
            Operation::CommitOffset { .. } => "commit offset",
            Operation::FetchOffset { .. } => "fetch offset",
            Operation::Meta { key, .. } if key.starts_with("topic ") => "topic",
            Operation::Meta { .. } => "offset register",
            Operation::Lease { .. } => "lease",
            _ => continue,
        };
        let counts = counts.entry(kind).or_default();
        match event.outcome {
            Outcome::Invoke => {}
            Outcome::Ok => counts.ok += 1,
            Outcome::Fail => counts.fail += 1,
            Outcome::Info => counts.info += 1,
        }
    }
    counts
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A fault that was there, from one second to another.
    pub(in crate::run) fn fault(begun: u64, healed: u64) -> FaultRun {
        FaultRun {
            name: "kill-agent",
            detail: String::new(),
            installed: true,
            hit_leader: None,
            begun_us: begun * 1_000_000,
            healed_us: healed * 1_000_000,
            whole_us: healed * 1_000_000,
            pause_us: 0,
            judged: Judged { us: 0, allowed_us: 0, bound: None },
            writable_us: None,
            problem: None,
        }
    }
}
