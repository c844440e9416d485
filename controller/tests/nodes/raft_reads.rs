//! Linearizable reads of a leader that was deposed and does not know.
use crate::raft_support::road::Road;
use crate::raft_support::{
    Cluster, PATIENCE, clock, create, free_address, options, poll, propose, start,
};
use std::collections::BTreeMap;
use std::time::Duration;
use streamhouse_controller::raft::RaftOptions;

fn defaults(_: &mut RaftOptions) {}

/// Three controllers; the first finds the others, and they find it, by roads.
async fn cluster_on_roads() -> (Cluster, BTreeMap<u64, Road>, [Road; 2]) {
    let addresses: BTreeMap<u64, String> = (1..=3).map(|id| (id, free_address())).collect();
    let mut cluster = Cluster {
        dirs: (1..=3).map(|id| (id, tempfile::tempdir().unwrap())).collect(),
        addresses: addresses.clone(),
        running: BTreeMap::new(),
        tune: defaults,
        clock,
    };
    let mut from_first = Road::to_all(&addresses).await;
    from_first.remove(&1);
    let to_first = [Road::to(addresses[&1].clone()).await, Road::to(addresses[&1].clone()).await];
    for id in 1..=3 {
        let mut known = addresses.clone();
        match id {
            1 => known.extend(from_first.iter().map(|(id, road)| (*id, road.address.clone()))),
            _ => drop(known.insert(1, to_first[id as usize - 2].address.clone())),
        }
        let mut options = options(id, &addresses, cluster.dirs[&id].path(), defaults);
        options.peers = known;
        cluster.running.insert(id, start(options).await);
    }
    (cluster, from_first, to_first)
}

/// An answer to entries that were sent before a read proves nothing to it, whatever was sent behind them since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_not_confirmed_by_an_answer_to_what_was_sent_before_it() {
    let (cluster, from_first, to_first) = cluster_on_roads().await;
    cluster.move_leader(1).await;
    let (index, _) = propose(cluster.node(1), create(1)).await;
    cluster.settle(index).await;

    // Both followers take an entry, and their answers are under way when they hear no more of the leader.
    for road in from_first.values() {
        road.back.send_replace(false);
    }
    let first = cluster.node(1).clone();
    let proposal = tokio::spawn(async move { first.propose_local(None, create(2)).await });
    for id in [2, 3] {
        let taken = || (cluster.node(id).status().last_log > index).then_some(());
        poll("the entry at the followers", taken).await;
    }
    for road in from_first.values() {
        road.there.send_replace(false);
    }
    for road in &to_first {
        road.there.send_replace(false);
        road.back.send_replace(false);
    }
    poll("another leader", || {
        let seen = *cluster.node(2).leadership().borrow();
        seen.leader.filter(|leader| *leader != 1)
    })
    .await;
    let (newer, _) = propose(cluster.node(2), create(3)).await;

    // Begun after that was acknowledged. One answer commits the entry, of which the other follower is told behind it;
    // that follower's answer is to the entry.
    let first = cluster.node(1).clone();
    let mut read = std::pin::pin!(first.read_index());
    assert!(futures::poll!(&mut read).is_pending(), "nobody could have confirmed it");
    from_first[&3].back.send_replace(true);
    first.wait_applied(index + 1, PATIENCE).await.unwrap();
    from_first[&2].back.send_replace(true);

    let read = tokio::time::timeout(PATIENCE, read).await.expect("it ends");
    println!("written up to {newer} elsewhere; the read of the old leader: {read:?}");
    assert!(
        read.as_ref().map_or(true, |read| *read >= newer),
        "a stale read: {read:?}, not {newer}"
    );

    for road in from_first.values().chain(&to_first) {
        road.there.send_replace(true);
        road.back.send_replace(true);
    }
    let _ = tokio::time::timeout(Duration::from_secs(10), proposal).await.expect("it ends");
    cluster.settle(newer).await;
}
