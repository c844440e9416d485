//! How far `produce` is.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock;
use crate::input::source::Source;
use crate::output::{self, Format};

/// A bar on the terminal: how much of the file was read, or just how many records there were.
pub(super) struct Progress {
    bar: ProgressBar,
    position: Arc<AtomicU64>,
    started: Instant,
}

impl Progress {
    pub(super) fn start(source: &Source, format: Format) -> Self {
        let bar = match (format, source.size) {
            (Format::Json, _) => ProgressBar::hidden(),
            (Format::Human, Some(size)) => ProgressBar::new(size).with_style(style(
                "{bar:30} {percent:>3} % · {msg} · {elapsed} elapsed, {eta} left",
            )),
            (Format::Human, None) => {
                ProgressBar::new_spinner().with_style(style("{spinner} {msg} · {elapsed} elapsed"))
            }
        };
        Self { bar, position: source.position.clone(), started: clock::now() }
    }

    pub(super) fn at(&self, records: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let rate = records as f64 / self.started.elapsed().as_secs_f64();
        self.bar.set_position(self.position.load(Ordering::Relaxed));
        let (records, rate) = (output::count(records), output::count(rate as u64));
        self.bar.set_message(format!("{records} records, {rate}/s"));
    }

    /// Says something on stderr, above the bar.
    pub(super) fn say(&self, line: &str) {
        // Where stderr is closed, nobody wants to know.
        self.bar.suspend(|| drop(writeln!(io::stderr(), "{line}")));
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well formed")
}
