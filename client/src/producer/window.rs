//! What is in flight for one partition, and in which order it goes out again after a failure. Pure: no clock, no I/O.
//!
//! ```text
//!   fresh ──next_to_send──▶ sent ──acknowledged / dropped──▶ gone
//!     ▲                      │ failed
//!     └──── resume ────── failed      (only when nothing is `sent` any more)
//! ```
//!
//! SUBTLE: why nothing is sent between a failure and `resume`.
//! 1. Batches A, B, C are in flight and A fails. B and C may be written, fail, or stay open for a while.
//! 2. If D, or A again, went out now, it could be written before C fails: the log would say A D, then C.
//! 3. Once every fate is known, all that is left goes out in its original order, ahead of anything new.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Sent,
    Failed,
}

#[derive(Debug)]
struct Slot<B> {
    id: u64,
    state: State,
    batch: B,
}

/// See the module. `B` is whatever is known of a batch.
#[derive(Debug)]
pub(super) struct Window<B> {
    slots: VecDeque<Slot<B>>,
    limit: usize,
    last_id: u64,
    /// A batch failed and was not yet sent again.
    recovering: bool,
}

impl<B> Window<B> {
    /// A window for at most `limit` batches.
    pub(super) fn new(limit: usize) -> Self {
        Self { slots: VecDeque::new(), limit, last_id: 0, recovering: false }
    }

    /// Whether one more batch may be pushed. While recovering none may, so that what is behind stays in the buffer.
    pub(super) fn has_room(&self) -> bool {
        !self.recovering && self.slots.len() < self.limit
    }

    /// A batch failed and was not yet sent again.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// There is something that may be sent, or that waits for its time; not while the fate of a batch in flight
    /// decides first.
    pub(super) fn may_send(&self) -> bool {
        !self.slots.is_empty() && (!self.recovering || self.can_resume())
    }

    /// Whether all batches ahead of this one are done with.
    pub(super) fn is_first(&self, id: u64) -> bool {
        self.slots.front().is_some_and(|slot| slot.id == id)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a batch behind all others.
    pub(super) fn push(&mut self, batch: B) {
        self.last_id += 1;
        self.slots.push_back(Slot { id: self.last_id, state: State::Fresh, batch });
    }

    /// The next batch to send, which then counts as sent.
    pub(super) fn next_to_send(&mut self) -> Option<(u64, &mut B)> {
        if self.recovering {
            return None;
        }
        let slot = self.slots.iter_mut().find(|slot| slot.state == State::Fresh)?;
        slot.state = State::Sent;
        Some((slot.id, &mut slot.batch))
    }

    /// The batch is done with, well or not: it leaves the window.
    pub(super) fn remove(&mut self, id: u64) -> Option<B> {
        let index = self.slots.iter().position(|slot| slot.id == id)?;
        let slot = self.slots.remove(index)?;
        self.end_empty_recovery();
        Some(slot.batch)
    }

    /// The batch failed and is to be sent again.
    pub(super) fn failed(&mut self, id: u64) -> Option<&mut B> {
        let slot = self.slots.iter_mut().find(|slot| slot.id == id)?;
        slot.state = State::Failed;
        self.recovering = true;
        Some(&mut slot.batch)
    }

    /// Every batch in flight failed (their stream is of no more use).
    pub(super) fn fail_all_sent(&mut self, mut note: impl FnMut(&mut B)) {
        for slot in self.slots.iter_mut().filter(|slot| slot.state == State::Sent) {
            slot.state = State::Failed;
            self.recovering = true;
            note(&mut slot.batch);
        }
    }

    /// A batch failed, and no other's fate is open: [`resume`](Self::resume) may be called.
    pub(super) fn can_resume(&self) -> bool {
        self.recovering && !self.slots.iter().any(|slot| slot.state == State::Sent)
    }

    /// All that is left goes out again, in its original order.
    pub(super) fn resume(&mut self) {
        assert!(self.can_resume(), "the fate of every batch in flight is known before a resend");
        for slot in &mut self.slots {
            slot.state = State::Fresh;
        }
        self.recovering = false;
    }

    /// Takes out the batches that are not in flight and that `which` picks.
    pub(super) fn take_idle(&mut self, which: impl Fn(&B) -> bool) -> Vec<B> {
        let mut taken = Vec::new();
        let mut index = 0;
        while index < self.slots.len() {
            let slot = &self.slots[index];
            if slot.state != State::Sent && which(&slot.batch) {
                taken.extend(self.slots.remove(index).map(|slot| slot.batch));
            } else {
                index += 1;
            }
        }
        self.end_empty_recovery();
        taken
    }

    /// Takes out everything; the flag says whether the batch was in flight.
    pub(super) fn drain(&mut self) -> Vec<(B, bool)> {
        self.recovering = false;
        self.slots.drain(..).map(|slot| (slot.batch, slot.state == State::Sent)).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &B> {
        self.slots.iter().map(|slot| &slot.batch)
    }

    /// The batches that are not in flight.
    pub(super) fn iter_idle(&self) -> impl Iterator<Item = &B> {
        self.slots.iter().filter(|slot| slot.state != State::Sent).map(|slot| &slot.batch)
    }

    /// Touches the batches that are not in flight.
    pub(super) fn for_each_idle(&mut self, note: impl FnMut(&mut B)) {
        let idle = self.slots.iter_mut().filter(|slot| slot.state != State::Sent);
        idle.map(|slot| &mut slot.batch).for_each(note);
    }

    fn end_empty_recovery(&mut self) {
        if !self.slots.iter().any(|slot| slot.state == State::Failed) {
            self.recovering = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(batches: &[char]) -> Window<char> {
        let mut window = Window::new(5);
        batches.iter().for_each(|batch| window.push(*batch));
        window
    }

    fn send_all(window: &mut Window<char>) -> Vec<(u64, char)> {
        std::iter::from_fn(|| window.next_to_send().map(|(id, batch)| (id, *batch))).collect()
    }

    fn order(sent: &[(u64, char)]) -> String {
        sent.iter().map(|(_, batch)| *batch).collect()
    }

    #[test]
    fn what_failed_and_what_followed_it_goes_out_again_in_order() {
        let mut window = window(&['a', 'b', 'c']);
        let sent = send_all(&mut window);
        assert_eq!(order(&sent), "abc");
        // Failures are reported in any order.
        window.failed(sent[2].0);
        window.failed(sent[0].0);
        window.failed(sent[1].0);
        assert!(window.can_resume());
        window.resume();
        assert_eq!(order(&send_all(&mut window)), "abc");
    }

    #[test]
    fn nothing_is_sent_while_a_later_fate_is_open() {
        let mut window = window(&['a', 'b', 'c']);
        let sent = send_all(&mut window);
        window.failed(sent[0].0);
        assert!(!window.can_resume() && !window.has_room());
        assert!(!window.may_send(), "only B's and C's answers can change that, no timer");
        assert_eq!(window.next_to_send(), None);
        // B was written after all: it is done with. C was not.
        assert_eq!(window.remove(sent[1].0), Some('b'));
        window.failed(sent[2].0);
        window.resume();
        window.push('d');
        assert_eq!(order(&send_all(&mut window)), "acd");
    }

    #[test]
    fn a_batch_that_fails_for_good_does_not_hold_up_the_others() {
        let mut window = window(&['a', 'b']);
        let sent = send_all(&mut window);
        window.failed(sent[0].0);
        window.remove(sent[1].0);
        assert_eq!(window.take_idle(|batch| *batch == 'a'), ['a']);
        assert!(window.is_empty() && window.has_room());
    }

    #[test]
    fn a_batch_in_flight_is_not_idle() {
        let mut window = window(&['a', 'b']);
        let sent = send_all(&mut window);
        window.failed(sent[1].0);
        assert_eq!(window.take_idle(|_| true), ['b']);
        assert_eq!(window.drain(), [('a', true)]);
    }

    #[test]
    fn the_window_has_a_limit() {
        let mut window = window(&['a', 'b', 'c', 'd']);
        assert!(window.has_room());
        window.push('e');
        assert!(!window.has_room());
    }

    #[test]
    fn a_silent_agent_s_batches_all_fail_at_once() {
        let mut window = window(&['a', 'b']);
        window.next_to_send();
        let mut noted = Vec::new();
        window.fail_all_sent(|batch| noted.push(*batch));
        assert_eq!(noted, ['a']);
        window.resume();
        assert_eq!(order(&send_all(&mut window)), "ab");
    }

    /// Whatever fails however often: first appearances in a log that an agent writes in order keep their order.
    #[test]
    fn first_appearances_keep_their_order_under_random_failures() {
        let mut seed: u64 = 42;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let (mut window, mut log) = (Window::new(5), Vec::new());
            let mut next = 0;
            while next < 40 || !window.is_empty() {
                while next < 40 && window.has_room() {
                    window.push(next);
                    next += 1;
                }
                let mut sent = Vec::new();
                while let Some((id, batch)) = window.next_to_send() {
                    sent.push((id, *batch));
                }
                // The stream breaks somewhere: the agent wrote a prefix, and answered a prefix of that.
                let written = random(sent.len() as u64 + 1) as usize;
                let answered = random(written as u64 + 1) as usize;
                log.extend(sent[..written].iter().map(|(_, batch)| *batch));
                for (index, (id, _)) in sent.iter().enumerate() {
                    if index < answered {
                        window.remove(*id);
                    } else {
                        window.failed(*id);
                    }
                }
                if window.can_resume() {
                    window.resume();
                }
            }
            let mut first = Vec::new();
            for batch in log {
                if !first.contains(&batch) {
                    first.push(batch);
                }
            }
            assert_eq!(first, (0..40).collect::<Vec<_>>());
        }
    }
}
