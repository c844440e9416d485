//! Test support: moto, an S3 server in Python, as a process on loopback.
//!
//! `tests/s3/setup-venv.sh` installs it (`make test` runs that). moto looks whether a key exists and writes it in
//! two steps, and serves each connection on a thread of its own, so `tests/s3/serve.py` lets one PUT in at a
//! time; all else is moto's.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Store, StoreOptions};

/// A running moto server with one bucket. Killed when dropped, and when this process dies.
pub struct Moto {
    child: Child,
    /// Kept open: a server whose output is closed would fail on its next line.
    _output: BufReader<ChildStdout>,
    port: u16,
}

const BUCKET: &str = "streamhouse";

impl Moto {
    /// Start a server and wait until it says that it listens.
    ///
    /// # Panics
    /// With what to do about it, if moto is not installed or does not start.
    pub async fn start() -> Self {
        let mut child = Command::new(python())
            .arg(tools().join("serve.py"))
            // The server ends when this pipe does, so it cannot outlive us.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("python of the S3 test server cannot be started");
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        let read = output.read_line(&mut line);
        let Some(port) = line.trim().strip_prefix("listening ").and_then(|p| p.parse().ok()) else {
            let _ = child.kill();
            let _ = child.wait();
            let mut rest = String::new();
            let _ = output.read_to_string(&mut rest);
            panic!("the S3 test server did not start: {read:?} {line}{rest}");
        };
        let server = Self { child, _output: output, port };
        server.request("PUT", &format!("/{BUCKET}")).await;
        server
    }

    /// `http://127.0.0.1:<port>`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL of a store in this server's bucket.
    #[must_use]
    pub fn store_url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// The options (as of the environment) with which that URL is opened, by this process or another.
    #[must_use]
    pub fn options(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT", self.url().as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// A store in this server's bucket.
    #[must_use]
    pub fn store(&self, prefix: &str) -> Store {
        StoreOptions::new()
            .without_environment()
            .set_all(self.options())
            .open(&self.store_url(prefix))
            .expect("options of the S3 test server")
    }

    /// One unsigned request by hand, which must be answered with 200.
    async fn request(&self, method: &str, path: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("connect");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tools() -> PathBuf {
    // Asked when it runs: clones may share one target folder.
    let home = std::env::var("CARGO_MANIFEST_DIR");
    let home = home.unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(home).join("../tests/s3")
}

fn python() -> PathBuf {
    let script = tools().join("setup-venv.sh");
    let output = Command::new(&script).arg("--path").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(
        output.status.success(),
        "the S3 test server is not installed: run `make test`, which runs tests/s3/setup-venv.sh ({})",
        said(&output.stderr)
    );
    said(&output.stdout).into()
}
