//! Seeds in processes of their own.

use crate::{FAULTS_LAST, TRACE, nemesis};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What is compared of two runs of one seed.
const FILES: [&str; 2] = [TRACE, "history.jsonl"];
/// What a seed must have been, to count: seconds, operations that succeeded and records acknowledged among them,
/// faults and crashes among them.
const LEAST: [(&str, f64); 5] = [
    ("seconds", 60.0),
    ("operations", 1_000.0),
    ("acknowledged", 200.0),
    ("faults", 5.0),
    ("crashes", 1.0),
];
/// So many seeds must have seen every kind of fault.
const ALL_KINDS: u64 = 50;
/// What is counted of all faults, though no fault of its own.
const STRUCK: &str = "store_requests_in_trouble";

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs one seed; its verdict. A process that ends without one violated something by that.
pub(crate) fn one(seed: u64, seconds: u64, more: &[&str]) -> io::Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["one", "--seed", &seed.to_string(), "--seconds", &seconds.to_string()])
        .args(more);
    let Output { stdout, stderr, status } = command.stdin(Stdio::null()).output()?;
    let line = String::from_utf8_lossy(&stdout);
    Ok(serde_json::from_str(line.trim()).unwrap_or_else(|_| {
        let stderr = String::from_utf8_lossy(&stderr);
        let detail = format!("it ended with {status} and without a verdict: {}", stderr.trim());
        json!({"seed": seed, "violations": [{"name": "died", "detail": detail}]})
    }))
}

/// What a verdict says was violated.
pub(crate) fn violations(verdict: &Value) -> Vec<(String, String)> {
    let all = verdict["violations"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|one| (text(&one["name"]), text(&one["detail"]))).collect()
}

/// Does something with each seed, several at once; stops at the first error.
fn each(
    seeds: Range<u64>,
    jobs: usize,
    work: impl Fn(u64) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    if let Err(error) = work(seed) {
                        next.store(seeds.end, Ordering::SeqCst);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// What all seeds of a run came to.
#[derive(Default)]
struct Totals {
    done: u64,
    sums: [f64; LEAST.len()],
    least: [Option<f64>; LEAST.len()],
    struck: u64,
    kinds: BTreeMap<String, u64>,
    failed: Vec<u64>,
}

impl Totals {
    fn add(&mut self, verdict: &Value) {
        self.done += 1;
        for (at, (name, _)) in LEAST.iter().enumerate() {
            let value = verdict[*name].as_f64().unwrap_or(0.0);
            self.sums[at] += value;
            self.least[at] = Some(self.least[at].map_or(value, |least| least.min(value)));
        }
        self.struck += verdict[STRUCK].as_u64().unwrap_or(0);
        for (kind, count) in verdict["kinds"].as_object().into_iter().flatten() {
            *self.kinds.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }

    /// Prints them; what keeps the run from proving what it should.
    fn tell(&self, seconds: u64) -> Vec<String> {
        let mut short = Vec::new();
        for ((name, asked), (sum, least)) in LEAST.iter().zip(self.sums.iter().zip(self.least)) {
            let least = least.unwrap_or(0.0);
            println!("{name}: {sum:.0} in all, {least:.0} at the least");
            // Shorter runs, when they are asked for, prove less.
            if seconds >= FAULTS_LAST && least < *asked {
                short.push(format!("a seed had {least:.0} {name}, {asked:.0} are due"));
            }
        }
        let kinds = self.kinds.iter().map(|(kind, count)| format!("{kind} {count}"));
        println!("faults: {}", kinds.collect::<Vec<_>>().join(", "));
        println!("requests to the store in trouble: {}", self.struck);
        if self.done >= ALL_KINDS {
            let never = nemesis::KINDS.iter().filter(|kind| !self.kinds.contains_key(**kind));
            short.extend(never.map(|kind| format!("no seed had a fault {kind}")));
            short.extend((self.struck == 0).then(|| "the store never had trouble".to_owned()));
        }
        short
    }
}

/// Whether no seed violated anything.
pub(crate) fn run(seeds: Range<u64>, seconds: u64, jobs: usize) -> io::Result<bool> {
    #[allow(clippy::disallowed_methods, reason = "how long it really takes")]
    let begun = Instant::now();
    let totals = Mutex::new(Totals::default());
    let count = seeds.end - seeds.start;
    each(seeds, jobs, |seed| {
        let verdict = one(seed, seconds, &[])?;
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(&verdict);
        let violations = violations(&verdict);
        if !violations.is_empty() {
            totals.failed.push(seed);
            for (name, detail) in &violations {
                println!("seed {seed}: {name}: {detail}");
            }
            println!(
                "  to repeat it: scripts/sim.sh one --seed {seed} --seconds {seconds} --log info --folder /tmp/sim-{seed}"
            );
        }
        if totals.done.is_multiple_of(100) {
            let minutes = begun.elapsed().as_secs_f64() / 60.0;
            println!(
                "{} of {count} seeds, {} failed, {:.1} a minute",
                totals.done,
                totals.failed.len(),
                totals.done as f64 / minutes
            );
        }
        Ok(())
    })?;
    let mut totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    println!(
        "{} seeds in {minutes:.1} minutes, {:.1} a minute with {jobs} at once",
        totals.done,
        totals.done as f64 / minutes
    );
    let short = totals.tell(seconds);
    short.iter().for_each(|what| println!("this proves too little: {what}"));
    totals.failed.sort_unstable();
    match totals.failed.is_empty() {
        true => println!("no violation"),
        false => println!("{} seeds violated something: {:?}", totals.failed.len(), totals.failed),
    }
    Ok(totals.failed.is_empty() && short.is_empty())
}

/// Whether both runs of each seed were the same, and violated nothing.
pub(crate) fn twice(seeds: Range<u64>, seconds: u64, jobs: usize, log: &str) -> io::Result<bool> {
    let failed = AtomicBool::new(false);
    each(seeds, jobs, |seed| {
        let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
        let mut verdicts = Vec::new();
        for folder in &folders {
            let path = folder.path().display().to_string();
            verdicts.push(one(seed, seconds, &["--log", log, "--folder", &path])?);
        }
        let mut wrong: Vec<String> = violations(&verdicts[0])
            .into_iter()
            .map(|(name, detail)| format!("{name}: {detail}"))
            .collect();
        if verdicts[0] != verdicts[1] {
            wrong.push(format!("two verdicts:\n  {}\n  {}", verdicts[0], verdicts[1]));
        }
        let [first, second] = folders.each_ref().map(tempfile::TempDir::path);
        let mut said = Vec::new();
        for file in FILES {
            match difference(&first.join(file), &second.join(file))? {
                Ok((lines, bytes)) => said.push(format!("{file} {lines} lines, {bytes} bytes")),
                Err(line) => wrong.push(format!("{file} differs at line {line}")),
            }
        }
        match wrong.is_empty() {
            true => println!("seed {seed}: the same twice: {}", said.join("; ")),
            false => {
                failed.store(true, Ordering::SeqCst);
                wrong.iter().for_each(|what| println!("seed {seed}: {what}"));
            }
        }
        Ok(())
    })?;
    Ok(!failed.into_inner())
}

/// Lines and bytes of both, or the first line that differs, with what it is.
fn difference(first: &Path, second: &Path) -> io::Result<Result<(usize, usize), String>> {
    let (first, second) = (std::fs::read(first)?, std::fs::read(second)?);
    if first == second {
        return Ok(Ok((first.iter().filter(|byte| **byte == b'\n').count(), first.len())));
    }
    let lines = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (lines(&first), lines(&second));
    let at = first.iter().zip(&second).take_while(|(one, other)| one == other).count();
    let show = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(the end)".to_owned());
    Ok(Err(format!("{}:\n  {}\n  {}", at + 1, show(&first), show(&second))))
}
