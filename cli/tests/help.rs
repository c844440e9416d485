//! The binary's face. (That this file exists also makes `cargo test` build the binary, which the end-to-end tests of
//! the `tests` crate start.)
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn streamhouse(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_streamhouse")).args(args).output().expect("it starts")
}

#[test]
fn help_names_every_subcommand_and_the_exit_codes() {
    let output = streamhouse(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "up",
        "down",
        "controller",
        "agent",
        "status",
        "topic",
        "produce",
        "consume",
        "segment",
        "Exit codes",
    ] {
        assert!(text.contains(word), "no {word} in:\n{text}");
    }
}

#[test]
fn nothing_at_all_shows_the_help_and_is_wrong_use() {
    let output = streamhouse(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: streamhouse"));
}

#[test]
fn wrong_use_is_one_line_that_names_the_argument() {
    for (args, named) in [
        (&["consume", "a", "--bogus"][..], "--bogus"),
        (&["frobnicate"], "frobnicate"),
        (&["topic", "create", "a"], "--partitions"),
        (&["topic", "create", "a", "--partitions", "many"], "many"),
        (&["produce", "a", "--key-field", "0"], "--key-field"),
        (&["produce", "a", "--delimiter", "||"], "||"),
        (&["up", "--controllers", "0"], "--controllers"),
        (&["status", "--controllers", "nowhere"], "nowhere"),
        (&["status", "--log", "a=b=c"], "a=b=c"),
    ] {
        let output = streamhouse(args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.starts_with("error: ") && errors.contains(named), "{args:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
}
