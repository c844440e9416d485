//! A bell for each stream of a group's member: thousands of members hear of
//! their own changes only.

use crate::state::groups::MemberId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Bells {
    /// By member, and by the bell's number: a member may have two streams
    /// for a moment.
    of_members: HashMap<MemberId, HashMap<u64, Arc<Notify>>>,
    last: u64,
}

/// All of one controller.
#[derive(Debug, Default)]
pub(crate) struct MemberBells(Mutex<Bells>);

/// One of them; it is taken down when dropped.
#[derive(Debug)]
pub(crate) struct MemberBell {
    bells: Arc<MemberBells>,
    member: MemberId,
    number: u64,
    bell: Arc<Notify>,
}

impl MemberBells {
    pub(crate) fn hang(this: &Arc<Self>, member: MemberId) -> MemberBell {
        let bell = Arc::<Notify>::default();
        let mut bells = this.0.lock();
        bells.last += 1;
        let number = bells.last;
        bells.of_members.entry(member).or_default().insert(number, Arc::clone(&bell));
        drop(bells);
        MemberBell { bells: Arc::clone(this), member, number, bell }
    }

    pub(crate) fn tell<'a>(&self, members: impl IntoIterator<Item = &'a MemberId>) {
        let bells = self.0.lock();
        for member in members {
            for bell in bells.of_members.get(member).into_iter().flat_map(HashMap::values) {
                bell.notify_one();
            }
        }
    }

    pub(crate) fn tell_all(&self) {
        let bells = self.0.lock();
        for bell in bells.of_members.values().flat_map(HashMap::values) {
            bell.notify_one();
        }
    }
}

impl MemberBell {
    /// Waits until it rings; one that rang unheard is heard at once.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }
}

impl Drop for MemberBell {
    fn drop(&mut self) {
        let mut bells = self.bells.0.lock();
        if let Some(of_member) = bells.of_members.get_mut(&self.member) {
            of_member.remove(&self.number);
            if of_member.is_empty() {
                bells.of_members.remove(&self.member);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_bell_rings_for_its_member_only_and_is_taken_down() {
        let bells = Arc::new(MemberBells::default());
        let bell = MemberBells::hang(&bells, [1; 16]);
        bells.tell([&[2; 16]]);
        assert!(bell.rung().now_or_never().is_none());
        bells.tell([&[1; 16], &[2; 16]]);
        assert!(bell.rung().now_or_never().is_some());
        bells.tell_all();
        assert!(bell.rung().now_or_never().is_some());
        drop(bell);
        assert!(bells.0.lock().of_members.is_empty());
    }
}
