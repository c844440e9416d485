//! Stores that processes can share.

use crate::exit::Failure;

/// Refuses a store inside the process: nobody else could read what an agent acknowledged.
pub(crate) fn require_shared(flag: &str, url: &str) -> Result<(), Failure> {
    if url.to_ascii_lowercase().starts_with("memory:") {
        return Err(Failure::usage(format!(
            "{flag} {url} would live inside one process; no reader could reach it"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_inside_one_process_is_refused() {
        assert!(require_shared("--store", "memory://x").is_err());
        assert!(require_shared("--store", "Memory://x").is_err());
        assert!(require_shared("--store", "s3://memory").is_ok());
    }
}
