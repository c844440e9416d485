//! Linearizable reads of a leader that was deposed and does not know.
use crate::raft_support::road::OnRoads;
use crate::raft_support::{PATIENCE, create, poll, propose};
use std::task::Poll;
use std::time::Duration;
use streamhouse_controller::raft::ReadError;

impl OnRoads {
    fn another_leads(&self) -> Option<u64> {
        let leader = |id| self.cluster.node(id).leadership().borrow().leader;
        [2, 3].into_iter().filter_map(leader).find(|leader| *leader != 1)
    }

    /// Both followers take an entry of the first, and answer; it hears of that only when another leads and has written
    /// something newer, and after a read of it has begun. How that ends, and the index of the newer; nothing if its
    /// connections were over before, on a machine that is too busy.
    async fn read_amid_old_answers(&self) -> Option<(Result<u64, ReadError>, u64)> {
        self.cluster.move_leader(1).await;
        let (index, _) = propose(self.cluster.node(1), create(1)).await;
        self.cluster.settle(index).await;
        let first = self.cluster.node(1);
        let before = first.status().last_log;
        for road in self.from_first.values() {
            road.back.send_replace(false);
        }
        let proposing = first.clone();
        tokio::spawn(async move { proposing.propose_local(None, create(2)).await });
        let taken = |id| self.cluster.node(id).status().last_log > before;
        let taken = poll("the entry at both followers", || {
            let deposed = self.another_leads().map(|_| false);
            deposed.or_else(|| (taken(2) && taken(3)).then_some(true))
        });
        if !taken.await {
            return None;
        }
        self.open_all(false);
        poll("another leader", || self.another_leads()).await;
        let (newer, _) = propose(self.cluster.node(2), create(3)).await;

        let mut read = std::pin::pin!(first.read_index());
        match futures::poll!(&mut read) {
            Poll::Pending => {}
            Poll::Ready(Err(_)) => return None,
            Poll::Ready(Ok(index)) => panic!("a read at {index} that nobody could have confirmed"),
        }
        // One answer commits the entry. Of that the other follower is told by a request behind the entry, and its
        // answer to the entry comes after that was sent.
        self.from_first[&3].back.send_replace(true);
        first.wait_applied(before + 1, Duration::from_secs(1)).await.ok()?;
        if let Poll::Ready(read) = futures::poll!(&mut read) {
            return read.is_ok().then_some((read, newer));
        }
        self.from_first[&2].back.send_replace(true);
        Some((tokio::time::timeout(PATIENCE, read).await.expect("the read ends"), newer))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_not_confirmed_by_an_answer_to_what_was_sent_before_it() {
    let roads = OnRoads::start().await;
    let course = async {
        loop {
            if let Some(ended) = roads.read_amid_old_answers().await {
                return ended;
            }
            roads.open_all(true);
        }
    };
    let course = tokio::time::timeout(PATIENCE * 2, course);
    let (read, newer) = course.await.expect("the connections last as long as an election, once");
    println!("written up to {newer} elsewhere; the old leader answered {read:?}");
    assert!(read.is_err(), "nobody who follows it was asked, and {newer} was written elsewhere");

    roads.open_all(true);
    roads.cluster.settle(newer).await;
}
