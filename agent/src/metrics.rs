//! What an agent tells Prometheus: every name, with its help, is in this file.
//!
//! Events are counted where they happen, through the handles of [`Probes`], which allocate nothing; what merely stands
//! somewhere is read when somebody asks ([`Metrics::render`]). Each agent has its own recorder, so that several can
//! live in one process; one without an HTTP listener has none, and its probes do nothing.

use crate::put::Cause;
use metrics::{Counter, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use std::sync::Arc;
use streamhouse_proto::v1::ErrorCode;

const BATCHES_IN: &str = "streamhouse_agent_batches_in_total";
const BATCH_BYTES_IN: &str = "streamhouse_agent_batches_in_bytes_total";
const RECORDS_IN: &str = "streamhouse_agent_records_in_total";
const ACKNOWLEDGED: &str = "streamhouse_agent_batches_acknowledged_total";
const REFUSED: &str = "streamhouse_agent_batches_refused_total";
const PUTS: &str = "streamhouse_agent_puts_total";
const PUT_BYTES: &str = "streamhouse_agent_put_bytes_total";
const PUT_RETRIES: &str = "streamhouse_agent_put_retries_total";
const PUT_HEDGES: &str = "streamhouse_agent_put_hedges_total";
const PUT_SECONDS: &str = "streamhouse_agent_put_seconds";
const COMMIT_SECONDS: &str = "streamhouse_agent_commit_seconds";
const COMMITS_REFUSED: &str = "streamhouse_agent_commit_slices_refused_total";
const SESSIONS: &str = "streamhouse_agent_sessions_opened_total";
const SWEEPS: &str = "streamhouse_agent_collector_sweeps_total";
const ORPHANS: &str = "streamhouse_agent_collector_orphans_total";
const DELETED: &str = "streamhouse_agent_collector_deleted_total";
const DELETED_BYTES: &str = "streamhouse_agent_collector_deleted_bytes_total";
const COLLECTOR_ERRORS: &str = "streamhouse_agent_collector_errors_total";

/// From a local disk's write to a request that is given up.
const PUT_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5.0, 15.0, 60.0];
/// From one fast sync of the controllers' disks to an election and more.
const COMMIT_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 10.0];

const HISTOGRAMS: [(&str, &[f64], &str); 2] = [
    (PUT_SECONDS, &PUT_BUCKETS, "Time of one request that wrote an object."),
    (
        COMMIT_SECONDS,
        &COMMIT_BUCKETS,
        "Time from sending a commit, which may hold many objects, to its answer, retries included.",
    ),
];

const COUNTERS: [(&str, &str); 16] = [
    (BATCHES_IN, "Record batches taken from producers."),
    (BATCH_BYTES_IN, "Bytes of record batches taken from producers, compressed as they came."),
    (RECORDS_IN, "Records in batches taken from producers."),
    (ACKNOWLEDGED, "Record batches acknowledged."),
    (REFUSED, "Record batches answered with an error, by reason."),
    (PUTS, "Requests to write an object, by outcome; given_up counts objects."),
    (PUT_BYTES, "Bytes of objects stored."),
    (PUT_RETRIES, "Requests to write an object that were repeated after a failure."),
    (PUT_HEDGES, "Requests to write an object that were sent once more because they were slow."),
    (COMMITS_REFUSED, "Slices of objects whose commit was refused, by reason."),
    (SESSIONS, "Sessions opened with the controllers."),
    (SWEEPS, "Sweeps for unreachable objects that this agent has ended."),
    (ORPHANS, "Unreachable objects found by this agent."),
    (DELETED, "Unreachable objects deleted by this agent."),
    (DELETED_BYTES, "Bytes of unreachable objects deleted by this agent."),
    (COLLECTOR_ERRORS, "Requests to the store that failed during sweeps."),
];

/// Names and helps of [`Standing`], in its order.
const GAUGES: [(&str, &str); 10] = [
    ("streamhouse_agent_session_id", "The session with the controllers; 0 while there is none."),
    ("streamhouse_agent_leases", "Write leases held."),
    ("streamhouse_agent_streams", "Produce streams open."),
    ("streamhouse_agent_buffer_used_bytes", "Bytes of batches that are not answered yet."),
    ("streamhouse_agent_buffer_limit_bytes", "Above this, produce streams are paused."),
    ("streamhouse_agent_uploads_in_flight", "Requests to write an object under way."),
    (
        "streamhouse_agent_uploads_limit",
        "Above this, requests wait; lowered while the store asks to slow down.",
    ),
    ("streamhouse_agent_store_failing", "1 if the last request to write an object failed."),
    (
        "streamhouse_agent_collecting",
        "1 while this agent is the one that deletes unreachable objects.",
    ),
    ("streamhouse_agent_resident_memory_bytes", "Resident memory of its process."),
];

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// What stands somewhere, in the order of [`GAUGES`].
pub(crate) type Standing = [f64; GAUGES.len()];

/// How uploads end beside a [`Cause`] of failure.
const PUT_OUTCOMES: [&str; 4] = ["stored", "found", "foreign", "given_up"];

/// The reasons that are told apart, each by its name.
const REASONS: [(ErrorCode, &str); 12] = [
    (ErrorCode::NotLeaseHolder, "not_lease_holder"),
    (ErrorCode::CorruptBatch, "corrupt_batch"),
    (ErrorCode::RecordTooLarge, "too_large"),
    (ErrorCode::InvalidArgument, "invalid"),
    (ErrorCode::UnknownTopic, "unknown_topic"),
    (ErrorCode::UnknownPartition, "unknown_partition"),
    (ErrorCode::StaleCommit, "stale"),
    (ErrorCode::SessionEnded, "session_ended"),
    (ErrorCode::StoreUnavailable, "store_unavailable"),
    (ErrorCode::Overloaded, "overloaded"),
    (ErrorCode::OutcomeUnknown, "outcome_unknown"),
    (ErrorCode::ShuttingDown, "shutting_down"),
];
const OTHER: &str = "other";

/// A counter for each value of a label.
#[derive(Clone)]
struct ByLabel(Arc<[(&'static str, Counter)]>);

impl ByLabel {
    fn new(
        recorder: &dyn Recorder,
        name: &'static str,
        label: &'static str,
        values: impl Iterator<Item = &'static str>,
    ) -> Self {
        let counter = |value: &'static str| {
            let key = Key::from_parts(name, vec![Label::from_static_parts(label, value)]);
            (value, recorder.register_counter(&key, &METADATA))
        };
        Self(values.map(counter).collect())
    }

    fn count(&self, value: &str) {
        if let Some((_, counter)) = self.0.iter().find(|(name, _)| *name == value) {
            counter.increment(1);
        }
    }
}

/// Handles for what happens: cloning them is cheap. By default they do nothing.
#[derive(Clone)]
pub(crate) struct Probes {
    pub(crate) batches_in: Counter,
    pub(crate) batch_bytes_in: Counter,
    pub(crate) records_in: Counter,
    pub(crate) acknowledged: Counter,
    pub(crate) put_bytes: Counter,
    pub(crate) put_retries: Counter,
    pub(crate) put_hedges: Counter,
    pub(crate) put_seconds: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) sessions: Counter,
    pub(crate) sweeps: Counter,
    pub(crate) orphans: Counter,
    pub(crate) deleted: Counter,
    pub(crate) deleted_bytes: Counter,
    pub(crate) collector_errors: Counter,
    refused: ByLabel,
    puts: ByLabel,
    slices_refused: ByLabel,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes").finish_non_exhaustive()
    }
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
        let reasons = || REASONS.into_iter().map(|(_, reason)| reason).chain([OTHER]);
        let outcomes = PUT_OUTCOMES.into_iter().chain(Cause::ALL.map(Cause::as_str));
        Self {
            batches_in: counter(BATCHES_IN),
            batch_bytes_in: counter(BATCH_BYTES_IN),
            records_in: counter(RECORDS_IN),
            acknowledged: counter(ACKNOWLEDGED),
            put_bytes: counter(PUT_BYTES),
            put_retries: counter(PUT_RETRIES),
            put_hedges: counter(PUT_HEDGES),
            put_seconds: histogram(PUT_SECONDS),
            commit_seconds: histogram(COMMIT_SECONDS),
            sessions: counter(SESSIONS),
            sweeps: counter(SWEEPS),
            orphans: counter(ORPHANS),
            deleted: counter(DELETED),
            deleted_bytes: counter(DELETED_BYTES),
            collector_errors: counter(COLLECTOR_ERRORS),
            refused: ByLabel::new(recorder, REFUSED, "reason", reasons()),
            puts: ByLabel::new(recorder, PUTS, "outcome", outcomes),
            slices_refused: ByLabel::new(recorder, COMMITS_REFUSED, "reason", reasons()),
        }
    }

    /// A batch was answered with this error.
    pub(crate) fn refused(&self, code: ErrorCode) {
        self.refused.count(reason(code));
    }

    /// A slice's commit was refused with this error.
    pub(crate) fn slice_refused(&self, code: ErrorCode) {
        self.slices_refused.count(reason(code));
    }

    /// A request to write an object ended so, or an object was given up.
    pub(crate) fn put(&self, outcome: &str) {
        self.puts.count(outcome);
    }
}

fn reason(code: ErrorCode) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == code).map_or(OTHER, |(_, reason)| reason)
}

/// One agent's recorder.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
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
        for (name, help) in GAUGES {
            recorder.describe_gauge(KeyName::from(name), None, help.into());
        }
        let handle = recorder.handle();
        Ok(Self { recorder, handle })
    }

    /// Handles that write to this recorder.
    pub(crate) fn probes(&self) -> Probes {
        Probes::of(&self.recorder)
    }

    /// Moves what was recorded into the histograms. BOUND: must be called now and then, or what nobody scrapes would
    /// gather.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Everything, as of now.
    pub(crate) fn render(&self, standing: Standing) -> String {
        for (value, (name, _)) in standing.into_iter().zip(GAUGES) {
            self.recorder.register_gauge(&Key::from_static_name(name), &METADATA).set(value);
        }
        self.handle.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_is_told_by_reason_and_outcome() {
        let metrics = Metrics::new().unwrap();
        let probes = metrics.probes();
        probes.refused(ErrorCode::CorruptBatch);
        probes.refused(ErrorCode::Behind);
        probes.put("stored");
        probes.put(Cause::Throttled.as_str());
        probes.put_seconds.record(0.003);
        let text = metrics.render([7.0; GAUGES.len()]);
        for line in [
            "streamhouse_agent_batches_refused_total{reason=\"corrupt_batch\"} 1",
            "streamhouse_agent_batches_refused_total{reason=\"other\"} 1",
            "streamhouse_agent_puts_total{outcome=\"stored\"} 1",
            "streamhouse_agent_puts_total{outcome=\"throttled\"} 1",
            "streamhouse_agent_puts_total{outcome=\"denied\"} 0",
            "streamhouse_agent_put_seconds_bucket{le=\"0.005\"} 1",
            "streamhouse_agent_session_id 7",
        ] {
            assert!(text.lines().any(|found| found == line), "no '{line}' in\n{text}");
        }
    }

    #[test]
    fn every_name_has_the_prefix_and_a_help() {
        let all = GAUGES.into_iter().chain(COUNTERS);
        let all = all.chain(HISTOGRAMS.map(|(name, _, help)| (name, help)));
        for (name, help) in all {
            assert!(name.starts_with("streamhouse_agent_"), "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
        }
        for (name, _) in COUNTERS {
            assert!(name.ends_with("_total"), "{name}");
        }
    }
}
