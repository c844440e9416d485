//! Logs: to stderr, so that stdout stays pure data.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// Starts logging at `chosen`, or at `default` where nobody chose.
pub(crate) fn start(chosen: Option<&str>, default: &str) -> Result<(), Failure> {
    let directives = chosen.filter(|text| !text.is_empty()).unwrap_or(default);
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| Failure::usage(format!("--log '{directives}': {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would tell of a closed stderr on stderr, and panic.
        .log_internal_errors(false)
        .init();
    Ok(())
}
