//! What else the machine is doing, and whether it stood still: figures in seconds mean little then.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::clock;

/// The machine stood still if nothing could be done on it for so long: a figure may be wrong by as much.
const STANDSTILL: Duration = Duration::from_millis(200);
/// How often a trial is held at most.
const TRIALS: u32 = 3;
/// What the pulse rests from one beat to the next.
const REST: Duration = Duration::from_millis(10);
/// How often a beat writes to the disk as well.
const WRITE_EVERY: Duration = Duration::from_millis(50);

/// Holds a trial, which ends with what was not as it should be if that is a matter of time: too late, too slow, an
/// election. Nobody can tell then whether the product took its time or the machine, whose processor or disk was taken away
/// from all that runs on it. So if the machine stood still for 200 ms or longer during such a trial, that one proves
/// nothing, and another is held; three at most.
///
/// What must hold however long anything takes (nothing lost, nothing twice, all in order) is no matter of time: a trial
/// asserts that, and its panic is final.
///
/// # Panics
///
/// If a trial ends with an error although the machine did not stand still, or the last one does.
#[track_caller]
pub fn unless_paused(mut trial: impl FnMut() -> Result<(), String>) {
    for number in 1.. {
        let pulse = Pulse::start();
        let Err(wrong) = trial() else { return };
        let gap = pulse.longest_gap();
        assert!(
            proves_nothing(gap) && number < TRIALS,
            "{wrong} (trial {number}; the machine stood still for {gap:?} at most)"
        );
        println!("{wrong}; but the machine stood still for {gap:?}: another trial is held");
    }
}

/// What a trial of [`unless_paused`] ends with if this is not so.
pub fn in_bounds(is: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if is { Ok(()) } else { Err(wrong()) }
}

fn proves_nothing(gap: Duration) -> bool {
    gap >= STANDSTILL
}

/// Feels how long the machine stands still: a thread that does next to nothing all the time, on the processor and on the
/// disk. It ends when this is dropped.
struct Pulse {
    felt: Arc<Felt>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Felt {
    end: AtomicBool,
    /// The longest time from one beat to the next.
    longest_us: AtomicU64,
}

impl Pulse {
    fn start() -> Self {
        let felt = Arc::<Felt>::default();
        let own = Arc::clone(&felt);
        // Where the clusters of tests keep what is theirs.
        let file = tempfile::tempfile().expect("a temporary file");
        let begun = clock::now();
        let thread = thread::Builder::new().name("pulse".into());
        let thread = thread.spawn(move || beat(file, &own, begun)).expect("a thread starts");
        Self { felt, thread: Some(thread) }
    }

    /// Ends it; the longest time from one beat to the next.
    fn longest_gap(self) -> Duration {
        let felt = Arc::clone(&self.felt);
        // With the last beat, which may be the late one.
        drop(self);
        Duration::from_micros(felt.longest_us.load(Ordering::SeqCst))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.felt.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said why.
            let _ = thread.join();
        }
    }
}

/// From `last` on, which was before this thread began: it may begin late, too.
fn beat(mut file: File, felt: &Felt, mut last: Instant) {
    let mut written = last;
    loop {
        thread::sleep(REST);
        if last.duration_since(written) >= WRITE_EVERY {
            written = last;
            let synced = file.write_all(b".").and_then(|()| file.sync_data());
            synced.expect("a temporary file takes a byte");
        }
        let now = clock::now();
        let gap = now.duration_since(last).as_micros() as u64;
        felt.longest_us.fetch_max(gap, Ordering::SeqCst);
        if felt.end.load(Ordering::SeqCst) {
            return;
        }
        last = now;
    }
}

/// The share of all processors' time, 0 to 1, that was used during the next `window`. Asked while nothing of a test runs,
/// it tells whether others do: figures in seconds mean little then.
///
/// # Panics
///
/// If the kernel does not tell.
pub fn busy_share(window: Duration) -> f64 {
    let (busy, all) = ticks();
    thread::sleep(window);
    let (busy_then, all_then) = ticks();
    (busy_then - busy) as f64 / ((all_then - all) as f64).max(1.0)
}

/// Since the machine started: of work, and all.
fn ticks() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").expect("the kernel tells");
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    // The fourth and fifth: doing nothing, and waiting for a disk.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_trial_that_always_ends_wrong_fails_with_what_was_wrong() {
        let mut held = 0;
        let trials = AssertUnwindSafe(|| {
            unless_paused(|| {
                held += 1;
                Err("too late".to_owned())
            });
        });
        let said = catch_unwind(trials).unwrap_err();
        let said = said.downcast_ref::<String>().unwrap();
        assert!(said.starts_with("too late (trial "), "{said}");
        // More than once only if this machine stands still.
        assert!((1..=TRIALS).contains(&held), "{held}");
    }

    #[test]
    fn a_trial_that_ends_well_is_held_once() {
        let mut held = 0;
        unless_paused(|| {
            held += 1;
            Ok(())
        });
        assert_eq!(held, 1);
    }

    #[test]
    fn only_a_machine_that_stood_still_excuses_a_figure() {
        assert!(proves_nothing(STANDSTILL));
        assert!(!proves_nothing(STANDSTILL - Duration::from_millis(1)));
    }

    #[test]
    fn the_pulse_beats() {
        let pulse = Pulse::start();
        thread::sleep(WRITE_EVERY * 3);
        assert!(pulse.longest_gap() >= REST);
    }
}
