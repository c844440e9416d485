//! What else the machine is doing.

use std::thread;
use std::time::Duration;

/// The share of all processors' time, 0 to 1, that was used during the next `window`. Asked while nothing of a test runs,
/// it tells whether others do: figures in seconds mean little then.
///
/// # Panics
///
/// If the kernel does not tell.
pub fn busy_share(window: Duration) -> f64 {
    let (busy, all) = ticks();
    thread::sleep(window);
    let (busy_then, all_then) = ticks();
    (busy_then - busy) as f64 / ((all_then - all) as f64).max(1.0)
}

/// Since the machine started: of work, and all.
fn ticks() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").expect("the kernel tells");
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    // The fourth and fifth: doing nothing, and waiting for a disk.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}
