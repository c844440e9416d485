//! PURE, by what the source of `apply` may name at all: no clock, no chance, nothing of the process, no collection
//! without an order. What is not listed here is refused, known to be harmful or not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything that runs in `apply`, beside the store that it reads from.
const PURE: [&str; 5] = [
    "src/state",
    "src/codec.rs",
    "src/raft/apply.rs",
    "src/raft/hash.rs",
    "../segment/src/sequences.rs",
];

/// Paths that may be named, with all below them.
const ALLOWED: [&str; 27] = [
    // These are looked at themselves.
    "crate::codec",
    "crate::state",
    "crate::raft::apply",
    "crate::raft::hash",
    "streamhouse_segment::sequences",
    // In a release it makes no difference.
    "streamhouse_host::planted",
    // What an entry says, and what has come of all of them.
    "crate::raft::meta::AppliedMeta",
    "crate::raft::types::Applied",
    "crate::raft::types::EncodedCommand",
    "crate::raft::types::Entry",
    "crate::raft::types::StoredMembership",
    "openraft::EntryPayload",
    // Nothing is applied after it.
    "crate::raft::fatal",
    "bincode",
    "serde::Serialize",
    "serde::de::DeserializeOwned",
    "thiserror::Error",
    "uuid::Uuid::from_bytes",
    "xxhash_rust::xxh3",
    "std::cmp",
    "std::collections::BTreeMap",
    "std::collections::BTreeSet",
    "std::collections::btree_map",
    "std::mem",
    "std::ops::Bound",
    "std::ops::RangeInclusive",
    "std::str",
];

/// Names that everybody has.
const PRELUDE: &str = "Option Self String Vec char i16 i32 i64 str u8 u16 u32 u64 usize";

/// Names that may not stand anywhere, by whatever way they came.
const BANNED: &str = "DashMap DefaultHasher HashMap HashSet Instant RandomState SystemTime Utc asm env \
                      extern include new_v4 now_v7 option_env thread_local unsafe";

/// A name, `::` or a single sign, and its line.
type Word = (usize, String);

fn is_in(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|listed| listed == name)
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// How long the comment, text, name or sign is that `rest` begins with, and whether it counts as a word.
fn next(rest: &[char]) -> (usize, bool) {
    let is = |at: usize, letter: char| rest.get(at) == Some(&letter);
    let find = |from: usize, what: &str| {
        let what: Vec<char> = what.chars().collect();
        let found = rest[from..].windows(what.len()).position(|window| window == what);
        found.map_or(rest.len(), |found| from + found + what.len())
    };
    if rest[0] == '/' && (is(1, '/') || is(1, '*')) {
        return (find(2, if is(1, '/') { "\n" } else { "*/" }), false);
    }
    let prefix = usize::from(matches!(rest[0], 'b' | 'c'));
    let raw = prefix + usize::from(is(prefix, 'r'));
    let hashes = rest[raw..].iter().take_while(|letter| **letter == '#').count();
    if raw > prefix && is(raw + hashes, '"') {
        return (find(raw + hashes + 1, &format!("\"{}", "#".repeat(hashes))), false);
    }
    let quote = rest.get(prefix).copied().unwrap_or(' ');
    let is_letter = quote == '\'' && (is(prefix + 1, '\\') || is(prefix + 2, '\''));
    if quote == '"' || is_letter {
        let mut at = prefix + 1;
        while at < rest.len() && rest[at] != quote {
            at += 1 + usize::from(rest[at] == '\\');
        }
        return (at + 1, false);
    }
    let name = rest.iter().take_while(|letter| is_name(**letter)).count();
    match rest {
        ['\'', ..] => (1 + rest[1..].iter().take_while(|letter| is_name(**letter)).count(), false),
        [':', ':', ..] => (2, true),
        [sign, ..] if name == 0 => (1, !sign.is_whitespace()),
        _ => (name, true),
    }
}

fn words(source: &str) -> Vec<Word> {
    let text: Vec<char> = source.chars().collect();
    let (mut words, mut at, mut line) = (Vec::new(), 0, 1);
    while at < text.len() {
        let (length, counts) = next(&text[at..]);
        let piece = &text[at..text.len().min(at + length)];
        if counts {
            words.push((line, piece.iter().collect()));
        }
        line += piece.iter().filter(|letter| **letter == '\n').count();
        at += length;
    }
    words
}

/// Without what is compiled for tests alone.
fn without_tests(words: &[Word]) -> Vec<Word> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < words.len() {
        let marked = words[at..].iter().map(|(_, word)| word.as_str()).take(7).eq(MARK);
        if !marked {
            kept.push(words[at].clone());
            at += 1;
            continue;
        }
        at += MARK.len();
        let mut depth = 0;
        while let Some((_, word)) = words.get(at) {
            match word.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" if depth == 0 => break,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 && matches!(word.as_str(), "}" | ";" | ",") {
                break;
            }
        }
    }
    kept
}

/// A path that is named, in which line, and the name that a `use` gives to what is there.
#[derive(Debug)]
struct Named {
    line: usize,
    path: Vec<String>,
    alias: Option<String>,
}

/// What the tree of a `use` names that goes on at `at`; moves behind it.
fn tree(words: &[Word], at: &mut usize, before: &[String], found: &mut Vec<Named>) {
    let mut path = before.to_vec();
    while let Some((line, word)) = words.get(*at) {
        match word.as_str() {
            "{" => {
                *at += 1;
                while words.get(*at).is_some_and(|(_, word)| word != "}") {
                    tree(words, at, &path, found);
                    *at += usize::from(words.get(*at).is_some_and(|(_, word)| word == ","));
                }
                *at += 1;
                return;
            }
            "," | ";" | "}" | "as" => {
                let renamed = word == "as";
                if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
                    path.pop();
                }
                let alias =
                    if renamed { words.get(*at + 1).map(|(_, name)| name) } else { path.last() };
                found.push(Named { line: *line, alias: alias.cloned(), path });
                *at += 2 * usize::from(renamed);
                return;
            }
            "::" => {}
            name => path.push(name.to_owned()),
        }
        *at += 1;
    }
}

/// Every path in `words`, those of `use` and others.
fn paths(words: &[Word]) -> Vec<Named> {
    let is = |at: usize, sign: &str| words.get(at).is_some_and(|(_, word)| word == sign);
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some((line, word)) = words.get(at) {
        at += 1;
        if word == "use" && !is(at, "<") {
            tree(words, &mut at, &[], &mut found);
        } else if word.starts_with(is_name) && is(at, "::") {
            let mut path = vec![word.clone()];
            while is(at, "::")
                && words.get(at + 1).is_some_and(|(_, word)| word.starts_with(is_name))
            {
                path.push(words[at + 1].1.clone());
                at += 2;
            }
            // Without this the rest of `Vec::<T>::new` would be a path of its own.
            at += usize::from(is(at, "::"));
            // Of one name: a method's, or one's that was imported.
            if path.len() > 1 {
                found.push(Named { line: *line, path, alias: None });
            }
        }
    }
    found
}

/// Names that a file gives itself: those of its items, and what it imports, which is looked at where it is imported.
fn own_names(words: &[Word], paths: &[Named]) -> BTreeSet<String> {
    const ITEMS: [&str; 6] = ["enum", "mod", "struct", "trait", "type", "union"];
    let items = words.windows(2).filter(|pair| ITEMS.contains(&pair[0].1.as_str()));
    let imported =
        paths.iter().filter_map(|named| named.alias.clone().filter(|_| named.path.len() > 1));
    items.map(|pair| pair[1].1.clone()).chain(imported).collect()
}

/// `path` as from the crate's root, seen from `module`; nothing if there is no such place.
fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut above = match path[0].as_str() {
        "self" | "super" => module.to_vec(),
        _ => return Some(path.to_vec()),
    };
    let steps = path.iter().take_while(|name| matches!(name.as_str(), "self" | "super")).count();
    for _ in path[..steps].iter().filter(|name| *name == "super") {
        above.pop();
    }
    above.extend_from_slice(&path[steps..]);
    (above.first().is_some_and(|root| root == "crate")).then_some(above)
}

fn is_allowed(path: &[String]) -> bool {
    ALLOWED.iter().any(|allowed| {
        let mut names = path.iter();
        allowed.split("::").all(|name| names.next().is_some_and(|found| found == name))
    })
}

/// What `source`, which is `module`, names and may not: its line, and the name.
fn offences(module: &str, source: &str) -> Vec<(usize, String)> {
    let module: Vec<String> = module.split("::").map(str::to_owned).collect();
    let words = without_tests(&words(source));
    let paths = paths(&words);
    let own = own_names(&words, &paths);
    let banned = words.iter().filter(|(_, word)| is_in(BANNED, word));
    let mut found: Vec<_> = banned.cloned().collect();
    for named in &paths {
        let root = &named.path[0];
        let glob = named.path.last().is_some_and(|last| last == "*");
        let is_own = own.contains(root) || is_in(PRELUDE, root);
        let is_fine =
            is_own || absolute(&module, &named.path).is_some_and(|path| is_allowed(&path));
        if glob || !is_fine {
            found.push((named.line, named.path.join("::")));
        }
    }
    found
}

fn files_below(path: PathBuf) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path];
    }
    let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(files_below).collect()
}

/// The module that a file of some crate's `src` is.
fn module_of(file: &Path) -> String {
    let below = file.iter().map(|part| part.to_str().unwrap());
    let mut names: Vec<&str> = below.skip_while(|part| *part != "src").collect();
    names[0] = "crate";
    let name = names.pop().unwrap().trim_end_matches(".rs");
    names.extend(Some(name).filter(|name| !matches!(*name, "mod" | "lib")));
    names.join("::")
}

/// Files at `places` of this crate, and what they name and may not.
fn look(places: &[&str]) -> (usize, Vec<String>) {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = places.iter().flat_map(|place| files_below(home.join(place))).collect();
    let mut found = Vec::new();
    for file in &files {
        let named = offences(&module_of(file), &fs::read_to_string(file).unwrap());
        found.extend(named.iter().map(|(line, name)| format!("{}:{line}: {name}", file.display())));
    }
    (files.len(), found)
}

#[test]
fn apply_can_read_no_clock_and_iterate_nothing_unordered() {
    let (files, found) = look(&PURE);
    assert_eq!(found, Vec::<String>::new());
    assert!(files > 30, "{files} files");
    // The rule bites where it does not hold.
    for other in ["src/clock.rs", "src/entropy.rs", "src/hub.rs", "src/raft/node.rs"] {
        assert_ne!(look(&[other]).1, Vec::<String>::new(), "{other}");
    }
}

#[track_caller]
fn names(source: &str, expected: &[(usize, &str)]) {
    let mut found = offences("crate::state::topics", source);
    let mut expected: Vec<_> =
        expected.iter().map(|(line, name)| (*line, (*name).to_owned())).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "in:\n{source}");
}

#[test]
fn whatever_is_not_listed_is_found() {
    names("let now = crate::clock::now();", &[(1, "crate::clock::now")]);
    names("use crate::{clock, state::kv};", &[(1, "crate::clock")]);
    names("use super::super::entropy;\nlet id = entropy::id();", &[(1, "super::super::entropy")]);
    names("use super::super::super::kv;", &[(1, "super::super::super::kv")]);
    names("use super::super::state;", &[]);
    names("use hashbrown::HashTable;", &[(1, "hashbrown::HashTable")]);
    names("use std::time as t;\nlet t = t::UNIX_EPOCH;", &[(1, "std::time")]);
    names("use std::{\n    cmp,\n    env,\n};", &[(3, "env"), (3, "std::env")]);
    names("fn f() { ::std::process::id(); }", &[(1, "std::process::id")]);
    names("let id = uuid::Uuid::now_v1();", &[(1, "uuid::Uuid::now_v1")]);
    names("use uuid::Uuid;", &[(1, "uuid::Uuid")]);
    names("let n = chrono::Utc::now();", &[(1, "Utc"), (1, "chrono::Utc::now")]);
    names("let n = Utc::now();", &[(1, "Utc"), (1, "Utc::now")]);
    names("let n = OsRng::new();", &[(1, "OsRng::new")]);
    names("let m: DashMap<u8, u8>;", &[(1, "DashMap")]);
    names("let s = RandomState::new();", &[(1, "RandomState"), (1, "RandomState::new")]);
    names("let e = option_env!(\"HOME\");", &[(1, "option_env")]);
    names("static N: std::sync::OnceLock<u8>;", &[(1, "std::sync::OnceLock")]);
    names("use super::kv::*;", &[(1, "super::kv::*")]);
    names("let a = Vec::<tokio::time::Sleep>::new();", &[(1, "tokio::time::Sleep")]);
    names("#[derive(Debug, rand::Seeded)]", &[(1, "rand::Seeded")]);
}

#[test]
fn nothing_else_is() {
    names("use super::kv::{self, KvError, KvRead as Read};\nkv::get(Read::scan);", &[]);
    names("/// Never an `Instant`.\n// std::env\n/* HashMap */ let a: u8;", &[]);
    names(
        "let a = \"std::env \\\" HashMap\"; let b = r#\"\"rand::x\"\"#; let c = b'\"'; let d = '\\'';",
        &[],
    );
    names("fn f<'a>(x: &'a str) -> u8 { u8::from_str_radix(x, 10) }", &[]);
    names("mod names;\nenum Stage { One }\nlet s = (Stage::One, names::MAX);", &[]);
    names("let c = <Vec<u8> as Clone>::clone(&x);", &[]);
    // What tests name is theirs, and what follows them is not.
    names("#[cfg(test)]\nmod tests {\n    use rand::x;\n}\nuse rand::y;", &[(5, "rand::y")]);
    names("#[cfg(test)]\nuse rand::x;\nuse rand::y;", &[(3, "rand::y")]);
}
