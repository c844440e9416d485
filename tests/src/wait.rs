//! Waiting for what will happen, not for time to pass.

use std::thread;
use std::time::Duration;

use crate::clock;

const POLL: Duration = Duration::from_millis(50);

/// Waits until `look` finds something.
///
/// # Panics
///
/// If it has found nothing after `patience`.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = clock::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::now() < deadline, "waited {patience:?} in vain: {what}");
        thread::sleep(POLL);
    }
}
