//! What this process has used of the machine.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// Processor time, and the most memory it ever had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// User and system time of all threads.
    pub(super) cpu_seconds: f64,
    pub(super) peak_memory_bytes: u64,
}

/// Since the process started.
pub(super) fn usage() -> anyhow::Result<Usage> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    // Linux tells kibibytes.
    let peak_memory_bytes = u64::try_from(usage.max_rss())? * 1024;
    Ok(Usage { cpu_seconds: micros as f64 / 1e6, peak_memory_bytes })
}
