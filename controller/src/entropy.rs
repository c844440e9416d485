//! The one place of this crate, beside the Raft layer's disk ids, where random
//! values come from. They travel inside commands (PURE).

/// 16 random bytes: a UUID of version 4.
#[expect(clippy::disallowed_methods, reason = "the entropy module")]
pub(crate) fn id() -> [u8; 16] {
    uuid::Uuid::new_v4().into_bytes()
}

/// A random number.
#[expect(clippy::disallowed_methods, reason = "the entropy module")]
pub(crate) fn number() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 ^ uuid::Uuid::new_v4().as_u64_pair().1
}
