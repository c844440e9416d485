//! PURE, by what the state machine's source may name at all.

use std::fs;
use std::path::Path;

/// Clocks, randomness, and collections without an order.
const FORBIDDEN: [&str; 9] = [
    "Instant",
    "SystemTime",
    "tokio",
    "rocksdb",
    "openraft",
    "rand::",
    "new_v4",
    "HashMap",
    "HashSet",
];

/// Lines of code under `dir` that name something forbidden.
fn offences(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(offences(&path));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let guilty = code.filter(|line| FORBIDDEN.iter().any(|name| line.contains(name)));
        found.extend(guilty.map(|line| format!("{}: {line}", path.display())));
    }
    found
}

#[test]
fn apply_can_read_no_clock_and_iterate_nothing_unordered() {
    let state = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/state");
    assert_eq!(offences(&state), Vec::<String>::new());
    // The rule bites: elsewhere it finds something.
    let service = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft");
    assert!(!offences(&service).is_empty());
}
