//! What the processes of a cluster wrote down about their own end: panics, also of a task that took nothing else with
//! it.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

/// What a panic's message has, whoever formats it; and what the runtime and the C library say where there is none.
const SIGNS: [&str; 4] =
    ["panicked at", "fatal runtime error", "has overflowed its stack", "memory allocation of"];
/// BOUND: lines told of each log; the others are counted.
const TOLD: usize = 5;
/// BOUND: characters told of each line.
const CHARS: usize = 300;

/// The panics in all logs of the folder, with the process, and the line of its log. A log that cannot be read is one,
/// too: it proves nothing.
pub(super) fn search(folder: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.unwrap_or_else(|error| {
        problems.push(format!("the folder of the logs cannot be read: {error}"));
        Vec::new()
    });
    let mut logs: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    for log in logs {
        let name = log.file_stem().unwrap_or_default().to_string_lossy().replace('-', " ");
        match panics(&log) {
            Ok((told, more)) => {
                problems.extend(told.into_iter().map(|line| format!("{name} panicked: {line}")));
                if more > 0 {
                    problems.push(format!("{name} panicked {more} times more"));
                }
            }
            Err(error) => problems.push(format!("the log of {name} cannot be read: {error}")),
        }
    }
    problems
}

/// The first of them, and how many more there are.
fn panics(log: &Path) -> io::Result<(Vec<String>, usize)> {
    let (mut told, mut more) = (Vec::new(), 0);
    let lines = BufReader::new(File::open(log)?).split(b'\n');
    for (line, number) in lines.zip(1..) {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if !SIGNS.iter().any(|sign| line.contains(sign)) {
            continue;
        }
        if told.len() < TOLD {
            told.push(format!("line {number} of its log: {}", short(&line)));
        } else {
            more += 1;
        }
    }
    Ok((told, more))
}

/// What a process that ended by itself said last.
pub(super) fn last_words(folder: &Path, file_name: &str) -> String {
    let log = folder.join(format!("{file_name}.log"));
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!("line {} of its log: {}", text.lines().count(), short(line)),
        None => "its log is empty".to_owned(),
    }
}

fn short(line: &str) -> String {
    line.trim().chars().take(CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_process_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("controller-1.log", "all is well\nto panic is not to have panicked\n");
        write("agent-2.log", "begins\nthread 'main' panicked at agent/src/x.rs:1:2:\nindex\n");
        write("agent-2.clock", "panicked at nothing that is a log\n");
        let told =
            "agent 2 panicked: line 2 of its log: thread 'main' panicked at agent/src/x.rs:1:2:";
        assert_eq!(search(folder.path()), [told]);
    }

    #[test]
    fn many_panics_of_one_process_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "a task panicked at b\n".repeat(TOLD + 3);
        fs::write(folder.path().join("agent-1.log"), lines).unwrap();
        let found = search(folder.path());
        assert_eq!(found.len(), TOLD + 1);
        assert_eq!(found.last().unwrap(), "agent 1 panicked 3 times more");
    }

    #[test]
    fn who_ended_by_itself_has_last_words() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("agent-1.log"), "begins\nthe end\n\n").unwrap();
        assert_eq!(last_words(folder.path(), "agent-1"), "line 3 of its log: the end");
        assert_eq!(last_words(folder.path(), "agent-2"), "its log is empty");
    }
}
