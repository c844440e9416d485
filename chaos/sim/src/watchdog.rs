//! A seed that stands still is a violation, not something to wait for. Time is the machine's own here: what the
//! simulation makes of the clocks does not concern a thread that sleeps.

use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// The simulation's clock may stand still for so many looks, also on a machine that has much else to do.
const STILL: u32 = 24;

static STEP: AtomicU64 = AtomicU64::new(0);

/// The simulation's clock has got as far as this.
pub(crate) fn step(elapsed: Duration) {
    STEP.store(elapsed.as_millis() as u64, Ordering::Relaxed);
}

/// Ends the process, with a verdict, if nothing happens in it any more.
#[allow(clippy::disallowed_methods, reason = "nothing of this process can be asked to end")]
pub(crate) fn start(seed: u64) -> std::io::Result<()> {
    let watch = move || {
        let at = stands_still(&STEP, LOOK, STILL);
        let detail = format!("at {} ms nothing happened for {:?}", at, LOOK * STILL);
        println!("{}", json!({"seed": seed, "violations": [{"name": "hung", "detail": detail}]}));
        std::process::exit(1);
    };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map(drop)
}

/// Returns once it is the same for so many looks, and as what.
fn stands_still(step: &AtomicU64, look: Duration, still: u32) -> u64 {
    let (mut last, mut same) = (None, 0);
    while same < still {
        std::thread::sleep(look);
        let now = step.load(Ordering::Relaxed);
        same = if last == Some(now) { same + 1 } else { 0 };
        last = Some(now);
    }
    last.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_waited_for_and_what_stands_still_is_not() {
        let step = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20 {
                    std::thread::sleep(Duration::from_millis(10));
                    step.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert_eq!(stands_still(&step, Duration::from_millis(50), 2), 20);
        });
    }
}
