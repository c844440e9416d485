//! The wall clock of a process, ahead or behind by what is told: `interpose.c` again. Its monotonic clock goes on as ever.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{library, struck, tell};

/// One process's wall clock.
#[derive(Clone, Debug)]
pub(crate) struct Clock(PathBuf);

impl Clock {
    /// Controlled by this file.
    pub(crate) fn at(control: PathBuf) -> Self {
        Self(control)
    }

    /// What a process must have in its environment for its clock to be this one. Needs a C compiler, once.
    pub(crate) fn environment(&self) -> io::Result<Vec<(&'static str, PathBuf)>> {
        Ok(vec![("LD_PRELOAD", library()?.to_owned()), ("CLOCK_CONTROL", self.0.clone())])
    }

    /// From now on it is so many seconds ahead.
    pub(crate) fn jump(&self, seconds: i64) -> io::Result<()> {
        match seconds {
            // What met with it until now is still to be asked for.
            0 => fs::write(&self.0, "0"),
            _ => tell(&self.0, &seconds.to_string()),
        }
    }

    /// How often its process was told another time than it is since it was set last; that is looked up now and then.
    pub(crate) fn struck(&self) -> u64 {
        struck(&self.0)
    }

    /// Whether that process looks at it.
    pub(crate) fn is_that_of(pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/maps"))
            .is_ok_and(|maps| maps.contains("libdisk.so"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn year(clock: &Clock) -> i32 {
        let environment = clock.environment().unwrap();
        let said = Command::new("date").arg("+%Y").envs(environment).output().unwrap();
        String::from_utf8(said.stdout).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn a_process_sees_the_clock_that_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::at(folder.path().join("clock"));
        let now = year(&clock);
        clock.jump(-10 * 366 * 86_400).unwrap();
        assert_eq!(clock.struck(), 0);
        assert!(year(&clock) <= now - 10);
        assert!(clock.struck() > 0);
        clock.jump(0).unwrap();
        assert!(year(&clock) >= now);
    }

    #[test]
    fn a_process_with_such_a_clock_is_known_though_the_library_has_no_name_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Clock::at(folder.path().join("clock")).environment().unwrap();
        let mut with = Command::new("cat").stdin(Stdio::piped()).envs(environment).spawn().unwrap();
        let mut without = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        while !Clock::is_that_of(with.id()) {
            assert!(with.try_wait().unwrap().is_none());
        }
        assert!(!Clock::is_that_of(without.id()));
        for process in [&mut with, &mut without] {
            drop(process.stdin.take());
            assert!(process.wait().unwrap().success());
        }
    }
}
