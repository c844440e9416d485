//! No process of a test outlives it.
//!
//! A guardian, `sh`, waits for the end of its stdin, a pipe that the test holds: it closes when the test drops it, and
//! as well when the test process is killed. Then the guardian kills its process group, into which the processes under
//! test are put, itself included.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits until no other cluster runs in this test binary.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    // A test that failed while it held the lock has dropped its cluster all the same.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Guardian(Child);

impl Guardian {
    /// A guardian that kills its process group.
    pub(crate) fn of_a_group() -> Self {
        Self::running("kill -KILL 0")
    }

    /// A guardian that runs `script` instead; `$1` and so on are `arguments`.
    pub(crate) fn with_script(script: &str, arguments: &[&str]) -> Self {
        Self::start(script, arguments)
    }

    fn running(script: &str) -> Self {
        Self::start(script, &[])
    }

    fn start(script: &str, arguments: &[&str]) -> Self {
        let child = Command::new("sh")
            .args(["-c", &format!("read -r _; {script}"), "guardian"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Self(child)
    }

    /// The group to put processes into.
    pub(crate) fn group(&self) -> i32 {
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
