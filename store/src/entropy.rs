//! Where this crate's random values come from: names that no other process picks, and jitter.

use std::time::Duration;

use uuid::Uuid;

/// A name of 32 hexadecimal digits that has not been used before.
pub(crate) fn unique_name() -> String {
    random().simple().to_string()
}

/// Between half of `pause` and all of it.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause / 2 + pause / 2 * u32::from(random().as_bytes()[0]) / 255
}

#[expect(clippy::disallowed_methods, reason = "the crate's one source of random values")]
fn random() -> Uuid {
    Uuid::new_v4()
}
