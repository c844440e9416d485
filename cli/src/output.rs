//! Results, for people or for programs.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::exit;

/// For whom a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

impl Format {
    /// Prints `result` to stdout: as JSON, or as the text that `human` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        result: &T,
        human: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(result)?,
            Self::Human => human(result),
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", text.trim_end()).map_err(exit::stdout_error)?;
        stdout.flush().map_err(exit::stdout_error)
    }
}

/// Says a line on stderr. Where that is closed there is nobody to be told, and the work goes on.
pub(crate) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A table with these column heads.
pub(crate) fn table<const N: usize>(heads: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(heads);
    table
}

/// What stands in a cell that has no value.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

/// A number of bytes, in the largest unit of which there is at least one.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// So many of a thing, which takes an s where there is not one of it.
pub(crate) fn counted(number: impl Into<u64>, thing: &str) -> String {
    let number = number.into();
    let end = if number == 1 { "" } else { "s" };
    format!("{} {thing}{end}", count(number))
}

/// A number with its thousands set apart.
pub(crate) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}
