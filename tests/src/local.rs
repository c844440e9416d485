//! A cluster as `streamhouse up` makes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::{Finished, binary, run, run_with};
use crate::guard::{self, Guardian};
use crate::ports::free_base_port;
use crate::until;

const PATIENCE: Duration = Duration::from_secs(60);

/// A data folder and ports for `up` and `down`; whatever runs there at the end is stopped.
#[derive(Debug)]
pub struct UpCluster {
    base_port: u16,
    data: PathBuf,
    // Dropped in this order: the guardian stops what runs, then the folder goes.
    _guardian: Guardian,
    _folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl UpCluster {
    /// Room for a cluster; nothing runs yet.
    ///
    /// # Panics
    ///
    /// If there is no room for a temporary folder.
    pub fn new() -> Self {
        let alone = guard::one_at_a_time();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let program = binary();
        let (program, path) = (text(&program).to_owned(), text(&data).to_owned());
        let guardian = Guardian::with_script("\"$1\" down --data \"$2\"", &[&program, &path]);
        Self {
            base_port: free_base_port(),
            data,
            _guardian: guardian,
            _folder: folder,
            _alone: alone,
        }
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The port below that of the first controller.
    pub fn base_port(&self) -> u16 {
        self.base_port
    }

    /// The arguments of `up` for this cluster, and these.
    pub fn up_args<'a>(&'a self, more: &[&'a str]) -> Vec<String> {
        let base_port = self.base_port.to_string();
        let args = ["up", "--data", text(&self.data), "--base-port", &base_port];
        args.iter().chain(more).map(ToString::to_string).collect()
    }

    /// `up --detach`, and these arguments.
    pub fn up(&self, more: &[&str]) -> Finished {
        let args = self.up_args(&[&["--detach", "--output", "json"], more].concat());
        run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `down`.
    pub fn down(&self) -> Finished {
        run(&["down", "--data", text(&self.data), "--output", "json"])
    }

    /// All three controllers, as `--controllers` takes them.
    pub fn controllers(&self) -> String {
        let ports = (1..=3).map(|n| format!("127.0.0.1:{}", self.base_port + n));
        ports.collect::<Vec<_>>().join(",")
    }

    /// Runs a command of this cluster to its end.
    pub fn run(&self, args: &[&str]) -> Finished {
        run_with(args, &[("STREAMHOUSE_CONTROLLERS", &self.controllers())], b"")
    }

    /// What `status` says once a controller leads.
    pub fn status(&self) -> Value {
        until("a controller leads", PATIENCE, || {
            let status = self.run(&["status", "--output", "json"]);
            (status.code == Some(0)).then(|| status.json())
        })
    }
}

impl Default for UpCluster {
    fn default() -> Self {
        Self::new()
    }
}

/// Sends a signal to a process by the number that `status` or `up` told.
///
/// # Panics
///
/// If there is no such process.
pub fn signal(pid: &Value, signal: Signal) {
    let pid = pid.as_u64().expect("a process number");
    kill(Pid::from_raw(pid as i32), signal).expect("the process is there");
}

/// `kill -9`, and waits until nothing of the process is left: neither a thread nor what it had open.
///
/// # Panics
///
/// If there is no such process, or it is there for another minute.
pub fn kill_process(pid: &Value) {
    signal(pid, Signal::SIGKILL);
    let threads = format!("/proc/{pid}/task");
    until("the killed process is gone", PATIENCE, || {
        // One that nobody has waited for yet stays as a zombie.
        let left = fs::read_dir(&threads).into_iter().flatten().flatten();
        left.map(|thread| thread.path()).all(|thread| has_ended(&thread)).then_some(())
    });
}

/// Whether the thread at this place in `/proc` is a zombie, or gone.
fn has_ended(thread: &Path) -> bool {
    let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
    // The state stands behind the name, which is in parentheses.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}
