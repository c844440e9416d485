//! A member as a process, and what it says.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use streamhouse_tests::{LocalCluster, micros, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// One line of a member, and when it was said, in microseconds of the machine's monotonic clock.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Assigned(Vec<u32>),
    Revoked(Vec<u32>),
    Lost(Vec<u32>),
    /// Handed out: partition, first and last offset.
    Read(u32, u64, u64),
    /// Anything else.
    Said(String),
}

impl Line {
    fn parse(line: &str) -> Self {
        let (at, rest) = line.split_once(' ').unwrap();
        let (word, arguments) = rest.split_once(' ').unwrap_or((rest, ""));
        let numbers = || arguments.split(' ').filter_map(|n| n.parse().ok()).collect::<Vec<u64>>();
        let partitions = || numbers().into_iter().map(|n| n as u32).collect();
        let what = match word {
            "assigned" => What::Assigned(partitions()),
            "revoked" => What::Revoked(partitions()),
            "lost" => What::Lost(partitions()),
            "read" => {
                let [partition, first, last] = numbers()[..] else { panic!("{line}") };
                What::Read(partition as u32, first, last)
            }
            _ => What::Said(rest.to_owned()),
        };
        Self { at: at.parse().unwrap(), what }
    }
}

pub(crate) struct Member {
    pub(crate) name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Member {
    pub(crate) fn start(cluster: &LocalCluster, number: usize, session_timeout: Duration) -> Self {
        let name = format!("member-{number}");
        let file = |end: &str| cluster.folder().join(format!("{name}.{end}"));
        let (out, err) = (file("out"), file("log"));
        let child = Command::new(env!("CARGO_BIN_EXE_group-member"))
            .args([&cluster.controllers(), "g", "t", &session_timeout.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .process_group(cluster.process_group())
            .spawn()
            .unwrap();
        Self { name, child, out, err }
    }

    /// Tells it what to do.
    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    /// Sends the signal, and when that was.
    pub(crate) fn signal(&self, signal: Signal) -> u64 {
        let at = micros();
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        at
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(&self.out).unwrap();
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(Line::parse).collect()
    }

    /// What it reads now.
    pub(crate) fn holds(&self) -> Vec<u32> {
        let mut holds = Vec::new();
        for line in self.lines() {
            match line.what {
                What::Assigned(new) => holds.extend(new),
                What::Revoked(gone) | What::Lost(gone) => holds.retain(|p| !gone.contains(p)),
                What::Read(..) | What::Said(_) => {}
            }
        }
        holds
    }

    /// Waits until it has said that, and when it did.
    pub(crate) fn said(&self, what: &str) -> u64 {
        let wanted = |line: &Line| matches!(&line.what, What::Said(said) if said.starts_with(what));
        until(&format!("{} says '{what}'", self.name), PATIENCE, || {
            self.lines().iter().find(|line| wanted(line)).map(|line| line.at)
        })
    }

    /// Closes it and waits for its end; when it began to close.
    pub(crate) fn close(&mut self) -> u64 {
        self.tell("close");
        let closing = self.said("closing");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {}", self.name, fs::read_to_string(&self.err).unwrap());
        closing
    }

    /// Its end after a signal.
    pub(crate) fn wait(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // One that has ended already is as dead as it will be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
