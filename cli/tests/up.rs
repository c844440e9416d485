//! `up` in the foreground: whatever happens to it, it leaves no process behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A data folder whose cluster is killed with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `up` with one controller and one agent on a free port.
    fn up(&self) -> Command {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let base = free.min(64_000) - 1;
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamhouse"));
        command.args(["up", "--controllers", "1", "--agents", "1", "--data"]).arg(self.path());
        command.args(["--base-port", &base.to_string()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The processes of this machine that work on the folder, zombies left aside.
    fn processes(&self) -> Vec<i32> {
        let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.unwrap().file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        });
        numbers.filter(|pid| self.is_of(*pid)).collect()
    }

    /// They are started with the folder as their working directory, which a zombie no longer has.
    fn is_of(&self, pid: i32) -> bool {
        let folder = self.path().canonicalize().unwrap();
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn read_until(source: impl Read, word: &str) {
    let mut lines = BufReader::new(source).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(word)), "it ended before it said '{word}'");
}

fn terminate(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
}

#[test]
fn a_start_that_fails_half_way_stops_what_it_started() {
    let folder = Folder::new();
    // The controller can be started, the agent's log cannot be written.
    std::fs::create_dir(folder.path().join("agent-1.log")).unwrap();
    let output = folder.up().output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("agent-1.log"), "{errors}");
    assert_eq!(folder.processes(), []);
}

#[test]
fn a_closed_stderr_does_not_keep_it_from_stopping_the_cluster() {
    let folder = Folder::new();
    let mut child = folder.up().spawn().unwrap();
    read_until(child.stdout.take().unwrap(), "export STREAMHOUSE_CONTROLLERS");
    drop(child.stderr.take());
    assert_eq!(folder.processes().len(), 2);
    terminate(&child);
    assert!(child.wait().unwrap().success());
    assert_eq!(folder.processes(), []);
}

#[test]
fn a_closed_stdout_stops_nothing_and_a_removed_record_stops_the_cluster() {
    let folder = Folder::new();
    let mut child = folder.up().spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    read_until(&mut stderr, "Ctrl-C stops the cluster");
    assert_eq!(folder.processes().len(), 2);
    std::fs::remove_file(folder.path().join("cluster.json")).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(folder.processes(), []);
}
