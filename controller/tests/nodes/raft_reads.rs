//! Linearizable reads that somebody confirms who has no say in them: a leader that was deposed and does not know, a
//! leader of another cluster.
use crate::raft_support::road::Road;
use crate::raft_support::{
    Cluster, PATIENCE, clock, create, free_address, options, poll, propose, read_index, start,
};
use std::collections::BTreeMap;
use std::task::Poll;
use std::time::Duration;
use streamhouse_controller::raft::{RaftOptions, ReadError};

fn defaults(_: &mut RaftOptions) {}

/// Three controllers; the first finds the others, and they find it, by roads.
struct OnRoads {
    cluster: Cluster,
    from_first: BTreeMap<u64, Road>,
    to_first: BTreeMap<u64, Road>,
}

impl OnRoads {
    async fn start() -> Self {
        let addresses: BTreeMap<u64, String> = (1..=3).map(|id| (id, free_address())).collect();
        let (mut from_first, mut to_first) = (BTreeMap::new(), BTreeMap::new());
        for id in 2..=3 {
            from_first.insert(id, Road::to(addresses[&id].clone()).await);
            to_first.insert(id, Road::to(addresses[&1].clone()).await);
        }
        let mut cluster = Cluster {
            dirs: (1..=3).map(|id| (id, tempfile::tempdir().unwrap())).collect(),
            addresses: addresses.clone(),
            running: BTreeMap::new(),
            tune: defaults,
            clock,
        };
        for id in 1..=3 {
            let mut options = options(id, &addresses, cluster.dirs[&id].path(), defaults);
            match to_first.get(&id) {
                Some(road) => drop(options.peers.insert(1, road.address.clone())),
                None => {
                    // For so long its reads wait to be confirmed.
                    options.election_max = Duration::from_secs(2);
                    let roads = from_first.iter();
                    options.peers.extend(roads.map(|(id, road)| (*id, road.address.clone())));
                }
            }
            cluster.running.insert(id, start(options).await);
        }
        Self { cluster, from_first, to_first }
    }

    fn open_all(&self, open: bool) {
        for road in self.from_first.values().chain(self.to_first.values()) {
            road.there.send_replace(open);
            road.back.send_replace(open);
        }
    }

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

/// As where addresses are given out anew, to another cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_not_confirmed_by_the_leader_of_another_cluster() {
    let roads = OnRoads::start().await;
    let others = Cluster::start(1, defaults).await;
    roads.cluster.move_leader(1).await;
    let follower = roads.cluster.node(2);
    let (index, _) = propose(roads.cluster.node(1), create(1)).await;
    assert!(read_index(follower).await >= index);

    let road = &roads.to_first[&2].target;
    let home = road.send_replace(others.addresses[&1].clone());
    let refused = async {
        loop {
            match follower.read_index().await {
                Ok(at) => panic!("a read at {at} of which its cluster's leader knows nothing"),
                Err(ReadError::NoLeader(why)) if why.contains("has another disk") => return,
                // Connections of before.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the other cluster's leader refuses it");

    road.send_replace(home);
    assert!(read_index(follower).await >= index);
}
