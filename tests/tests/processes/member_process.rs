//! A `group-member` as a process, and what it says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use streamhouse_tests::{LocalCluster, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Reads topic `t` as a member of group `g`.
pub(crate) struct MemberProcess {
    child: Child,
    out: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// One poll handed these out: partition, first and last offset.
    Read(u32, u64, u64),
    /// Anything else.
    Word(String),
}

/// What was handed out of each partition: the first and the last offset.
pub(crate) type Runs = BTreeMap<u32, (u64, u64)>;

impl MemberProcess {
    pub(crate) fn start(
        cluster: &LocalCluster,
        name: &str,
        session_timeout: Duration,
        options: &[&str],
    ) -> Self {
        let out = cluster.folder().join(format!("{name}.out"));
        let log = File::create(cluster.folder().join(format!("{name}.log"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_group-member"))
            .args([&cluster.controllers(), "g", "t", &session_timeout.as_millis().to_string()])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(File::create(&out).unwrap())
            .stderr(log)
            .process_group(cluster.process_group())
            .spawn()
            .unwrap();
        Self { child, out }
    }

    /// Tells it what to do.
    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    /// All that it has said.
    pub(crate) fn said(&self) -> Vec<Said> {
        let text = fs::read_to_string(&self.out).unwrap();
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let parse = |line: &str| {
            let (_, what) = line.split_once(' ').unwrap();
            let Some(numbers) = what.strip_prefix("read ") else {
                return Said::Word(what.to_owned());
            };
            let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
            Said::Read(numbers[0] as u32, numbers[1], numbers[2])
        };
        whole.lines().map(parse).collect()
    }

    /// Waits until it has said that; what it had said before.
    pub(crate) fn until_said(&self, what: &str) -> Vec<Said> {
        until(&format!("it says '{what}'"), PATIENCE, || {
            let mut said = self.said();
            let at = said.iter().position(|said| *said == Said::Word(what.to_owned()))?;
            said.truncate(at);
            Some(said)
        })
    }

    /// `kill -9`, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        // One that has ended already is as dead as it will be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// READ: what was handed out of each partition follows one upon another.
pub(crate) fn runs(said: &[Said]) -> Runs {
    let mut runs = Runs::new();
    for said in said {
        let Said::Read(partition, first, last) = *said else { continue };
        let run = runs.entry(partition).or_insert((first, first.wrapping_sub(1)));
        assert_eq!(first, run.1.wrapping_add(1), "READ: goes on in {partition} after {run:?}");
        run.1 = last;
    }
    runs
}
