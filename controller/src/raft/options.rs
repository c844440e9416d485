//! What a controller's Raft node is started with.

use crate::limits::Limits;
use crate::metrics::Probes;
use crate::state::features;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The largest encoded command, so that any batch of entries fits a message.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;

/// A snapshot is made after so many bytes of log, by default.
pub const SNAPSHOT_EVERY_BYTES: u64 = 256 << 20;
/// So many bytes of log before the snapshot stay, by default.
pub const KEEP_LOG_BYTES: u64 = 64 << 20;

/// See [`RaftOptions::new`] for the defaults.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// This node's number.
    pub node_id: u64,
    /// `host:port` under which the others reach this node.
    pub advertise: String,
    /// All controllers of the cluster, this one included, by number.
    pub peers: BTreeMap<u64, String>,
    /// It may found a cluster together with its peers; one that joins never
    /// does.
    pub founds: bool,
    /// A node that starts, and finds no leader, waits so long for the word of
    /// all voters before it settles for a majority's.
    pub wait_for_all: Duration,
    /// Between the marks of the members' disks, while these move.
    pub mark_every: Duration,
    /// The data directory; this node's alone.
    pub data: PathBuf,
    /// Between a leader's heartbeats.
    pub heartbeat: Duration,
    /// See `election_max`.
    pub election_min: Duration,
    /// A follower holds to its leader for `election_max` after the last word
    /// from it, and campaigns after a further random time between
    /// `election_min` and `election_max`.
    pub election_max: Duration,
    /// A snapshot is made after so many entries.
    pub snapshot_every: u64,
    /// A snapshot is also made after so many bytes of entries.
    pub snapshot_every_bytes: u64,
    /// So many entries before the snapshot stay in the log, for followers
    /// that are a little behind.
    pub keep_logs: u64,
    /// Of these, no more than so many bytes stay.
    pub keep_log_bytes: u64,
    /// How much it takes.
    pub limits: Limits,
    /// Where it counts what happens.
    pub probes: Probes,
    /// The highest feature level that it says, and takes care, to read. Lower
    /// than this release's own only in tests, where it stands for an older
    /// one.
    pub reads_level: u32,
}

impl RaftOptions {
    /// Options with the defaults: 10 s for the word of all voters, heartbeats every 60 ms, campaigns 0.55 to
    /// 0.7 s after the last one, a snapshot every 100,000 entries or 256 MiB of
    /// them, of which the last 10,000, or 64 MiB, stay in the log.
    pub fn new(
        node_id: u64,
        advertise: impl Into<String>,
        peers: BTreeMap<u64, String>,
        data: impl Into<PathBuf>,
    ) -> Self {
        Self {
            node_id,
            advertise: advertise.into(),
            peers,
            founds: true,
            wait_for_all: Duration::from_secs(10),
            mark_every: Duration::from_secs(1),
            data: data.into(),
            heartbeat: Duration::from_millis(60),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(350),
            snapshot_every: 100_000,
            snapshot_every_bytes: SNAPSHOT_EVERY_BYTES,
            keep_logs: 10_000,
            keep_log_bytes: KEEP_LOG_BYTES,
            limits: Limits::default(),
            probes: Probes::default(),
            reads_level: features::NEWEST,
        }
    }

    /// openraft's configuration.
    pub(crate) fn config(&self) -> Result<openraft::Config, openraft::ConfigError> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        openraft::Config {
            cluster_name: "streamhouse".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_logs,
            // Entries are better than a snapshot as long as the log has them.
            replication_lag_threshold: self.snapshot_every.saturating_mul(2),
            max_payload_entries: 256,
            // BOUND on what waits for the core; proposals are bounded in bytes
            // where they come in.
            api_channel_size: Some(8192),
            enable_pre_vote: Some(true),
            // Not before the disk was found to be what it was: see `admission`.
            enable_elect: false,
            // The state is written unsynced, so a leader that restarts does
            // not know that its state is current before an election says so.
            enable_leader_restore: Some(false),
            backoff: "50ms 100ms 200ms ...500ms".into(),
            ..openraft::Config::default()
        }
        .validate()
    }
}
