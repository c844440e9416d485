//! What the system knows of this process.

/// Resident memory of this process; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * page_bytes()
}

#[expect(unsafe_code, reason = "the page size comes from the C library")]
fn page_bytes() -> u64 {
    // SAFETY: `sysconf` has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_some_memory() {
        assert!(resident_bytes() > 1 << 20);
    }
}
