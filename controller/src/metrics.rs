//! What a controller tells Prometheus: every name, with its help, is in this
//! file.
//!
//! Events are counted where they happen, through the handles of [`Probes`];
//! what merely stands somewhere is read when somebody asks ([`Metrics`]). Each
//! controller has its own recorder, so that several can live in one process;
//! one without an HTTP listener has none, and its probes do nothing.

use crate::group_lag;
use crate::raft::{ProposeError, RaftNode, Role, Sizes};
use crate::state::kv::KvError;
use crate::state::{sessions, topics};
use metrics::{Counter, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use std::time::Duration;
use streamhouse_observe::resident_bytes;

const COMMIT_SECONDS: &str = "streamhouse_controller_commit_seconds";
const LOG_SYNC_SECONDS: &str = "streamhouse_controller_log_sync_seconds";
const APPLY_SECONDS: &str = "streamhouse_controller_apply_seconds";
const LOOK_UP_SECONDS: &str = "streamhouse_controller_look_up_seconds";
const FAILED: &str = "streamhouse_controller_proposals_failed_total";
const LEADER_CHANGES: &str = "streamhouse_controller_leader_changes_total";
const LEASE_MOVES: &str = "streamhouse_controller_lease_moves_total";
const COMMITS_REFUSED: &str = "streamhouse_controller_commits_refused_total";

/// From a fast disk's sync to a disk that is given up.
const SYNC_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// From one such sync to the time after which an outcome is unknown.
const COMMIT_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0];

/// From one small group to a state that has come to a stand.
const APPLY_BUCKETS: [f64; 13] =
    [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// From one place in the cache to a full plan of a thousand partitions, or a wait for what was asked to be seen.
const LOOK_UP_BUCKETS: [f64; 13] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

const HISTOGRAMS: [(&str, &[f64], &str); 4] = [
    (
        COMMIT_SECONDS,
        &COMMIT_BUCKETS,
        "Time from a command's proposal at this leader to its answer: replicated, synced by a majority, applied.",
    ),
    (
        LOG_SYNC_SECONDS,
        &SYNC_BUCKETS,
        "Time of one synced write of the log, which may hold many entries.",
    ),
    (
        APPLY_SECONDS,
        &APPLY_BUCKETS,
        "Time in which a group of committed entries was applied, or nothing could be; by whether a snapshot was being made.",
    ),
    (
        LOOK_UP_SECONDS,
        &LOOK_UP_BUCKETS,
        "Time in which a request for read plans was answered here, or found wrong; by whether it asked to be linearizable.",
    ),
];

const COUNTERS: [(&str, &str); 4] = [
    (
        FAILED,
        "Commands proposed at this leader that were not answered by the state machine, by reason.",
    ),
    (LEADER_CHANGES, "Terms in which this controller became the leader."),
    (LEASE_MOVES, "Write leases of partitions that changed hands while this controller led."),
    (
        COMMITS_REFUSED,
        "Commits that were refused, in part or as a whole, while this controller led.",
    ),
];

const TERM: &str = "streamhouse_controller_term";
const ROLE: &str = "streamhouse_controller_role";
const INFO: &str = "streamhouse_controller_info";

/// Names and helps of [`gauges`], in its order.
const GAUGES: [(&str, &str); 27] = [
    (TERM, "The Raft term it is in; missing while it does not know it."),
    (
        "streamhouse_controller_leader_id",
        "Number of the controller that leads, as far as it knows; 0 if none.",
    ),
    ("streamhouse_controller_last_log_index", "Index of the last entry of its log."),
    (
        "streamhouse_controller_committed_index",
        "Index of the last entry that it knows to be committed.",
    ),
    ("streamhouse_controller_applied_index", "Index of the last entry that it has applied."),
    (
        "streamhouse_controller_snapshot_index",
        "Index of the last entry in its snapshot; 0 if it has none.",
    ),
    (
        "streamhouse_controller_snapshot_age_seconds",
        "Time since its snapshot was written; 0 if it has none.",
    ),
    (
        "streamhouse_controller_snapshot_size_bytes",
        "Size of its snapshot's file; 0 if it has none.",
    ),
    (
        "streamhouse_controller_state_size_bytes",
        "Size of the applied state, as RocksDB estimates it.",
    ),
    ("streamhouse_controller_log_queue_requests", "Requests that wait for the writer of the log."),
    (
        "streamhouse_controller_log_write_outstanding_seconds",
        "How long the log's write in progress has taken so far.",
    ),
    (
        "streamhouse_controller_proposals_in_flight_bytes",
        "Bytes of commands proposed here and not applied yet.",
    ),
    (
        "streamhouse_controller_proposals_in_flight_limit_bytes",
        "Above this, commands are refused as overload.",
    ),
    (
        "streamhouse_controller_apply_queue_entries",
        "Committed entries that it has not applied yet.",
    ),
    ("streamhouse_controller_watchers", "Watch streams open here."),
    ("streamhouse_controller_connections", "Connections of agents and clients open here."),
    ("streamhouse_controller_calls", "Calls of agents and clients that it is working at."),
    ("streamhouse_controller_sessions", "Live sessions of agents, in its applied state."),
    ("streamhouse_controller_leases", "Write leases held by agents, in its applied state."),
    ("streamhouse_controller_topics", "Topics, in its applied state."),
    ("streamhouse_controller_partitions", "Partitions of all topics, in its applied state."),
    ("streamhouse_controller_takes_part", "1 once its disk was found to be what it was, 0 before."),
    ("streamhouse_controller_resident_memory_bytes", "Resident memory of its process."),
    (
        "streamhouse_controller_feature_level",
        "The cluster's feature level, in its applied state; 0 before the cluster has one.",
    ),
    (
        "streamhouse_controller_reads_feature_level",
        "The highest feature level that its release reads.",
    ),
    ("streamhouse_controller_log_size_bytes", "Size of the entries in its log."),
    (
        "streamhouse_controller_clock_apart_seconds",
        "How far cluster time is from its wall time, if it leads and that is over a minute: \
         nothing is deleted then; 0 otherwise.",
    ),
];

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Handles for what happens: cloning one is cheap, using one allocates
/// nothing. By default they do nothing.
#[derive(Debug, Clone)]
pub struct Probes {
    pub(crate) commit_seconds: Histogram,
    pub(crate) log_sync_seconds: Histogram,
    apply_seconds: Histogram,
    apply_in_snapshot_seconds: Histogram,
    look_up_seconds: Histogram,
    linearizable_look_up_seconds: Histogram,
    pub(crate) leader_changes: Counter,
    pub(crate) lease_moves: Counter,
    pub(crate) commits_refused: Counter,
    no_leader: Counter,
    too_large: Counter,
    overloaded: Counter,
    feature_level: Counter,
    indeterminate: Counter,
    shutting_down: Counter,
}

impl Default for Probes {
    fn default() -> Self {
        Self::of(&metrics::NoopRecorder)
    }
}

impl Probes {
    fn of(recorder: &dyn Recorder) -> Self {
        let histogram = |name| recorder.register_histogram(&Key::from_static_name(name), &METADATA);
        let counter = |name| recorder.register_counter(&Key::from_static_name(name), &METADATA);
        let labelled = |name, label, value| {
            let labels = vec![Label::from_static_parts(label, value)];
            recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
        };
        let apply = |snapshot| labelled(APPLY_SECONDS, "snapshot", snapshot);
        let look_up = |linearizable| labelled(LOOK_UP_SECONDS, "linearizable", linearizable);
        let failed = |reason: &'static str| {
            let key = Key::from_parts(FAILED, vec![Label::from_static_parts("reason", reason)]);
            recorder.register_counter(&key, &METADATA)
        };
        Self {
            commit_seconds: histogram(COMMIT_SECONDS),
            log_sync_seconds: histogram(LOG_SYNC_SECONDS),
            apply_seconds: apply("no"),
            apply_in_snapshot_seconds: apply("yes"),
            look_up_seconds: look_up("no"),
            linearizable_look_up_seconds: look_up("yes"),
            leader_changes: counter(LEADER_CHANGES),
            lease_moves: counter(LEASE_MOVES),
            commits_refused: counter(COMMITS_REFUSED),
            no_leader: failed("no_leader"),
            too_large: failed("too_large"),
            overloaded: failed("overloaded"),
            feature_level: failed("feature_level"),
            indeterminate: failed("outcome_unknown"),
            shutting_down: failed("shutting_down"),
        }
    }

    /// A group of entries was applied within so long; or, for a snapshot,
    /// nothing could be.
    pub(crate) fn applied(&self, took: Duration, in_snapshot: bool) {
        let histogram =
            if in_snapshot { &self.apply_in_snapshot_seconds } else { &self.apply_seconds };
        histogram.record(took.as_secs_f64());
    }

    /// A look-up took so long.
    pub(crate) fn looked_up(&self, took: Duration, linearizable: bool) {
        let histogram =
            if linearizable { &self.linearizable_look_up_seconds } else { &self.look_up_seconds };
        histogram.record(took.as_secs_f64());
    }

    /// A command was answered, or not, after so long.
    pub(crate) fn proposed<T>(&self, took: Duration, outcome: &Result<T, ProposeError>) {
        match outcome {
            Ok(_) => self.commit_seconds.record(took.as_secs_f64()),
            Err(ProposeError::NoLeader { .. }) => self.no_leader.increment(1),
            Err(ProposeError::TooLarge { .. }) => self.too_large.increment(1),
            Err(ProposeError::Overloaded(_)) => self.overloaded.increment(1),
            Err(ProposeError::FeatureLevel { .. }) => self.feature_level.increment(1),
            Err(ProposeError::Indeterminate(_)) => self.indeterminate.increment(1),
            Err(ProposeError::ShuttingDown) => self.shutting_down.increment(1),
        }
    }
}

/// Counts that only the services know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    pub(crate) watchers: usize,
    pub(crate) connections: usize,
    pub(crate) calls: usize,
}

/// One controller's recorder.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for (name, buckets, _) in HISTOGRAMS {
            builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
        }
        let recorder = builder.build_recorder();
        for (name, _, help) in HISTOGRAMS {
            recorder.describe_histogram(KeyName::from(name), None, help.into());
        }
        for (name, help) in COUNTERS {
            recorder.describe_counter(KeyName::from(name), None, help.into());
        }
        let roles = [
            (ROLE, "1 for the role it has, 0 for the others."),
            (INFO, "1; its labels say which controller this is."),
        ];
        for (name, help) in GAUGES.into_iter().chain(roles) {
            recorder.describe_gauge(KeyName::from(name), None, help.into());
        }
        let handle = recorder.handle();
        Ok(Self { recorder, handle })
    }

    /// Handles that write to this recorder.
    pub(crate) fn probes(&self) -> Probes {
        Probes::of(&self.recorder)
    }

    /// Moves what was recorded into the histograms. BOUND: must be called now
    /// and then, or what nobody scrapes would gather.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Everything, as of now. Reads the state: not for the runtime's threads.
    pub(crate) fn render(&self, raft: &RaftNode, served: Served) -> Result<String, KvError> {
        let status = raft.status();
        let leads = status.role == Role::Leader;
        for (value, (name, _)) in gauges(raft, served)?.into_iter().zip(GAUGES) {
            // Not known before Raft has read it.
            if name == TERM && value == 0.0 {
                continue;
            }
            self.set(Key::from_static_name(name), value);
        }
        for role in [Role::Leader, Role::Follower, Role::Candidate, Role::Learner] {
            let label = Label::from_static_parts("role", role.as_str());
            self.set(Key::from_parts(ROLE, vec![label]), f64::from(role == status.role));
        }
        let labels = vec![
            Label::new("controller", status.id.to_string()),
            Label::new("disk", status.disk),
            Label::from_static_parts("version", env!("CARGO_PKG_VERSION")),
        ];
        self.set(Key::from_parts(INFO, labels), 1.0);
        let mut text = self.handle.render();
        // By one controller, so that a sum over all of them is right.
        if leads {
            text.push_str(&group_lag::render(&raft.try_view()?)?);
        }
        Ok(text)
    }

    fn set(&self, key: Key, value: f64) {
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }
}

fn gauges(raft: &RaftNode, served: Served) -> Result<[f64; GAUGES.len()], KvError> {
    let (status, health) = (raft.status(), raft.health());
    let Sizes { state_bytes, snapshot_bytes, snapshot_age, log_bytes, log_queue, in_flight, limit } =
        raft.sizes();
    let view = raft.try_view()?;
    let live = sessions::live(&view)?;
    let leases: u64 = live.iter().map(|(_, session)| u64::from(session.leases)).sum();
    let (whole, levels) = (|number: u64| number as f64, raft.feature_levels());
    Ok([
        whole(status.term),
        whole(health.leader.unwrap_or(0)),
        whole(status.last_log),
        whole(health.committed),
        whole(health.applied),
        whole(status.snapshot),
        snapshot_age.unwrap_or_default().as_secs_f64(),
        whole(snapshot_bytes),
        whole(state_bytes),
        log_queue as f64,
        health.outstanding.as_secs_f64(),
        in_flight as f64,
        limit as f64,
        whole(health.committed.saturating_sub(health.applied)),
        served.watchers as f64,
        served.connections as f64,
        served.calls as f64,
        live.len() as f64,
        whole(leases),
        whole(topics::topic_count(&view)?),
        whole(topics::partition_count(&view)?),
        f64::from(health.admitted),
        whole(resident_bytes()),
        f64::from(levels.0),
        f64::from(levels.1),
        whole(log_bytes),
        raft.clock_apart().unwrap_or_default().as_secs_f64(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_recorder_counts_for_itself() {
        let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        let probes = one.probes();
        probes.lease_moves.increment(3);
        probes.applied(Duration::from_millis(30), true);
        probes.looked_up(Duration::from_micros(300), false);
        probes.proposed(Duration::from_millis(3), &Ok(()));
        probes.proposed::<()>(Duration::ZERO, &Err(ProposeError::Overloaded("full".into())));
        other.probes();
        let text = one.handle.render();
        for line in [
            "streamhouse_controller_lease_moves_total 3",
            "streamhouse_controller_proposals_failed_total{reason=\"overloaded\"} 1",
            "streamhouse_controller_commit_seconds_bucket{le=\"0.002\"} 0",
            "streamhouse_controller_commit_seconds_bucket{le=\"0.004\"} 1",
            "# TYPE streamhouse_controller_commit_seconds histogram",
            "streamhouse_controller_look_up_seconds_bucket{linearizable=\"no\",le=\"0.0005\"} 1",
            "streamhouse_controller_look_up_seconds_bucket{linearizable=\"yes\",le=\"5\"} 0",
            "streamhouse_controller_apply_seconds_bucket{snapshot=\"yes\",le=\"0.025\"} 0",
            "streamhouse_controller_apply_seconds_bucket{snapshot=\"yes\",le=\"0.05\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no '{line}' in\n{text}");
        }
        let text = other.handle.render();
        assert!(text.contains("streamhouse_controller_lease_moves_total 0"), "{text}");
    }

    #[test]
    fn every_name_has_the_prefix_and_a_help() {
        let all = GAUGES.into_iter().chain(COUNTERS);
        let all = all.chain(HISTOGRAMS.map(|(name, _, help)| (name, help)));
        for (name, help) in all {
            assert!(name.starts_with("streamhouse_controller_"), "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
        }
        for (name, _) in COUNTERS {
            assert!(name.ends_with("_total"), "{name}");
        }
    }
}
