//! Mistakes that the simulation must find. Each stands where a programmer could have made it; a release has none of
//! them, because [`is_planted`] is then the constant `false`.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::UNIX_EPOCH;

macro_rules! mistakes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// One mistake; its comment says what is done wrong, and the invariant that it breaks.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mistake {
            $($(#[$doc])* $variant),*
        }

        impl Mistake {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// What it is called.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),*
                }
            }
        }
    };
}

mistakes! {
    /// Whoever waits for the log's disk is answered before the sync (ACK).
    LogNotSynced = "log-not-synced",
    /// The applied index is written ahead of what was applied, and not with it, so that a power cut may come in between
    /// (PURE).
    AppliedMarkerFirst = "applied-marker-first",
    /// A leader takes its own word for it that it still leads, and reads without asking a majority (reads are not
    /// linearizable).
    StaleLinearizableRead = "stale-linearizable-read",
    /// Cluster time jumps with the wall clock, and stands still once that has gone back: so does whatever expires
    /// (CLOCK).
    ExpiryByWallClock = "expiry-by-wall-clock",
    /// A commit stores the time of the controller's own clock, not that of the command (PURE).
    ApplyReadsClock = "apply-reads-clock",
    /// Leases are dealt out and taken in the order of a hash map (PURE).
    HashMapOrder = "hash-map-order",
    /// A command that was applied before is applied again, whatever it was answered then (RETRY).
    RetryNotRemembered = "retry-not-remembered",
    /// A commit is taken from whatever session under whatever epoch, if only its offsets are the partition's next
    /// (FENCE).
    NoEpochCheck = "no-epoch-check",
    /// The holder's commit is taken under whatever epoch and at whatever offset (DENSE).
    NoOffsetCheck = "no-offset-check",
    /// A commit that was applied is answered as fenced when it is asked about after its session has ended (RETRY).
    FenceBeforeDuplicate = "fence-before-duplicate",
    /// Refusing a slice of the current epoch does not raise that, so that the holder waits for ever for offsets to fit
    /// (the partition is stuck).
    EpochNotRaisedOnRefusal = "epoch-not-raised-on-refusal",
    /// A partition of an ended session is granted to another one under the same epoch (FENCE).
    GrantWithoutEpoch = "grant-without-epoch",
    /// An object is acknowledged when it is stored, before its commit was answered (ACK).
    AckBeforeCommit = "ack-before-commit",
    /// A PUT that is answered "already exists" counts as done, whatever lies there, if anything does (ACK).
    ExistsTakenForStored = "exists-taken-for-stored",
    /// An agent whose session ends calls what was sent to be committed, and not answered, certainly not written (RETRY).
    LostAnswerTakenForFailure = "lost-answer-taken-for-failure",
    /// A producer's batch that was its last one is written again when it comes again (DEDUP).
    DuplicateOffByOne = "duplicate-off-by-one",
    /// The good batches of a slice that is refused for bad ones count as written (DEDUP).
    ProducerStateEarly = "producer-state-early",
    /// A producer that another one has taken over from goes on writing (DEDUP).
    ProducerEpochIgnored = "producer-epoch-ignored",
    /// A producer's client calls certainly failed what may have been written.
    DoubtTakenForFailure = "doubt-taken-for-failure",
    /// What a session has not committed is deleted once the session is old, though it may still commit it (GC).
    CollectorByAge = "collector-by-age",
    /// A consumer passes over what it could not fetch, or found damaged (READ).
    ReaderSkipsMissing = "reader-skips-missing",
    /// A consumer does not compare a slice with the checksum and the offsets that the index has for it (READ).
    ChecksumNotChecked = "checksum-not-checked",
    /// After an error a consumer goes on with the last record that it handed out, not with the next (READ).
    StaleReadPlan = "stale-read-plan",
    /// An automatic commit is one ahead of what the application has taken (GROUP).
    AutoCommitAhead = "auto-commit-ahead",
    /// A member commits what it has lost, and that is taken (GROUP).
    ZombieCommit = "zombie-commit",
    /// A group's partition is granted to its next owner before the last one, which is not told, has given it up (GROUP).
    PartitionGrantedTwice = "partition-granted-twice",
    /// A controller that does not lead confirms members' signs of life, too (GROUP).
    DeposedLeaderHeartbeat = "deposed-leader-heartbeat",
}

/// Whether this mistake is made. It is `false`, and whatever hangs on it is gone, unless this crate was built with the
/// feature `planted` and [`plant`] was called with it.
#[inline(always)]
pub fn is_planted(mistake: Mistake) -> bool {
    #[cfg(feature = "planted")]
    return planting::is(mistake);
    #[cfg(not(feature = "planted"))]
    {
        let _ = mistake;
        false
    }
}

/// This machine's own time of day, in milliseconds, where [`Mistake::ApplyReadsClock`] is made; else what is given.
#[inline(always)]
pub fn own_clock_ms(ms: u64) -> u64 {
    if !is_planted(Mistake::ApplyReadsClock) {
        return ms;
    }
    let since = crate::clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The items in the order of a hash map where [`Mistake::HashMapOrder`] is made; else as they are given.
#[inline(always)]
pub fn in_hash_order<T: Eq + Hash>(items: Vec<T>) -> Vec<T> {
    if !is_planted(Mistake::HashMapOrder) {
        return items;
    }
    items.into_iter().collect::<HashSet<T>>().into_iter().collect()
}

#[cfg(feature = "planted")]
pub use planting::plant;

#[cfg(feature = "planted")]
mod planting {
    use super::Mistake;
    use std::sync::OnceLock;

    static PLANTED: OnceLock<Mistake> = OnceLock::new();

    /// Makes this mistake from now on, in this process.
    ///
    /// # Panics
    /// If another one is made already.
    pub fn plant(mistake: Mistake) {
        assert_eq!(*PLANTED.get_or_init(|| mistake), mistake, "one mistake at a time");
    }

    pub(super) fn is(mistake: Mistake) -> bool {
        PLANTED.get() == Some(&mistake)
    }
}
