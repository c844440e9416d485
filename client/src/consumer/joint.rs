//! Which byte ranges of one object are fetched by one GET. Pure.
//!
//! An object holds what an agent had for all its partitions, so that the ranges of several partitions lie side by side.
//! A GET costs money and a round trip; a few bytes that nobody asked for cost neither.

use std::ops::Range;

/// So many bytes between two ranges are fetched along with them rather than asked around.
const GAP: u64 = 32 << 10;

/// The most bytes that joining makes of a GET. A larger slice goes alone.
pub(super) const JOINT: u64 = 4 << 20;

/// Both ranges and what lies between them, if they are close enough to go together.
pub(super) fn join(one: &Range<u64>, other: &Range<u64>) -> Option<Range<u64>> {
    let near =
        other.start <= one.end.saturating_add(GAP) && one.start <= other.end.saturating_add(GAP);
    let joint = one.start.min(other.start)..one.end.max(other.end);
    (near && joint.end - joint.start <= JOINT).then_some(joint)
}

/// The GETs for these ranges: each range lies in one of them.
pub(super) fn gets(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut gets: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match gets.last_mut() {
            Some(last) if last.start <= range.start && range.end <= last.end => {}
            Some(last) => match join(last, &range) {
                Some(joint) => *last = joint,
                None => gets.push(range),
            },
            None => gets.push(range),
        }
    }
    gets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_near_ones_share_a_get() {
        let ranges = vec![100..200, 0..100, 200 + GAP..300 + GAP, 1 << 20..(1 << 20) + 5];
        assert_eq!(gets(ranges), [0..300 + GAP, 1 << 20..(1 << 20) + 5]);
    }

    #[test]
    fn a_get_does_not_grow_beyond_its_limit() {
        let half = JOINT / 2;
        assert_eq!(
            gets(vec![0..half, half..JOINT, JOINT..JOINT + 1]),
            [0..JOINT, JOINT..JOINT + 1]
        );
        // A range that is larger by itself is one GET nevertheless.
        assert_eq!(gets(vec![0..2 * JOINT, 2 * JOINT..2 * JOINT + 1]).len(), 2);
    }

    #[test]
    fn a_range_within_another_is_fetched_with_it() {
        let joined = gets(vec![0..2 * JOINT, 5..6]);
        assert_eq!((joined.len(), joined[0].end), (1, 2 * JOINT));
    }

    #[test]
    fn far_ranges_are_not_joined() {
        assert_eq!(join(&(0..10), &(10 + GAP + 1..20 + GAP)), None);
        assert_eq!(join(&(10 + GAP..20 + GAP), &(0..10)), Some(0..20 + GAP));
    }
}
