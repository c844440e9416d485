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
    Ok(Usage { cpu_seconds: micros as f64 / 1e6, peak_memory_bytes: peak_memory_bytes(&usage)? })
}

/// Of this program alone: what `getrusage` tells includes whoever started it, up to the moment of `exec`.
fn peak_memory_bytes(usage: &nix::sys::resource::Usage) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(match kibibytes {
        Some(kibibytes) => kibibytes * 1024,
        // Another system than Linux, or one without /proc; both tell kibibytes.
        None => u64::try_from(usage.max_rss())? * 1024,
    })
}
