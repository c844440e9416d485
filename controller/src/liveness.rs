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

    fn is_over(&self, since: Since, now: Instant) -> bool {
        let (since, patience) = match self.streams {
            0 => (since.gone, self.patience.gone),
            _ => (since.silent, self.patience.silent),
        };
        now.saturating_duration_since(self.at.max(since)) > patience
    }
}

/// What was before that does not count.
#[derive(Debug, Clone, Copy)]
struct Since {
    /// With a stream open.
    silent: Instant,
    /// Without one.
    gone: Instant,
}

struct Signs<K> {
    of: HashMap<K, Sign>,
    since: Since,
    gathering: Gathering,
}

/// Most had no stream here when this controller began to lead, as after a
/// restart of all: they stand in line, and that none has come is no sign yet.
#[derive(Debug, Clone, Copy)]
struct Gathering {
    /// Whoever is awaited and comes gives the others so much longer,
    longer: Duration,
    /// but not beyond that.
    until: Instant,
}

/// How many times over silence is borne while they gather: longer than a
/// connection takes that found no room twice (one and two seconds).
const GATHERING: u32 = 4;

/// Signs of life.
pub(crate) struct Liveness<K>(Mutex<Signs<K>>);

impl<K> Default for Liveness<K> {
    fn default() -> Self {
        let now = clock::now();
        let since = Since { silent: now, gone: now };
        let gathering = Gathering { longer: Duration::ZERO, until: now };
        Self(Mutex::new(Signs { of: HashMap::new(), since, gathering }))
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
        let signs = &mut *self.0.lock();
        let sign = signs.of.entry(key).or_insert(Sign::new(now, patience));
        let Gathering { longer, until } = signs.gathering;
        if std::mem::take(&mut sign.awaited) && now < until {
            signs.since.gone = signs.since.gone.max(until.min(now + longer));
        }
        sign.streams += 1;
        sign.at = now;
        !sign.given_up
    }

    /// A stream broke. Only a leader remembers one without a stream, and,
    /// BOUND, only one that the state has.
    pub(crate) fn detached(&self, key: &K, leads: bool) {
        let mut signs = self.0.lock();
        let Some(sign) = signs.of.get_mut(key) else { return };
        sign.streams = sign.streams.saturating_sub(1);
        sign.at = clock::now();
        if sign.streams == 0 && !(leads && sign.known) {
            signs.of.remove(key);
        }
    }

    /// This controller could not have heard anything for a while (it was
    /// stopped, or it begins to lead): nobody is judged by that time.
    ///
    /// Who has a stream here may be silent anew from now; any other may be
    /// gone for as long as that is allowed, so that repeated elections cannot
    /// keep a dead agent's leases alive.
    ///
    /// `leads_anew`: nobody is given up any more, and silence counts only after
    /// that time, in which the leader before may still tell some that they live.
    /// If more are awaited than are here, they [gather](Gathering): each may be
    /// gone for as long as it may be silent, from when one of them last came.
    /// Within one leadership those who are given up stay so, for their end may
    /// be on its way.
    pub(crate) fn begin(
        &self,
        live: impl IntoIterator<Item = (K, Patience)>,
        leads_anew: Option<Duration>,
    ) {
        let now = clock::now();
        let live: HashMap<K, Patience> = live.into_iter().collect();
        let longer = |patience: &Patience| patience.silent.saturating_sub(patience.gone);
        let longer = live.values().map(longer).max().unwrap_or_default();
        let known = live.len();
        let signs = &mut *self.0.lock();
        signs.of.retain(|key, sign| {
            sign.known = live.contains_key(key);
            sign.known || sign.streams > 0
        });
        for (key, patience) in live {
            let sign = signs.of.entry(key).or_insert(Sign::new(now, patience));
            (sign.at, sign.patience, sign.known) = (now, patience, true);
            if leads_anew.is_some() {
                (sign.awaited, sign.given_up) = (sign.streams == 0, false);
            }
        }
        let Some(overlap) = leads_anew else { return };
        let judged = now + overlap;
        signs.since = Since { silent: judged, gone: judged };
        signs.gathering = Gathering { longer, until: judged };
        if signs.of.values().filter(|sign| sign.awaited).count() * 2 > known {
            signs.since.gone = judged + longer;
            signs.gathering.until = judged + GATHERING * longer;
        }
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
        let over = signs.of.iter().filter(|(_, sign)| sign.is_over(signs.since, now));
        over.map(|(key, _)| key.clone()).collect()
    }

    /// The same, for good: they are told again until they are
    /// [forgotten](Self::forget), and nothing that is heard of them counts.
    pub(crate) fn give_up_silent(&self) -> Vec<K> {
        let now = clock::now();
        let signs = &mut *self.0.lock();
        let silent = signs.of.iter_mut().filter_map(|(key, sign)| {
            sign.given_up |= sign.is_over(signs.since, now);
            sign.given_up.then(|| key.clone())
        });
        silent.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { silent: Duration::from_secs(3_600), gone: Duration::ZERO };

    #[test]
    fn a_broken_stream_expires_after_the_grace_and_a_silent_one_after_the_ttl() {
        let liveness = Liveness::default();
        liveness.attached(1, PATIENCE);
        liveness.attached(2, PATIENCE);
        liveness.begin([(1, PATIENCE), (2, PATIENCE)], Some(Duration::ZERO));
        liveness.detached(&2, true);
        while liveness.expired().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(liveness.expired(), [2]);
    }

    #[test]
    fn a_session_with_two_streams_lives_on_when_one_breaks() {
        let liveness = Liveness::default();
        liveness.attached(1, PATIENCE);
        liveness.attached(1, PATIENCE);
        liveness.begin([(1, PATIENCE)], Some(Duration::ZERO));
        liveness.detached(&1, true);
        assert!(liveness.expired().is_empty());
        liveness.detached(&1, true);
        while liveness.expired().is_empty() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_is_not_in_the_state_is_forgotten_with_its_last_stream() {
        let liveness = Liveness::default();
        let remembered = || liveness.0.lock().of.len();
        liveness.begin([(1, PATIENCE)], Some(Duration::ZERO));
        liveness.opened(2, PATIENCE);
        for key in 1..1_000 {
            liveness.attached(key, PATIENCE);
            liveness.attached(key, PATIENCE);
            liveness.detached(&key, true);
        }
        assert_eq!(remembered(), 999);
        (1..1_000).for_each(|key| liveness.detached(&key, true));
        assert_eq!(remembered(), 2);
        // One that has left since it was last led from here is no more known than any other.
        liveness.attached(1, PATIENCE);
        liveness.begin([(2, PATIENCE)], Some(Duration::ZERO));
        liveness.detached(&1, true);
        assert_eq!(remembered(), 1);
    }

    #[test]
    fn a_new_leader_waits_for_as_long_as_the_one_before_may_have_told_that_they_live() {
        let liveness = Liveness::default();
        let short = Patience { silent: Duration::ZERO, gone: Duration::ZERO };
        let passes = |time: Instant| while clock::now() <= time {};
        liveness.begin([(1, short)], Some(Duration::from_secs(3_600)));
        passes(clock::now());
        assert!(liveness.give_up_silent().is_empty());
        // Heard here for the last time; the one before may have told it later.
        liveness.attached(1, short);
        liveness.detached(&1, true);
        liveness.begin([(1, short)], None);
        passes(clock::now());
        assert!(liveness.give_up_silent().is_empty() && liveness.expired().is_empty());
        liveness.begin([(1, short)], Some(Duration::ZERO));
        passes(clock::now());
        assert_eq!(liveness.give_up_silent(), [1]);
    }

    #[test]
    fn a_leader_that_hears_of_most_gives_the_others_the_grace_alone() {
        let liveness = Liveness::default();
        liveness.attached(1, PATIENCE);
        liveness.begin([1, 2].map(|key| (key, PATIENCE)), Some(Duration::ZERO));
        // The grace is none here; neither one who comes back nor a new one adds to it.
        liveness.attached(2, PATIENCE);
        liveness.detached(&2, true);
        liveness.opened(3, PATIENCE);
        liveness.attached(3, PATIENCE);
        while liveness.expired().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(liveness.expired(), [2]);
    }

    #[test]
    fn a_leader_that_hears_of_few_waits_for_as_long_as_others_come() {
        let liveness = Liveness::default();
        let longer = PATIENCE.silent;
        let since = || liveness.0.lock().since;
        liveness.attached(3, PATIENCE);
        let before = clock::now();
        liveness.begin([1, 2, 3, 4].map(|key| (key, PATIENCE)), Some(Duration::ZERO));
        let begun = since();
        assert!(begun.gone >= before + longer && begun.silent < before + longer);
        let passes = |time: Instant| while clock::now() <= time {};
        passes(clock::now());
        // Neither one that the state has not, nor a new one, nor one that had a stream.
        liveness.opened(8, PATIENCE);
        for key in [8, 9, 3] {
            liveness.attached(key, PATIENCE);
            liveness.detached(&key, true);
        }
        assert_eq!(since().gone, begun.gone);
        let back = clock::now();
        liveness.attached(1, PATIENCE);
        let moved = since();
        assert!(moved.gone >= back + longer);
        assert_eq!(moved.silent, begun.silent);
        // Whoever comes and goes was awaited once.
        passes(clock::now());
        liveness.detached(&1, true);
        liveness.attached(1, PATIENCE);
        assert_eq!(since().gone, moved.gone);
        // They gather for so long and no longer.
        let until = begun.silent + GATHERING * longer;
        assert_eq!(liveness.0.lock().gathering.until, until);
        liveness.0.lock().gathering.until = back + longer;
        liveness.attached(2, PATIENCE);
        assert_eq!(since().gone, moved.gone);
        liveness.0.lock().gathering.until = clock::now();
        liveness.attached(4, PATIENCE);
        assert_eq!(since().gone, moved.gone);
    }

    #[test]
    fn who_may_be_gone_for_as_long_as_silent_is_waited_for_no_longer() {
        let liveness = Liveness::default();
        let member = Patience { silent: Duration::ZERO, gone: Duration::ZERO };
        liveness.begin([1, 2].map(|key| (key, member)), Some(Duration::ZERO));
        liveness.attached(1, member);
        while liveness.expired().len() < 2 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_was_given_up_is_not_brought_back_by_a_late_sign_of_life() {
        let liveness = Liveness::default();
        let short = Patience { silent: Duration::ZERO, gone: Duration::ZERO };
        assert!(liveness.attached(1, short));
        while liveness.give_up_silent().is_empty() {
            std::thread::yield_now();
        }
        assert!(!liveness.heard(&1));
        assert!(!liveness.attached(1, short));
        assert_eq!(liveness.give_up_silent(), [1]);
        // Whoever leads next has not judged it.
        liveness.begin([(1, PATIENCE)], Some(Duration::ZERO));
        assert!(liveness.heard(&1));
        assert!(liveness.give_up_silent().is_empty());
    }

    #[test]
    fn each_is_judged_by_its_own_patience() {
        let liveness = Liveness::default();
        let short = Patience { silent: Duration::ZERO, gone: Duration::ZERO };
        liveness.begin([(1, PATIENCE), (2, short)], Some(Duration::ZERO));
        liveness.attached(1, PATIENCE);
        liveness.attached(2, short);
        while liveness.expired().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(liveness.expired(), [2]);
    }
}
