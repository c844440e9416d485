//! A producer's metrics as text for Prometheus.

use super::metrics::ProducerMetrics;
use crate::prometheus::Text;

impl ProducerMetrics {
    /// All metrics, named `streamhouse_producer_…`, each with these labels; times in seconds.
    ///
    /// ```
    /// # let metrics = streamhouse_client::producer::ProducerMetrics::default();
    /// let text = metrics.to_prometheus(&[("application", "shop")]);
    /// assert!(text.contains("streamhouse_producer_records_total{application=\"shop\"} 0\n"));
    /// ```
    pub fn to_prometheus(&self, labels: &[(&str, &str)]) -> String {
        let mut text = Text::new("streamhouse_producer", labels);
        text.counters(&[
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
        ]);
        text.gauges(&[
            ("queue_bytes", self.queue_bytes, "Bytes of the buffer in use."),
            ("queue_limit_bytes", self.queue_limit_bytes, "Size of the buffer."),
            ("open_circuits", self.open_circuits, "Agents that are left alone after failures."),
        ]);
        let help = "From a batch's first send to its acknowledgement.";
        text.histogram("ack_latency_seconds", help, &self.ack_latency_us, 1e-6);
        let help = "Bytes of acknowledged batches, as sent.";
        text.histogram("batch_bytes", help, &self.batch_bytes, 1.0);
        text.finish()
    }
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
