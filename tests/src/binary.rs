//! The `streamhouse` binary under test.

use std::env;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

/// Where the binary is: beside the test binaries, where `cargo test --workspace` (or `cargo build`) puts it.
///
/// # Panics
///
/// If it was not built.
pub fn binary() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("tests lie in deps/");
    let binary = folder.join("streamhouse");
    let hint = "build it first: cargo build --release --package streamhouse-cli";
    assert!(binary.is_file(), "{} is missing; {hint}", binary.display());
    binary
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    args: String,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: String,
}

impl Finished {
    pub(crate) fn of(args: impl IntoIterator<Item = impl AsRef<OsStr>>, output: Output) -> Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_string_lossy().into_owned());
        Self {
            args: args.collect::<Vec<_>>().join(" "),
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, having exited with 0.
    ///
    /// # Panics
    ///
    /// If it exited otherwise.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "streamhouse {}: {}", self.args, self.stderr);
        self
    }

    /// The error it ended with: one line, `error: …`, and a non-zero exit code.
    ///
    /// # Panics
    ///
    /// If it did anything else.
    #[track_caller]
    pub fn error(&self) -> &str {
        assert!(self.code.is_some_and(|code| code != 0), "streamhouse {}: {self:?}", self.args);
        let lines: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(lines.len(), 1, "streamhouse {}: {}", self.args, self.stderr);
        lines[0]
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("streamhouse {}: {error}: {self:?}", self.args))
    }

    /// The lines it printed.
    pub fn lines(&self) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> =
            self.stdout.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines
    }
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Finished {
    run_with(args, &[], b"")
}

/// Runs the binary to its end, with these environment variables and this input.
///
/// # Panics
///
/// If it cannot be started.
pub fn run_with(args: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Finished {
    let mut child = Command::new(binary())
        .args(args)
        .env_remove("STREAMHOUSE_CONTROLLERS")
        .env_remove("STREAMHOUSE_LOG")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    // On a thread: both pipes may fill up. A command that does not read its input closes it; that is its business.
    let feeder = thread::Builder::new()
        .name("feeder".into())
        .spawn(move || stdin.write_all(&input))
        .expect("a thread starts");
    let output = child.wait_with_output().expect("the binary ends");
    let _ = feeder.join().expect("the feeder does not panic");
    Finished::of(args, output)
}
