//! The chaos suite, as a user starts it: two minutes of mixed faults, and how it refuses, ends and cleans up.
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use streamhouse_tests::{Finished, Signal, binary, one_at_a_time, run, signal, until};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// Some of every family: two minutes have time for about half of them, which the seed chooses.
const MIXED: &str = "kill-leader,kill-agent,kill-all-controllers,stop-agent,isolate-leader,agent-controllers,reset,\
                     store-500,store-lost-answer,store-bit-flip,power-cut,clock-jump";

/// How often a run is held at most, if each proves nothing.
const RUNS: usize = 3;
const PROVES_NOTHING: i32 = 7;

/// Two minutes of these faults in `run` of a new folder, and another two if these prove nothing: on a machine that stands
/// still, no fault may have had its time.
fn hold() -> (TempDir, Finished) {
    let mut held = 1;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let path = path.to_str().unwrap();
        let args = ["chaos", "run", "--minutes", "2", "--faults", MIXED, "--folder", path];
        let finished = run(&[&args[..], &["--output", "json"]].concat());
        if finished.code != Some(PROVES_NOTHING) || held == RUNS {
            return (folder, finished);
        }
        println!("run {held} proves nothing: {}", finished.stderr);
        held += 1;
    }
}

#[test]
fn two_minutes_of_mixed_faults_show_nothing() {
    let _alone = one_at_a_time();
    let (folder, finished) = hold();
    let runs = folder.path().join("run");
    if finished.code != Some(0) {
        // For whoever has to find out why: the folder is what tells it.
        let kept = folder.keep();
        let said = String::from_utf8_lossy(&finished.stdout);
        panic!("exit {:?}, kept {}: {}\n{said}", finished.code, kept.display(), finished.stderr);
    }
    let report = finished.json();
    assert_eq!(report["verdict"], "passed");
    let names: Vec<&str> =
        report["faults"].as_array().unwrap().iter().filter_map(|f| f["name"].as_str()).collect();
    let left_out: Vec<&str> =
        report["left_out"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    assert!(names.len() >= 3, "{names:?}");
    for name in MIXED.split(',') {
        let told = names.contains(&name) != left_out.contains(&name);
        assert!(told, "{name} had a turn, {names:?}, or there was no time for it, {left_out:?}");
    }
    let seed = report["seed"].as_u64().unwrap();
    let acknowledged = report["checked"]["acknowledged"].as_u64().unwrap();
    println!("seed {seed}: {acknowledged} records acknowledged, {} faults", names.len());
    // The history proves the same to whoever asks again, and the picture is one.
    let history = runs.join("history.jsonl");
    run(&["chaos", "check", history.to_str().unwrap()]).ok();
    let picture = fs::read_to_string(runs.join("timeline.svg")).unwrap();
    assert!(picture.starts_with("<svg"));
    for name in names {
        assert!(picture.contains(name), "{name} had a turn and is not in the picture");
    }
}

/// How many processes write their logs into the folder.
fn processes_of(folder: &Path) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let logs = all.filter_map(|entry| fs::read_link(entry.path().join("fd/1")).ok());
    logs.filter(|log| log.starts_with(folder)).count()
}

/// A run that serves, with three controllers and three agents; killed when dropped.
struct Run(Child);

impl Run {
    fn start(folder: &Path) -> Self {
        let args = ["chaos", "run", "--minutes", "5", "--faults", "kill-leader", "--folder"];
        let child = Command::new(binary())
            .args(args)
            .arg(folder.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut run = Self(child.unwrap());
        let errors = run.0.stderr.take().unwrap();
        // What it says later is nobody's; that must not stop it.
        let mut lines = BufReader::new(errors).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("the cluster serves")), "it serves");
        run
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // One that has ended already is as dead as it will be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until_all_have_ended(folder: &Path) {
    until("all processes have ended", PATIENCE, || (processes_of(folder) == 0).then_some(()));
}

#[test]
fn an_interrupted_run_ends_every_process_and_reports_what_there_is() {
    let _alone = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(folder.path());
    // Just now one of them may be dead by the fault.
    assert!(processes_of(folder.path()) >= 5);
    signal(&serde_json::Value::from(run.0.id()), Signal::SIGINT);
    assert_eq!(run.0.wait().unwrap().code(), Some(8));
    until_all_have_ended(folder.path());
    let report = fs::read(folder.path().join("run/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["verdict"], "unfinished");
    let history = folder.path().join("run/history.jsonl");
    // No line of it is cut short, and what was not read yet is not missed.
    assert!(fs::read(&history).unwrap().ends_with(b"\n"));
    let checked = streamhouse_tests::run(&["chaos", "check", history.to_str().unwrap()]);
    assert_eq!(checked.code, Some(8), "{}", checked.stderr);
    assert!(checked.stderr.contains("not held to its end"), "{}", checked.stderr);
}

#[test]
fn a_run_that_is_killed_takes_its_processes_with_it() {
    let _alone = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path());
    assert!(processes_of(folder.path()) >= 5);
    drop(run);
    until_all_have_ended(folder.path());
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_started() {
    for (args, named) in [
        (&["--faults", "kill-moon"][..], "no fault kill-moon"),
        (&["--faults", "ring", "--controllers", "1"], "ring cannot be installed"),
        (&["--minutes", "0.05"], "give it more time"),
        (&["--minutes=-1"], "--minutes"),
    ] {
        let refused = run(&[&["chaos", "run"], args].concat());
        assert_eq!(refused.code, Some(2), "{args:?}: {}", refused.stderr);
        assert!(refused.error().contains(named), "{args:?}: {}", refused.stderr);
    }
}

#[test]
fn faults_are_listed_with_what_they_do_and_need() {
    let listed = run(&["chaos", "faults", "--output", "json"]).ok().json();
    let listed = listed.as_array().unwrap();
    assert!(listed.len() > 30);
    assert!(
        listed.iter().any(|fault| fault["name"] == "ring" && fault["needs"] == "3 controllers")
    );
}
