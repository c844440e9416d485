//! How much is written to a partition: what its index says of the last minute.
//!
//! The index is read and nothing is sampled, so that any controller can tell,
//! after a restart as before, and nobody pays who does not ask. Append times
//! are cluster time, as agents had it (CLOCK: to be shown, and no more).

use crate::raft::StateView;
use crate::state::command::PartitionKey;
use crate::state::kv::KvError;
use crate::state::partitions::Partition;
use crate::state::segments::last_before;

/// The time that is looked at.
const WINDOW_MS: u64 = 60_000;
/// BOUND: entries looked at for one answer, one a partition at the least.
const ENTRIES: usize = 4_096;

/// What was appended within the last minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LastMinute {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// How many entries there are for each of so many partitions.
pub(super) fn share(partitions: usize) -> usize {
    (ENTRIES / partitions.max(1)).max(1)
}

/// Looks through the newest `entries` entries of a partition.
pub(super) fn last_minute(
    view: &StateView,
    key: &PartitionKey,
    partition: &Partition,
    now_ms: u64,
    entries: usize,
) -> Result<LastMinute, KvError> {
    let since_ms = now_ms.saturating_sub(WINDOW_MS);
    let (mut seen, mut before, mut oldest_ms) =
        (LastMinute::default(), partition.next_offset, now_ms);
    for _ in 0..entries {
        let found = last_before(view, key, before)?;
        let Some((base, entry)) = found.filter(|(_, entry)| entry.append_time_ms > since_ms) else {
            return Ok(seen);
        };
        seen.records += u64::from(entry.record_count);
        seen.bytes += u64::from(entry.length);
        oldest_ms = oldest_ms.min(entry.append_time_ms);
        before = base;
    }
    Ok(extrapolated(seen, now_ms.saturating_sub(oldest_ms)))
}

/// What a whole minute would bring if it went on like in the time seen.
fn extrapolated(seen: LastMinute, span_ms: u64) -> LastMinute {
    let whole = |part: u64| {
        let whole = u128::from(part) * u128::from(WINDOW_MS) / u128::from(span_ms.max(1_000));
        u64::try_from(whole).unwrap_or(u64::MAX)
    };
    LastMinute { records: whole(seen.records), bytes: whole(seen.bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_looked_through_is_taken_to_be_like_the_rest() {
        let seen = LastMinute { records: 100, bytes: 5_000 };
        assert_eq!(extrapolated(seen, 60_000), seen);
        let expected = LastMinute { records: 1_000, bytes: 50_000 };
        assert_eq!(extrapolated(seen, 6_000), expected);
        // A moment says little: it counts as a second.
        let expected = LastMinute { records: 6_000, bytes: 300_000 };
        assert_eq!(extrapolated(seen, 1), expected);
    }

    #[test]
    fn however_many_partitions_each_is_looked_at() {
        assert_eq!((share(0), share(4), share(10_000)), (4_096, 1_024, 1));
    }
}
