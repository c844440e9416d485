//! Running many clients at once, and what their operations took.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::{clock, output};

/// One measurement.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) clients: usize,
    pub(super) operations: usize,
    pub(super) ops_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Figures {
    /// A line of a table: what was done, clients, operations a second, and the three latencies.
    pub(super) fn row(&self, what: &str) -> [String; 6] {
        let milliseconds = |value| format!("{value:.2}");
        [
            what.to_owned(),
            self.clients.to_string(),
            output::count(self.ops_per_second as u64),
            milliseconds(self.p50_ms),
            milliseconds(self.p99_ms),
            milliseconds(self.max_ms),
        ]
    }
}

/// How long to measure, and what comes before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) warm_up: Duration,
    pub(super) measure: Duration,
}

/// Lets every client do one operation after the other; counts those that begin and end within the window. Returns the
/// clients, too.
pub(super) async fn drive<C, F, Fut>(
    clients: Vec<C>,
    window: Window,
    operation: F,
) -> anyhow::Result<(Figures, Vec<C>)>
where
    C: Send + 'static,
    F: Fn(C) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = anyhow::Result<C>> + Send,
{
    let count = clients.len();
    let begin = clock::now() + window.warm_up;
    let end = begin + window.measure;
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let operation = operation.clone();
        tasks.spawn(async move {
            let mut took = Vec::new();
            loop {
                let started = clock::now();
                if started >= end {
                    return anyhow::Ok((took, client));
                }
                client = operation(client).await?;
                let ended = clock::now();
                if started >= begin && ended <= end {
                    took.push(ended - started);
                }
            }
        });
    }
    let mut all = Vec::new();
    let mut clients = Vec::with_capacity(count);
    while let Some(ended) = tasks.join_next().await {
        let (took, client) = ended??;
        all.extend(took);
        clients.push(client);
    }
    Ok((figures(count, all, window.measure), clients))
}

fn figures(clients: usize, mut took: Vec<Duration>, measured: Duration) -> Figures {
    took.sort_unstable();
    Figures {
        clients,
        operations: took.len(),
        ops_per_second: rounded(took.len() as f64 / measured.as_secs_f64()),
        p50_ms: percentile(&took, 50.0),
        p99_ms: percentile(&took, 99.0),
        max_ms: percentile(&took, 100.0),
    }
}

/// The smallest of `sorted` that at least `percent` of them do not exceed (nearest rank), in milliseconds.
pub(super) fn percentile(sorted: &[Duration], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    let at = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).map_or(0.0, |took| rounded(took.as_secs_f64() * 1e3))
}

/// To three decimals: more would not mean anything.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let took: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&took, 50.0), 50.0);
        assert_eq!(percentile(&took, 99.0), 99.0);
        assert_eq!(percentile(&took, 100.0), 100.0);
        assert_eq!(percentile(&took[..1], 99.0), 1.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }
}
