//! Metrics as text for Prometheus (exposition format 0.0.4): an application adds it to what it serves.

use std::fmt::Write as _;

use crate::producer::Histogram;

/// The text so far; every metric has the prefix, every value the labels.
pub(crate) struct Text {
    prefix: &'static str,
    labels: String,
    text: String,
}

impl Text {
    pub(crate) fn new(prefix: &'static str, labels: &[(&str, &str)]) -> Self {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        Self { prefix, labels: labels.join(","), text: String::new() }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {}_{name} {help}", self.prefix);
        let _ = writeln!(self.text, "# TYPE {}_{name} {kind}", self.prefix);
    }

    fn line(&mut self, name: &str, more: &str, value: f64) {
        let comma = if self.labels.is_empty() || more.is_empty() { "" } else { "," };
        let labels = format!("{}{comma}{more}", self.labels);
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{}_{name}{labels} {value}", self.prefix);
    }

    /// Each is a name, a value and its help.
    pub(crate) fn counters(&mut self, counters: &[(&str, u64, &str)]) {
        for (name, value, help) in counters {
            self.single(&format!("{name}_total"), "counter", help, *value);
        }
    }

    pub(crate) fn gauges(&mut self, gauges: &[(&str, u64, &str)]) {
        for (name, value, help) in gauges {
            self.single(name, "gauge", help, *value);
        }
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, "", value as f64);
    }

    /// `unit`: what a value of 1 is worth.
    pub(crate) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram, unit: f64) {
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
