//! Processes that outlive the command that started them: who they are, whether they live, how to stop them.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process for good: its number alone may be given to another one later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// When it started: this boot's id and ticks since boot. `None` where the system does not tell (no /proc).
    started: Option<String>,
}

impl ProcessId {
    /// The identity of the running process `pid`.
    pub(crate) fn of(pid: u32) -> Self {
        let pid = pid.cast_signed();
        Self { pid, started: stat(pid).map(|stat| stat.started) }
    }

    /// Whether that very process still runs.
    pub(crate) fn is_alive(&self) -> bool {
        match (&self.started, stat(self.pid)) {
            (Some(started), Some(stat)) => !stat.ended && stat.started == *started,
            (Some(_), None) => false,
            (None, _) => kill(Pid::from_raw(self.pid), None) != Err(Errno::ESRCH),
        }
    }

    /// Sends `signal`, if that very process still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end in between: that is what every signal we send is meant to bring about.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

struct Stat {
    started: String,
    /// A zombie: it has ended, and nobody has asked for its exit status yet.
    ended: bool,
}

/// What `/proc/PID/stat` says (proc(5)); the process's name in it may hold anything, so fields count from behind it.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // Fields 3 (state) and 22 (start time) of the line.
    let (state, ticks) = (fields.first()?, fields.get(19)?);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(Stat { started: format!("{}/{ticks}", boot.trim()), ended: matches!(*state, "Z" | "X") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = sleeper();
        let id = ProcessId::of(child.id());
        assert!(id.is_alive());
        id.signal(Signal::SIGKILL);
        child.wait().unwrap();
        assert!(!id.is_alive());
    }

    #[test]
    fn a_reused_number_is_another_process() {
        let id = ProcessId::of(std::process::id());
        assert!(id.is_alive());
        let earlier = ProcessId { started: Some("another boot/1".into()), ..id };
        assert!(!earlier.is_alive());
    }

    #[test]
    fn a_process_that_ended_and_was_not_waited_for_is_not_alive() {
        let mut child = sleeper();
        let id = ProcessId::of(child.id());
        child.kill().unwrap();
        // The signal is delivered, the zombie stays: no wait so far.
        while id.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
