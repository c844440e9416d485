//! Seeds in processes of their own.

use crate::TRACE;
use crate::totals::Totals;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const HISTORY: &str = "history.jsonl";
/// What is compared of two runs of one seed.
const FILES: [&str; 2] = [TRACE, HISTORY];
/// A process that has not ended by itself after this is ended: it is past all of its own bounds.
const PATIENCE: Duration = Duration::from_secs(crate::MOST_SECONDS as u64 + 60);
/// Between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs one seed; its verdict. A process that ends without one violated something by that.
pub(crate) fn one(seed: u64, seconds: u64, more: &[&str]) -> io::Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["one", "--seed", &seed.to_string(), "--seconds", &seconds.to_string()])
        .args(more);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Output { stdout, stderr, status } = finish(command.spawn()?, PATIENCE)?;
    let line = String::from_utf8_lossy(&stdout);
    Ok(serde_json::from_str(line.trim()).unwrap_or_else(|_| {
        let stderr = String::from_utf8_lossy(&stderr);
        let detail = format!("it ended with {status} and without a verdict: {}", stderr.trim());
        let bounds = [Signal::SIGXCPU, Signal::SIGALRM, Signal::SIGKILL].map(|one| one as i32);
        let hung = status.signal().is_some_and(|signal| bounds.contains(&signal));
        let name = if hung { "hung" } else { "died" };
        json!({"seed": seed, "violations": [{"name": name, "detail": detail}]})
    }))
}

/// Waits for its end, or brings it about.
fn finish(mut child: Child, patience: Duration) -> io::Result<Output> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let (out, err) = (scope.spawn(|| all_of(out)), scope.spawn(|| all_of(err)));
        let begun = now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if begun.elapsed() > patience => child.kill()?,
                None => thread::sleep(LOOK),
            }
        };
        let read = |bytes: thread::ScopedJoinHandle<'_, io::Result<Vec<u8>>>| {
            bytes.join().unwrap_or_else(|_| Err(io::Error::other("a reader panicked")))
        };
        Ok(Output { status, stdout: read(out)?, stderr: read(err)? })
    })
}

fn all_of(pipe: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes))?;
    Ok(bytes)
}

#[allow(clippy::disallowed_methods, reason = "how long it really takes")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How to see what a seed does.
pub(crate) fn again(seed: u64, seconds: u64) -> String {
    format!(
        "scripts/sim.sh one --seed {seed} --seconds {seconds} --log info --folder /tmp/sim-{seed}"
    )
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
    let begun = now();
    let totals = Mutex::new(Totals::default());
    let count = seeds.end - seeds.start;
    each(seeds, jobs, |seed| {
        let verdict = one(seed, seconds, &[])?;
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(&verdict);
        let violations = violations(&verdict);
        for (name, detail) in &violations {
            println!("seed {seed}: {name}: {detail}");
        }
        if !violations.is_empty() {
            totals.failed.push(seed);
            println!("  to repeat it: {}", again(seed, seconds));
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

/// Whether all runs of each seed were the same, the one without a trace included, and violated nothing.
pub(crate) fn twice(seeds: Range<u64>, seconds: u64, jobs: usize, log: &str) -> io::Result<bool> {
    let failed = AtomicBool::new(false);
    each(seeds, jobs, |seed| {
        let folders = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
        let [first, second, untraced] = folders.each_ref().map(tempfile::TempDir::path);
        let run = |folder: &Path, traced: bool| {
            let path = folder.display().to_string();
            let plain = ["--folder", path.as_str()];
            match traced {
                true => one(seed, seconds, &[&["--log", log][..], &plain[..]].concat()),
                false => one(seed, seconds, &plain),
            }
        };
        let verdicts = [run(first, true)?, run(second, true)?, run(untraced, false)?];
        let mut wrong: Vec<String> = violations(&verdicts[0])
            .into_iter()
            .map(|(name, detail)| format!("{name}: {detail}"))
            .collect();
        for (other, what) in verdicts[1..].iter().zip(["again", "without a trace"]) {
            if *other != verdicts[0] {
                wrong.push(format!("its verdict is another {what}:\n  {}\n  {other}", verdicts[0]));
            }
        }
        let mut said = Vec::new();
        for file in FILES {
            match difference(&first.join(file), &second.join(file)) {
                Ok((lines, bytes)) => said.push(format!("{file} {lines} lines, {bytes} bytes")),
                Err(what) => wrong.push(format!("{file} {what}")),
            }
        }
        match difference(&first.join(HISTORY), &untraced.join(HISTORY)) {
            Ok(_) => said.push("untraced, too".to_owned()),
            Err(what) => wrong.push(format!("untraced, {HISTORY} {what}")),
        }
        match wrong.is_empty() {
            true => {
                let state = verdicts[0]["state"].to_string();
                println!("seed {seed}: the same twice: {}; in the end {state}", said.join("; "));
            }
            false => {
                failed.store(true, Ordering::SeqCst);
                wrong.iter().for_each(|what| println!("seed {seed}: {what}"));
            }
        }
        Ok(())
    })?;
    Ok(!failed.into_inner())
}

/// Lines and bytes of both, or the first line that differs, with what it is. A run that died may have left none.
fn difference(first: &Path, second: &Path) -> Result<(usize, usize), String> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| format!("cannot be read: {error}"));
    let (first, second) = (read(first)?, read(second)?);
    if first == second {
        return Ok((first.iter().filter(|byte| **byte == b'\n').count(), first.len()));
    }
    let lines = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (lines(&first), lines(&second));
    let at = first.iter().zip(&second).take_while(|(one, other)| one == other).count();
    let show = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(the end)".to_owned());
    Err(format!("differs at line {}:\n  {}\n  {}", at + 1, show(&first), show(&second)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_does_not_end_is_ended() {
        let mut command = Command::new("sleep");
        let command = command.arg("600").stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = finish(command.spawn().unwrap(), Duration::from_millis(50)).unwrap();
        assert_eq!(ended.status.signal(), Some(Signal::SIGKILL as i32));
    }
}
