//! A consumer's metrics as text for Prometheus.

use super::metrics::ConsumerMetrics;
use crate::prometheus::Text;

impl ConsumerMetrics {
    /// All metrics as text for Prometheus (exposition format 0.0.4), named `streamhouse_consumer_…`, each with these
    /// labels. The share of slices found in the cache is `cache_hits_total` by the sum of that and `cache_misses_total`.
    ///
    /// ```
    /// # let metrics = streamhouse_client::consumer::ConsumerMetrics::default();
    /// let text = metrics.to_prometheus(&[("application", "shop")]);
    /// assert!(text.contains("streamhouse_consumer_records_total{application=\"shop\"} 0\n"));
    /// ```
    pub fn to_prometheus(&self, labels: &[(&str, &str)]) -> String {
        let mut text = Text::new("streamhouse_consumer", labels);
        text.counters(&[
            ("records", self.records, "Records handed out by poll."),
            ("get_requests", self.get_requests, "Range GETs sent to the object store."),
            ("hedged_gets", self.hedged_gets, "GETs sent twice because the first was slow."),
            ("retried_gets", self.retried_gets, "GETs that failed and were sent again."),
            ("fetched_bytes", self.bytes_fetched, "Bytes that the GETs brought."),
            (
                "damaged_fetches",
                self.damaged_fetches,
                "Ranges that were not what was written, and were fetched again.",
            ),
            ("look_ups", self.look_ups, "Look-ups in the segment index."),
            ("replans", self.replans, "Read plans made anew because an object was gone."),
            ("cache_hits", self.cache_hits, "Slices found in the segment cache."),
            ("cache_misses", self.cache_misses, "Slices that were not in the segment cache."),
            ("commits", self.commits, "Commits that the controllers took."),
            ("failed_commits", self.failed_commits, "Commits that failed."),
        ]);
        let help = "Bytes held of what was read ahead of poll, or was handed out by the last one.";
        text.gauges(&[("buffered_bytes", self.buffered_bytes, help)]);
        text.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_line() {
        let metrics = ConsumerMetrics {
            get_requests: 1,
            hedged_gets: 2,
            retried_gets: 3,
            bytes_fetched: 4,
            damaged_fetches: 5,
            look_ups: 6,
            replans: 7,
            cache_hits: 8,
            cache_misses: 9,
            records: 10,
            commits: 11,
            failed_commits: 12,
            buffered_bytes: 13,
        };
        let text = metrics.to_prometheus(&[("group", "g")]);
        let mut values: Vec<u64> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                assert!(line.contains("{group=\"g\"} "), "{line}");
                line.rsplit_once(' ').unwrap().1.parse().unwrap()
            })
            .collect();
        values.sort_unstable();
        assert_eq!(values, (1..=13).collect::<Vec<_>>());
    }
}
