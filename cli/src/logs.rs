//! Logs: to stderr, so that stdout stays pure data.

use std::fmt;
use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: an object with `timestamp`, `level`, `target`, `message` and the line's fields.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Starts logging at `chosen`, or at `default` where nobody chose.
pub(crate) fn start(chosen: Option<&str>, default: &str, format: LogFormat) -> Result<(), Failure> {
    let directives = chosen.filter(|text| !text.is_empty()).unwrap_or(default);
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| Failure::usage(format!("--log '{directives}': {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would tell of a closed stderr on stderr, and panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
