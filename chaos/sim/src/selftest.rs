//! Is the simulation awake? Each planted mistake must be caught within so many seeds, and as what it is
//! ([`crate::expected`]).

use crate::{children, expected};
use comfy_table::{Table, presets};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use streamhouse_host::Mistake;

/// What the seeds of one mistake came to.
#[derive(Default)]
struct Found {
    /// The first seed that caught it, and as what.
    caught: Option<(u64, BTreeSet<String>)>,
    /// What other seeds, and those before it, failed by.
    otherwise: BTreeMap<u64, BTreeSet<String>>,
}

/// Whether all were caught.
pub(crate) fn run(mistakes: &[Mistake], most: u64, seconds: u64, jobs: usize) -> io::Result<bool> {
    let mut table = Table::new();
    let header = ["mistake", "caught as", "seeds", "failed otherwise"];
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    let mut missed = Vec::new();
    for mistake in mistakes {
        let begun = children::now();
        let found = find(*mistake, most, seconds, jobs)?;
        let (caught, seeds) = match &found.caught {
            Some((seed, names)) => (list(names), seed.to_string()),
            None => {
                missed.push(mistake.name());
                ("not caught".to_owned(), format!("> {most}"))
            }
        };
        // What a later seed says, that ran at the same time, depends on how many do.
        let last = found.caught.map_or(most, |(seed, _)| seed);
        let otherwise: Vec<_> = found.otherwise.range(..=last).collect();
        let otherwise = otherwise.iter().map(|(seed, names)| format!("{seed}: {}", list(names)));
        let otherwise = otherwise.collect::<Vec<_>>().join("; ");
        let took = begun.elapsed().as_secs();
        println!("{}: {caught}; seeds {seeds}; otherwise [{otherwise}]; {took} s", mistake.name());
        table.add_row([mistake.name(), &caught, &seeds, &otherwise]);
    }
    println!("{table}");
    println!("{} of {} caught", mistakes.len() - missed.len(), mistakes.len());
    if !missed.is_empty() {
        println!("not caught: {}", missed.join(", "));
    }
    Ok(missed.is_empty())
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(", ")
}

/// Runs seeds, from 1 on, until one catches it.
fn find(mistake: Mistake, most: u64, seconds: u64, jobs: usize) -> io::Result<Found> {
    let (next, over) = (AtomicU64::new(1), AtomicBool::new(false));
    let (found, failed) = (Mutex::new(Found::default()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed > most {
                        return;
                    }
                    let ended = match tried(mistake, seed, seconds) {
                        Ok(tried) => {
                            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                            found.add(seed, tried)
                        }
                        Err(error) => {
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.get_or_insert(error);
                            true
                        }
                    };
                    over.fetch_or(ended, Ordering::SeqCst);
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// What one seed came to.
enum Tried {
    Caught(BTreeSet<String>),
    /// It failed by this, if by anything, and not as one that caught the mistake.
    Otherwise(BTreeSet<String>),
}

/// Without the mistake, a seed that catches it must find nothing.
fn tried(mistake: Mistake, seed: u64, seconds: u64) -> io::Result<Tried> {
    let verdict = children::one(seed, seconds, &["--plant", mistake.name()])?;
    let violations = children::violations(&verdict);
    let catches = expected::catches(mistake);
    let (as_it_is, otherwise): (Vec<_>, Vec<_>) = violations
        .into_iter()
        .partition(|(name, detail)| expected::is_among(catches, name, detail));
    if as_it_is.is_empty() {
        return Ok(Tried::Otherwise(names(otherwise)));
    }
    let without = names(children::violations(&children::one(seed, seconds, &[])?));
    if without.is_empty() {
        return Ok(Tried::Caught(names(as_it_is)));
    }
    println!("seed {seed} fails without {}, too: {}", mistake.name(), list(&without));
    Ok(Tried::Otherwise(without))
}

fn names(violations: Vec<(String, String)>) -> BTreeSet<String> {
    violations.into_iter().map(|(name, _)| name).collect()
}

impl Found {
    /// Whether this seed caught it.
    fn add(&mut self, seed: u64, tried: Tried) -> bool {
        match tried {
            Tried::Caught(names) => {
                if self.caught.as_ref().is_none_or(|(first, _)| seed < *first) {
                    self.caught = Some((seed, names));
                }
                true
            }
            Tried::Otherwise(names) => {
                if !names.is_empty() {
                    self.otherwise.insert(seed, names);
                }
                false
            }
        }
    }
}
