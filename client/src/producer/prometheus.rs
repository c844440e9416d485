//! A producer's metrics as text for Prometheus (exposition format 0.0.4): an application adds it to what it serves.

use std::fmt::Write as _;

use super::histogram::Histogram;
use super::metrics::ProducerMetrics;

impl ProducerMetrics {
    /// All metrics, named `streamhouse_producer_…`, each with these labels; times in seconds.
    ///
    /// ```
    /// # let metrics = streamhouse_client::producer::ProducerMetrics::default();
    /// let text = metrics.to_prometheus(&[("application", "shop")]);
    /// assert!(text.contains("streamhouse_producer_records_total{application=\"shop\"} 0\n"));
    /// ```
    pub fn to_prometheus(&self, labels: &[(&str, &str)]) -> String {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let mut text = Text { labels: labels.join(","), text: String::new() };
        for (name, value, help) in [
            ("records", self.records, "Records acknowledged."),
            ("bytes", self.bytes, "Bytes of acknowledged batches, as sent."),
            (
                "uncompressed_bytes",
                self.uncompressed_bytes,
                "Bytes of acknowledged batches before compression.",
            ),
            ("batches", self.batches, "Batches acknowledged."),
            ("failed_records", self.failed_records, "Records that failed for good."),
            ("retries", self.retries, "Batches sent once more."),
            (
                "ambiguous_retries",
                self.ambiguous_retries,
                "Batches sent once more whose earlier try may have been written.",
            ),
            ("waits_for_room", self.waits_for_room, "Times that send waited for room."),
        ] {
            text.single(&format!("{name}_total"), "counter", help, value);
        }
        for (name, value, help) in [
            ("queue_bytes", self.queue_bytes, "Bytes of the buffer in use."),
            ("queue_limit_bytes", self.queue_limit_bytes, "Size of the buffer."),
            ("open_circuits", self.open_circuits, "Agents that are left alone after failures."),
        ] {
            text.single(name, "gauge", help, value);
        }
        let help = "From a batch's first send to its acknowledgement.";
        text.histogram("ack_latency_seconds", help, &self.ack_latency_us, 1e-6);
        let help = "Bytes of acknowledged batches, as sent.";
        text.histogram("batch_bytes", help, &self.batch_bytes, 1.0);
        text.text
    }
}

struct Text {
    labels: String,
    text: String,
}

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP streamhouse_producer_{name} {help}");
        let _ = writeln!(self.text, "# TYPE streamhouse_producer_{name} {kind}");
    }

    fn line(&mut self, name: &str, more: &str, value: f64) {
        let comma = if self.labels.is_empty() || more.is_empty() { "" } else { "," };
        let labels = format!("{}{comma}{more}", self.labels);
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "streamhouse_producer_{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, "", value as f64);
    }

    /// `unit`: what a value of 1 is worth.
    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram, unit: f64) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut seen = 0;
        for (bound, count) in &histogram.buckets {
            seen += count;
            // Printed by way of the shortest text that reads back: 0.0005 and not 0.0004999….
            let bound = (*bound as f64 * unit * 1e6).round() / 1e6;
            self.line(&bucket, &format!("le=\"{bound}\""), seen as f64);
        }
        self.line(&bucket, "le=\"+Inf\"", histogram.count() as f64);
        self.line(&format!("{name}_sum"), "", histogram.sum as f64 * unit);
        self.line(&format!("{name}_count"), "", histogram.count() as f64);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::metrics::{Counters, Queue};

    fn metrics() -> ProducerMetrics {
        let counters = Counters::default();
        counters.acknowledged(10, 100, 400);
        counters.retried(10, true);
        counters.snapshot(Queue { used: 5, limit: 50, failing_agents: 1 })
    }

    #[test]
    fn every_metric_has_help_type_and_value() {
        let text = metrics().to_prometheus(&[]);
        for line in [
            "streamhouse_producer_records_total 10",
            "streamhouse_producer_ambiguous_retries_total 1",
            "streamhouse_producer_queue_bytes 5",
            "streamhouse_producer_open_circuits 1",
            "# TYPE streamhouse_producer_batch_bytes histogram",
            "streamhouse_producer_batch_bytes_bucket{le=\"64\"} 0",
            "streamhouse_producer_batch_bytes_bucket{le=\"128\"} 1",
            "streamhouse_producer_batch_bytes_bucket{le=\"+Inf\"} 1",
            "streamhouse_producer_batch_bytes_sum 100",
            "streamhouse_producer_ack_latency_seconds_bucket{le=\"0.0005\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from\n{text}");
        }
        let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(text.lines().filter(|line| line.starts_with("# HELP")).count(), families);
    }

    #[test]
    fn labels_stand_on_every_line_and_are_escaped() {
        let text = metrics().to_prometheus(&[("app", "a\"b"), ("zone", "x")]);
        let values = text.lines().filter(|line| !line.starts_with('#'));
        for line in values {
            assert!(line.contains(r#"{app="a\"b",zone="x""#), "{line}");
        }
    }

    #[test]
    fn rates_and_ratios_of_nothing_are_no_division_by_zero() {
        let none = ProducerMetrics::default();
        assert_eq!((none.records_per_second(), none.compression_ratio()), (0.0, 1.0));
        assert_eq!(none.records_per_batch(), 0.0);
        let some = metrics();
        assert_eq!((some.compression_ratio(), some.records_per_batch()), (4.0, 10.0));
    }
}
