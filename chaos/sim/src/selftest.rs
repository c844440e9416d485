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

/// Runs seeds, from 1 on, until one catches it. Without the mistake that seed must find nothing.
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
                    let caught = match children::one(seed, seconds, &["--plant", mistake.name()]) {
                        Ok(verdict) => {
                            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                            found.add(mistake, seed, &children::violations(&verdict))
                        }
                        Err(error) => {
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.get_or_insert(error);
                            true
                        }
                    };
                    over.fetch_or(caught, Ordering::SeqCst);
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((seed, _)) = found.caught {
        let without = children::violations(&children::one(seed, seconds, &[])?);
        let names: BTreeSet<String> = without.into_iter().map(|(name, _)| name).collect();
        if !names.is_empty() {
            println!("seed {seed} fails without it, too: {}", list(&names));
            found.caught = None;
            found.otherwise.insert(seed, names);
        }
    }
    Ok(found)
}

impl Found {
    /// Whether this seed caught it.
    fn add(&mut self, mistake: Mistake, seed: u64, violations: &[(String, String)]) -> bool {
        let catches = expected::catches(mistake);
        let (as_it_is, otherwise): (Vec<_>, Vec<_>) =
            violations.iter().partition(|(name, detail)| expected::is_among(catches, name, detail));
        let names = |of: Vec<&(String, String)>| -> BTreeSet<String> {
            of.into_iter().map(|(name, _)| name.clone()).collect()
        };
        if as_it_is.is_empty() {
            if !otherwise.is_empty() {
                self.otherwise.insert(seed, names(otherwise));
            }
            return false;
        }
        if self.caught.as_ref().is_none_or(|(first, _)| seed < *first) {
            self.caught = Some((seed, names(as_it_is)));
        }
        true
    }
}
