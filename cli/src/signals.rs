//! Being asked to stop: by Ctrl-C, by a service manager, by a terminal that closes.

use std::io;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// One request may arrive twice: `timeout` signals its child and then the whole group.
const ECHO: Duration = Duration::from_millis(500);

/// SIGINT, SIGTERM and SIGHUP, from the moment this is made.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    /// Takes these signals over from their default, which is to die at once.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// After one: waits for another that is meant as such, and names it.
    pub(crate) async fn again(&mut self) -> &'static str {
        tokio::time::sleep(ECHO).await;
        while self.next().now_or_never().is_some() {}
        self.next().await
    }

    /// Waits for the next one and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
