//! Is the simulation awake? Each planted mistake must be found within so many seeds.

use crate::children;
use comfy_table::{Table, presets};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use streamhouse_host::Mistake;

/// Whether all were found.
pub(crate) fn run(mistakes: &[Mistake], most: u64, seconds: u64, jobs: usize) -> io::Result<bool> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["mistake", "found as", "seeds"]);
    let mut missed = Vec::new();
    for mistake in mistakes {
        let found = find(*mistake, most, seconds, jobs)?;
        match &found {
            Some((seed, names)) => {
                println!("{}: {} with seed {seed}", mistake.name(), names.join(", "));
                table.add_row([mistake.name(), &names.join(", "), &seed.to_string()]);
            }
            None => {
                println!("{}: not found with {most} seeds", mistake.name());
                table.add_row([mistake.name(), "not found", &format!("> {most}")]);
                missed.push(mistake.name());
            }
        }
    }
    println!("{table}");
    println!("{} of {} found", mistakes.len() - missed.len(), mistakes.len());
    Ok(missed.is_empty())
}

/// The first seed, from 1 on, that finds it, and as what. Without the mistake that seed must find nothing.
fn find(
    mistake: Mistake,
    most: u64,
    seconds: u64,
    jobs: usize,
) -> io::Result<Option<(u64, Vec<String>)>> {
    let (next, over) = (AtomicU64::new(1), AtomicBool::new(false));
    let found: Mutex<Option<(u64, Vec<String>)>> = Mutex::new(None);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed > most {
                        return;
                    }
                    match children::one(seed, seconds, &["--plant", mistake.name()]) {
                        Ok(verdict) => {
                            let mut names = Vec::new();
                            for (name, _) in children::violations(&verdict) {
                                if !names.contains(&name) {
                                    names.push(name);
                                }
                            }
                            if !names.is_empty() {
                                over.store(true, Ordering::SeqCst);
                                let mut found =
                                    found.lock().unwrap_or_else(PoisonError::into_inner);
                                if found.as_ref().is_none_or(|(first, _)| seed < *first) {
                                    *found = Some((seed, names));
                                }
                            }
                        }
                        Err(error) => {
                            over.store(true, Ordering::SeqCst);
                            failed
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((seed, _)) = &found {
        let without = children::violations(&children::one(*seed, seconds, &[])?);
        if !without.is_empty() {
            return Err(io::Error::other(format!(
                "seed {seed} finds without it, too: {without:?}"
            )));
        }
    }
    Ok(found)
}
