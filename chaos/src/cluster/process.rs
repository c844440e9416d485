//! One process of the cluster: the real binary, its log, its end.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::node::Node;
use super::sources::Sources;
use crate::error::ChaosError;

/// How a node's process is started, each time anew.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) binary: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) log: PathBuf,
    pub(super) group: i32,
}

/// A process that was started. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    node: Node,
    child: Child,
    sources: Sources,
}

impl Process {
    pub(super) fn start(node: Node, plan: &Plan, sources: &Sources) -> Result<Self, ChaosError> {
        use std::os::unix::process::CommandExt as _;
        let failed = |what: &Path| ChaosError::io(what.display().to_string());
        let log = File::options().create(true).append(true).open(&plan.log);
        let log = log.map_err(failed(&plan.log))?;
        let errors = log.try_clone().map_err(failed(&plan.log))?;
        let mut command = Command::new(&plan.binary);
        command
            .args(&plan.args)
            .env_remove("STREAMHOUSE_CONTROLLERS")
            .env_remove("STREAMHOUSE_LOG")
            .envs(plan.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(plan.group);
        let child = sources.started(node, || command.spawn()).map_err(failed(&plan.binary))?;
        Ok(Self { node, child, sources: sources.clone() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), ChaosError> {
        let sent = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
        let what = || format!("{signal} to {}, pid {}", self.node, self.pid());
        sent.map_err(|error| ChaosError::Io { what: what(), error: error.into() })
    }

    /// Ends it by SIGKILL, of which it is dead afterwards; the exit code of one that had ended by itself.
    pub(super) fn kill(mut self) -> Result<Option<i32>, ChaosError> {
        let what = format!("killing {}, pid {}", self.node, self.pid());
        // One that has ended meanwhile cannot be killed, and says how it ended.
        let failed = self.child.kill().err();
        let status = self.child.wait().map_err(ChaosError::io(what.clone()))?;
        if status.signal() == Some(Signal::SIGKILL as i32) {
            return Ok(None);
        }
        match failed {
            Some(error) if status.code().is_none() => Err(ChaosError::io(what)(error)),
            _ => Ok(Some(status.code().unwrap_or(-1))),
        }
    }

    /// Whether SIGSTOP keeps it from running.
    pub(super) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // Its name, in brackets, may hold anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Its exit code, once it has ended; -1 for the end by a signal.
    pub(super) fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(status.code().unwrap_or(-1))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is as dead as it will be.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.sources.ended(self.child.id());
    }
}
