//! Who lives: agents, and members of consumer groups. Both send heartbeats to
//! every controller, so that a new leader knows at once; only the leader acts
//! on silence.
//!
//! CLOCK: ending a session early costs a hand-over and nothing else, because
//! commits are fenced at apply.

use crate::clock;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long one may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// With a stream open.
    pub(crate) silent: Duration,
    /// Without one.
    pub(crate) gone: Duration,
}

/// How one was last heard of.
#[derive(Debug, Clone, Copy)]
struct Sign {
    /// Streams it has open here.
    streams: u32,
    /// The last heartbeat, or the moment its last stream broke.
    at: Instant,
    patience: Patience,
    /// The state has it. One who is only said to live is forgotten with its last stream.
    known: bool,
    /// It had no stream here when this controller began to lead, and has had none since.
    awaited: bool,
    /// Found silent: whatever is heard of it from here on comes too late.
    given_up: bool,
}

impl Sign {
    fn new(at: Instant, patience: Patience) -> Self {
        Self { streams: 0, at, patience, known: false, awaited: false, given_up: false }
    }

    fn is_over(&self, judging: &Judging, now: Instant) -> bool {
        let Patience { silent, gone } = self.patience;
        let heard = match self.streams {
            0 => self.at.max(judging.since) + gone,
            _ => (self.at + silent).max(judging.since + gone),
        };
        // It may not have found the way here yet.
        let back = if self.awaited { judging.open + silent } else { heard };
        now > heard.max(back)
    }
}

/// What silence is measured by.
#[derive(Debug, Clone, Copy)]
struct Judging {
    /// Since when streams can be opened here.
    open: Instant,
    /// Nobody is judged by what was before that alone.
    since: Instant,
    /// The term in which this controller leads, or last led.
    term: u64,
}

struct Signs<K> {
    of: HashMap<K, Sign>,
    judging: Judging,
}

/// A leadership that begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anew {
    pub(crate) term: u64,
    /// For so long the leader before may still tell some that they live.
    pub(crate) overlap: Duration,
}

/// Signs of life.
pub(crate) struct Liveness<K>(Mutex<Signs<K>>);

/// Of a controller at which streams can be opened from now on.
impl<K> Default for Liveness<K> {
    fn default() -> Self {
        let now = clock::now();
        let judging = Judging { open: now, since: now, term: 0 };
        Self(Mutex::new(Signs { of: HashMap::new(), judging }))
    }
}

impl<K: Hash + Eq + Clone> Liveness<K> {
    /// A heartbeat came. Tells whether it counts: one that was
    /// [given up](Self::give_up_silent) or forgotten is not brought back by it.
    pub(crate) fn heard(&self, key: &K) -> bool {
        let mut signs = self.0.lock();
        let Some(sign) = signs.of.get_mut(key) else { return false };
        sign.at = clock::now();
        !sign.given_up
    }

    /// A stream was opened. Tells whether that counts as a sign of life.
    pub(crate) fn attached(&self, key: K, patience: Patience) -> bool {
        let now = clock::now();
        let mut signs = self.0.lock();
        let sign = signs.of.entry(key).or_insert(Sign::new(now, patience));
        sign.streams += 1;
        (sign.at, sign.awaited) = (now, false);
        !sign.given_up
    }

    /// A stream broke. BOUND: one without a stream is remembered only if the
    /// state had it when this controller last led.
    pub(crate) fn detached(&self, key: &K) {
        let mut signs = self.0.lock();
        let Some(sign) = signs.of.get_mut(key) else { return };
        sign.streams = sign.streams.saturating_sub(1);
        sign.at = clock::now();
        if sign.streams == 0 && !sign.known {
            signs.of.remove(key);
        }
    }

    /// This controller may not have heard all for a while (it was stopped, or
    /// it begins to lead): nobody is judged by that time alone. From now each
    /// has as long as it may be gone, and whoever has a stream here and was
    /// heard on it as long as it may be silent after that; so repeated
    /// elections cannot keep a dead agent's leases alive.
    ///
    /// Begins it to lead, the first is counted from when the leader before has
    /// told the last that they live; and whoever has no stream here may be
    /// silent from when this controller could be reached: all may have been
    /// restarted at once. Nobody is given up any more, but within one term
    /// those who are stay so, for their end may be on its way.
    pub(crate) fn begin(&self, live: impl IntoIterator<Item = (K, Patience)>, leads: Option<Anew>) {
        let now = clock::now();
        let live: HashMap<K, Patience> = live.into_iter().collect();
        let signs = &mut *self.0.lock();
        signs.of.retain(|key, sign| {
            sign.known = live.contains_key(key);
            sign.known || sign.streams > 0
        });
        let same_term = leads.is_some_and(|leads| leads.term == signs.judging.term);
        for (key, patience) in live {
            let sign = signs.of.entry(key).or_insert(Sign::new(now, patience));
            (sign.patience, sign.known) = (patience, true);
            if leads.is_some() {
                sign.awaited = sign.streams == 0;
                sign.given_up &= same_term;
            }
        }
        let overlap = leads.map_or(Duration::ZERO, |leads| leads.overlap);
        signs.judging.since = signs.judging.since.max(now + overlap);
        signs.judging.term = leads.map_or(signs.judging.term, |leads| leads.term);
    }

    /// A new one; it has as long to open its stream as it may be silent.
    pub(crate) fn opened(&self, key: K, patience: Patience) {
        let later = clock::now() + patience.silent.saturating_sub(patience.gone);
        let mut signs = self.0.lock();
        let sign = signs.of.entry(key).or_insert(Sign::new(later, patience));
        (sign.patience, sign.known) = (patience, true);
    }

    /// One is no more.
    pub(crate) fn forget(&self, key: &K) {
        self.0.lock().of.remove(key);
    }

    /// Those whose time is over.
    pub(crate) fn expired(&self) -> Vec<K> {
        let now = clock::now();
        let signs = self.0.lock();
        let over = signs.of.iter().filter(|(_, sign)| sign.is_over(&signs.judging, now));
        over.map(|(key, _)| key.clone()).collect()
    }

    /// The same, for good: they are told again until they are
    /// [forgotten](Self::forget), and nothing that is heard of them counts.
    pub(crate) fn give_up_silent(&self) -> Vec<K> {
        let now = clock::now();
        let signs = &mut *self.0.lock();
        let silent = signs.of.iter_mut().filter_map(|(key, sign)| {
            sign.given_up |= sign.is_over(&signs.judging, now);
            sign.given_up.then(|| key.clone())
        });
        silent.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const PATIENCE: Patience = Patience { silent: HOUR, gone: Duration::ZERO };
    const NONE: Patience = Patience { silent: Duration::ZERO, gone: Duration::ZERO };
    const LEADS: Option<Anew> = Some(Anew { term: 1, overlap: Duration::ZERO });

    /// Of a controller that could be reached for as long as anybody may be silent.
    fn long_open() -> Liveness<u32> {
        let liveness = Liveness::default();
        liveness.0.lock().judging.open -= HOUR;
        liveness
    }

    fn passes(time: Instant) {
        while clock::now() <= time {
            std::thread::yield_now();
        }
    }

    /// Whose time is over, a moment later.
    fn expired(liveness: &Liveness<u32>) -> Vec<u32> {
        passes(clock::now());
        let mut expired = liveness.expired();
        expired.sort_unstable();
        expired
    }

    /// As if it had been heard so much earlier.
    fn heard_before(liveness: &Liveness<u32>, key: u32, time: Duration) {
        liveness.0.lock().of.get_mut(&key).unwrap().at -= time;
    }

    #[test]
    fn a_broken_stream_expires_after_the_grace_and_a_silent_one_after_the_ttl() {
        let liveness = long_open();
        liveness.attached(1, PATIENCE);
        liveness.attached(2, PATIENCE);
        liveness.begin([(1, PATIENCE), (2, PATIENCE)], LEADS);
        liveness.detached(&2);
        assert_eq!(expired(&liveness), [2]);
        heard_before(&liveness, 1, HOUR);
        assert_eq!(expired(&liveness), [1, 2]);
    }

    #[test]
    fn a_session_with_two_streams_lives_on_when_one_breaks() {
        let liveness = long_open();
        liveness.attached(1, PATIENCE);
        liveness.attached(1, PATIENCE);
        liveness.begin([(1, PATIENCE)], LEADS);
        liveness.detached(&1);
        assert!(expired(&liveness).is_empty());
        liveness.detached(&1);
        assert_eq!(expired(&liveness), [1]);
    }

    #[test]
    fn who_is_not_in_the_state_is_forgotten_with_its_last_stream() {
        let liveness = long_open();
        let remembered = || liveness.0.lock().of.len();
        liveness.begin([(1, PATIENCE)], LEADS);
        liveness.opened(2, PATIENCE);
        for key in 1..1_000 {
            liveness.attached(key, PATIENCE);
            liveness.attached(key, PATIENCE);
            liveness.detached(&key);
        }
        assert_eq!(remembered(), 999);
        (1..1_000).for_each(|key| liveness.detached(&key));
        assert_eq!(remembered(), 2);
        // One that has left since it was last led from here is no more known than any other.
        liveness.attached(1, PATIENCE);
        liveness.begin([(2, PATIENCE)], LEADS);
        liveness.detached(&1);
        assert_eq!(remembered(), 1);
    }

    #[test]
    fn a_new_leader_waits_for_as_long_as_the_one_before_may_have_told_that_they_live() {
        let liveness = long_open();
        liveness.begin([(1, NONE)], Some(Anew { term: 1, overlap: HOUR }));
        passes(clock::now());
        assert!(liveness.give_up_silent().is_empty());
        // Heard here for the last time; the one before may have told it later.
        liveness.attached(1, NONE);
        liveness.detached(&1);
        liveness.begin([(1, NONE)], None);
        assert!(expired(&liveness).is_empty() && liveness.give_up_silent().is_empty());
        liveness.0.lock().judging.since -= HOUR;
        passes(clock::now());
        assert_eq!(liveness.give_up_silent(), [1]);
    }

    #[test]
    fn a_new_leader_goes_by_what_it_heard_before_and_gives_no_more_than_the_grace() {
        let liveness = long_open();
        for key in 1..4 {
            liveness.attached(key, PATIENCE);
        }
        // One froze long ago, of the second the stream broke, the fourth never had one here.
        heard_before(&liveness, 1, HOUR);
        liveness.detached(&2);
        for term in 1..4 {
            let leads = Some(Anew { term, overlap: Duration::ZERO });
            liveness.begin([1, 2, 3, 4].map(|key| (key, PATIENCE)), leads);
            assert_eq!(expired(&liveness), [1, 2, 4], "term {term}");
        }
        // The same of one that was stopped.
        liveness.begin([1, 2, 3, 4].map(|key| (key, PATIENCE)), None);
        assert_eq!(expired(&liveness), [1, 2, 4]);
        let graced = Patience { silent: HOUR, gone: HOUR / 2 };
        liveness.begin([1, 2, 3, 4].map(|key| (key, graced)), LEADS);
        assert!(expired(&liveness).is_empty());
    }

    #[test]
    fn where_all_were_restarted_those_without_a_stream_have_the_ttl_to_come_back() {
        let liveness = Liveness::default();
        liveness.attached(1, PATIENCE);
        liveness.begin([1, 2, 3].map(|key| (key, PATIENCE)), LEADS);
        assert!(expired(&liveness).is_empty());
        // Whoever comes and goes was awaited once.
        for key in [1, 2] {
            liveness.attached(key, PATIENCE);
            liveness.detached(&key);
        }
        liveness.detached(&1);
        assert_eq!(expired(&liveness), [1, 2]);
        liveness.0.lock().judging.open -= HOUR;
        assert_eq!(expired(&liveness), [1, 2, 3]);
    }

    #[test]
    fn who_was_given_up_is_not_brought_back_by_a_late_sign_of_life() {
        let liveness = long_open();
        assert!(liveness.attached(1, NONE));
        liveness.begin([(1, NONE)], LEADS);
        passes(clock::now());
        assert_eq!(liveness.give_up_silent(), [1]);
        assert!(!liveness.heard(&1));
        assert!(!liveness.attached(1, NONE));
        assert_eq!(liveness.give_up_silent(), [1]);
        // Its end may be on its way for as long as the term lasts, whoever thought meanwhile that it did not.
        liveness.begin([(1, PATIENCE)], LEADS);
        assert!(!liveness.heard(&1));
        // Whoever leads next has not judged it.
        liveness.begin([(1, PATIENCE)], Some(Anew { term: 2, overlap: Duration::ZERO }));
        assert!(liveness.heard(&1));
        assert!(liveness.give_up_silent().is_empty());
    }

    #[test]
    fn each_is_judged_by_its_own_patience() {
        let liveness = long_open();
        liveness.begin([(1, PATIENCE), (2, NONE)], LEADS);
        liveness.attached(1, PATIENCE);
        liveness.attached(2, NONE);
        assert_eq!(expired(&liveness), [2]);
    }
}
