//! Distributions that many tasks add to without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many buckets a histogram has.
const BUCKETS: usize = 20;

/// A distribution: how many values were at most each bound.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Upper bounds, rising, each with the number of values above the bound before it and not above it.
    pub buckets: Vec<(u64, u64)>,
    /// Values above the last bound.
    pub above: u64,
    /// The sum of all values.
    pub sum: u64,
}

impl Histogram {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum::<u64>() + self.above
    }

    /// Their mean; `None` if there were none.
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// The bound of the bucket in which the value at `quantile` (0.0 to 1.0) lies: it is at most that. `None` if there
    /// were no values; the last bound if it lies above.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let within = self.buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        let bound = within.or(self.buckets.last()).map(|(bound, _)| *bound);
        bound.filter(|_| count > 0)
    }
}

/// A histogram that is being filled.
#[derive(Debug)]
pub(super) struct Recorder {
    bounds: &'static [u64; BUCKETS],
    counts: [AtomicU64; BUCKETS],
    above: AtomicU64,
    sum: AtomicU64,
}

/// Microseconds, from half a millisecond to two minutes.
pub(super) const LATENCIES: [u64; BUCKETS] = [
    500,
    1_000,
    2_000,
    3_000,
    5_000,
    7_500,
    10_000,
    15_000,
    25_000,
    50_000,
    75_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    120_000_000,
];

/// Powers of two, from 64 B to 32 MiB: bytes of a batch.
pub(super) const SIZES: [u64; BUCKETS] = {
    let mut bounds = [64; BUCKETS];
    let mut index = 1;
    while index < BUCKETS {
        bounds[index] = bounds[index - 1] * 2;
        index += 1;
    }
    bounds
};

impl Recorder {
    pub(super) fn new(bounds: &'static [u64; BUCKETS]) -> Self {
        Self {
            bounds,
            counts: Default::default(),
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    pub(super) fn record(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts.get(bucket).unwrap_or(&self.above).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    pub(super) fn snapshot(&self) -> Histogram {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        Histogram {
            buckets: self.bounds.iter().copied().zip(counts).collect(),
            above: self.above.load(Relaxed),
            sum: self.sum.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let recorder = Recorder::new(&LATENCIES);
        for value in [500, 501, 900, 4_000] {
            recorder.record(value);
        }
        let histogram = recorder.snapshot();
        assert_eq!((histogram.count(), histogram.sum), (4, 5_901));
        assert_eq!(histogram.quantile(0.0), Some(500));
        assert_eq!(histogram.quantile(0.25), Some(500));
        assert_eq!(histogram.quantile(0.5), Some(1_000));
        assert_eq!(histogram.quantile(0.99), Some(5_000));
        assert_eq!(histogram.mean(), Some(1_475.25));
    }

    #[test]
    fn what_lies_above_all_bounds_is_counted() {
        let recorder = Recorder::new(&SIZES);
        recorder.record(u64::from(u32::MAX));
        let histogram = recorder.snapshot();
        assert_eq!((histogram.above, histogram.count()), (1, 1));
        assert_eq!(histogram.quantile(0.5), Some(32 << 20));
    }

    #[test]
    fn an_empty_histogram_has_neither_mean_nor_quantiles() {
        let histogram = Recorder::new(&SIZES).snapshot();
        assert_eq!((histogram.mean(), histogram.quantile(0.5)), (None, None));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
