//! Seeds in processes of their own.

use crate::TRACE;
use serde_json::Value;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What is compared of two runs of one seed.
const FILES: [&str; 2] = [TRACE, "history.jsonl"];
/// What a seed must have been, to count: seconds, operations, faults, crashes among them.
const LEAST: [(&str, f64); 4] =
    [("seconds", 60.0), ("operations", 1_000.0), ("faults", 5.0), ("crashes", 1.0)];

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs one seed; its verdict.
pub(crate) fn one(seed: u64, seconds: u64, more: &[&str]) -> io::Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["one", "--seed", &seed.to_string(), "--seconds", &seconds.to_string()])
        .args(more);
    let Output { stdout, stderr, status } = command.stdin(Stdio::null()).output()?;
    let line = String::from_utf8_lossy(&stdout);
    serde_json::from_str(line.trim()).map_err(|error| {
        let stderr = String::from_utf8_lossy(&stderr);
        io::Error::other(format!(
            "seed {seed} ended with {status} and without a verdict ({error}): {stderr}"
        ))
    })
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

/// Whether no seed violated anything.
pub(crate) fn run(seeds: Range<u64>, seconds: u64, jobs: usize) -> io::Result<bool> {
    #[allow(clippy::disallowed_methods, reason = "how long it really takes")]
    let begun = Instant::now();
    let totals = Mutex::new((0_u64, [0.0_f64; 4], [f64::MAX; 4], Vec::new(), 0_u64));
    let count = seeds.end - seeds.start;
    each(seeds, jobs, |seed| {
        let verdict = one(seed, seconds, &[])?;
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, sums, least, failed, acknowledged) = &mut *totals;
        *done += 1;
        *acknowledged += verdict["acknowledged"].as_u64().unwrap_or(0);
        for (at, (name, _)) in LEAST.iter().enumerate() {
            let value = verdict[*name].as_f64().unwrap_or(0.0);
            sums[at] += value;
            least[at] = least[at].min(value);
        }
        let violations = violations(&verdict);
        if !violations.is_empty() {
            failed.push(seed);
            for (name, detail) in &violations {
                println!("seed {seed}: {name}: {detail}");
            }
            println!(
                "  to repeat it: sim one --seed {seed} --seconds {seconds} --log info --folder sim-{seed}"
            );
        }
        if *done % 100 == 0 {
            let minutes = begun.elapsed().as_secs_f64() / 60.0;
            println!(
                "{done} of {count} seeds, {} failed, {:.1} a minute",
                failed.len(),
                *done as f64 / minutes
            );
        }
        Ok(())
    })?;
    let (done, sums, least, mut failed, acknowledged) =
        totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    println!(
        "{done} seeds in {minutes:.1} minutes, {:.1} a minute with {jobs} at once; {acknowledged} records acknowledged",
        done as f64 / minutes
    );
    let mut short = false;
    for (at, (name, asked)) in LEAST.iter().enumerate() {
        println!("{name}: {:.0} in all, {:.0} at the least", sums[at], least[at]);
        // Shorter runs, when they are asked for, prove less.
        short |= seconds >= 60 && least[at] < *asked;
    }
    if short {
        println!("some seeds were less than a seed must be");
    }
    failed.sort_unstable();
    match failed.is_empty() {
        true => println!("no violation"),
        false => println!("{} seeds violated something: {failed:?}", failed.len()),
    }
    Ok(failed.is_empty() && !short)
}

/// Whether both runs of each seed were the same.
pub(crate) fn twice(seeds: Range<u64>, seconds: u64, jobs: usize, log: &str) -> io::Result<bool> {
    let differ = AtomicU64::new(0);
    each(seeds, jobs, |seed| {
        let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
        for folder in &folders {
            let path = folder.path().display().to_string();
            let verdict = one(seed, seconds, &["--log", log, "--folder", &path])?;
            for (name, detail) in violations(&verdict) {
                println!("seed {seed}: {name}: {detail}");
            }
        }
        let [first, second] = folders.each_ref().map(tempfile::TempDir::path);
        let mut said = Vec::new();
        for file in FILES {
            match difference(&first.join(file), &second.join(file))? {
                Ok((lines, bytes)) => said.push(format!("{file} {lines} lines, {bytes} bytes")),
                Err(line) => {
                    differ.fetch_add(1, Ordering::SeqCst);
                    println!("seed {seed}: {file} differs at line {line}");
                }
            }
        }
        println!("seed {seed}: the same twice: {}", said.join("; "));
        Ok(())
    })?;
    Ok(differ.into_inner() == 0)
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
