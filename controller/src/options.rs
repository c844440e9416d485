//! What a controller is started with.

use crate::backup::BackupPlan;
use crate::limits::Limits;
use crate::liveness::Patience;
use crate::raft::{KEEP_LOG_BYTES, SNAPSHOT_EVERY_BYTES};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// See [`ControllerOptions::new`] for the defaults.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// This controller's number, one of `peers`; without meaning where it
    /// joins.
    pub node_id: u64,
    /// Some controllers of a running cluster: this one joins it, gets its
    /// number from it, and founds none. Empty for one of the founders.
    pub join: Vec<String>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it answers `/healthz`, `/readyz` and `/metrics` over HTTP, if
    /// anywhere.
    pub http_listen: Option<SocketAddr>,
    /// `host:port` under which the others and clients reach it; by default
    /// its address in `peers`.
    pub advertise: Option<String>,
    /// All controllers of the cluster, this one included.
    pub peers: BTreeMap<u64, String>,
    /// Its data directory.
    pub data: PathBuf,
    /// A session that is silent for so long is ended.
    pub session_ttl: Duration,
    /// A session whose stream broke is ended after so long, and by a new
    /// leader not before. One that has not come to a controller yet has
    /// `session_ttl` from when that was started.
    pub session_grace: Duration,
    /// Agents are told to send heartbeats this often.
    pub heartbeat_interval: Duration,
    /// A snapshot is made after so many log entries.
    pub snapshot_every: u64,
    /// A snapshot is also made after so many bytes of entries.
    pub snapshot_every_bytes: u64,
    /// So many entries before the snapshot stay in the log.
    pub keep_logs: u64,
    /// Of these, no more than so many bytes stay.
    pub keep_log_bytes: u64,
    /// How much it takes.
    pub limits: Limits,
    /// A consumer group without members in which nothing happens for so long
    /// is removed, with its offsets; in cluster time.
    pub group_retention: Duration,
    /// When this one leads, it backs the metadata up into the cluster's store.
    pub backups: Option<BackupPlan>,
    /// An object that left the index is deleted no sooner than this: a reader
    /// may still hold a plan that names it.
    pub gc_grace: Duration,
    /// From one sweep for unreachable objects to the next.
    pub gc_interval: Duration,
}

impl ControllerOptions {
    /// One that joins the cluster of the controllers at `join`.
    pub fn joining(join: Vec<String>, listen: SocketAddr, data: impl Into<PathBuf>) -> Self {
        Self { join, ..Self::new(0, listen, BTreeMap::new(), data) }
    }

    /// How long agents may be silent.
    pub(crate) fn patience(&self) -> Patience {
        Patience { silent: self.session_ttl, gone: self.session_grace }
    }

    /// Options with the defaults: sessions end after 3 s of silence, 500 ms
    /// after a broken stream, and send heartbeats every 300 ms; a snapshot
    /// every 100,000 entries or 256 MiB of them, of which the last 10,000, or
    /// 64 MiB, stay; groups are removed after 7 days; no backups; unreachable
    /// objects are looked for every 10 minutes, and deleted an hour after they
    /// left the index.
    pub fn new(
        node_id: u64,
        listen: SocketAddr,
        peers: BTreeMap<u64, String>,
        data: impl Into<PathBuf>,
    ) -> Self {
        Self {
            node_id,
            join: Vec::new(),
            listen,
            http_listen: None,
            advertise: None,
            peers,
            data: data.into(),
            session_ttl: Duration::from_secs(3),
            session_grace: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(300),
            snapshot_every: 100_000,
            snapshot_every_bytes: SNAPSHOT_EVERY_BYTES,
            keep_logs: 10_000,
            keep_log_bytes: KEEP_LOG_BYTES,
            limits: Limits::default(),
            group_retention: Duration::from_secs(7 * 24 * 3600),
            backups: None,
            gc_grace: Duration::from_secs(3_600),
            gc_interval: Duration::from_secs(600),
        }
    }
}
