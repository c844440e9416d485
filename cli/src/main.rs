//! `streamhouse`, the one binary: the processes of a cluster (`controller`, `agent`), a local cluster of them (`up`,
//! `down`), and the tools of those who run and use one. A file per subcommand in `commands/`.
//!
//! What holds for all of them: results go to stdout and nothing else does; everything said about the work (progress,
//! logs, errors) goes to stderr; an error is one line; exit codes are those of [`exit`].

// They panic when nobody reads what they print: `output` has what does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod clock;
mod commands;
mod controllers;
mod exit;
mod input;
mod local;
mod logs;
mod output;
mod signals;

use std::process::ExitCode;

use clap::Parser;

const _: () = assert!(!streamhouse_host::PLANTABLE, "mistakes could be planted into this build");

/// Controllers allocate and free many small values on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    exit::report(commands::run(cli))
}
