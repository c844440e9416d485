//! No process of a trial outlives it.
//!
//! A guardian, `sh`, waits for the end of its stdin, a pipe that the suite holds: it closes when the suite drops it, and
//! as well when the suite is killed. Then the guardian kills its process group, into which all processes of the trial
//! are put, itself included.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

const SCRIPT: &str = "trap '' INT TERM HUP; read -r _; kill -KILL 0";

/// See the module.
#[derive(Debug)]
pub(super) struct Guardian(Child);

impl Guardian {
    /// A guardian of a new group.
    pub(super) fn of_a_group() -> io::Result<Self> {
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "guardian"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self(child))
    }

    /// The group to put processes into.
    pub(super) fn group(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Its own end by its own signal is the plan.
        let _ = self.0.wait();
    }
}
