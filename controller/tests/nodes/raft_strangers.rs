//! Addresses that were given out anew, to another cluster's controllers: what these say has no part in anything.
use crate::raft_support::road::OnRoads;
use crate::raft_support::{Cluster, PATIENCE, create, options, poll, propose, read_index, start};
use streamhouse_controller::raft::{ReadError, Refused};
use streamhouse_controller::state::command::{CommandBody, GenerationKey};

fn init(cluster: u8) -> CommandBody {
    let generation = GenerationKey { counter: 1, random: cluster.into() };
    CommandBody::InitCluster { cluster: [cluster; 16], generation }
}

/// A cluster, and one beside it, of one controller that has the number of the first.
async fn two_clusters() -> (OnRoads, Cluster) {
    let ours = OnRoads::start().await;
    let theirs = Cluster::start(1, |_| ()).await;
    let (index, _) = propose(ours.cluster.node(1), init(1)).await;
    ours.cluster.settle(index).await;
    propose(theirs.node(1), init(2)).await;
    (ours, theirs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_not_confirmed_by_the_leader_of_another_cluster() {
    let (ours, theirs) = two_clusters().await;
    let follower = ours.cluster.node(2);
    let road = &ours.to_first[&2].target;
    let home = road.borrow().clone();
    let refused = async {
        'stage: loop {
            road.send_replace(home.clone());
            ours.cluster.move_leader(1).await;
            road.send_replace(theirs.addresses[&1].clone());
            loop {
                match follower.read_index().await {
                    Err(ReadError::NoLeader(why)) if why.contains("another cluster") => return why,
                    // Nobody leads, or another does; connections of before.
                    _ if follower.leadership().borrow().leader != Some(1) => continue 'stage,
                    Ok(at) => panic!("a read at {at} of which its cluster's leader knows nothing"),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        }
    };
    let why = tokio::time::timeout(PATIENCE, refused).await.expect("their leader refuses it");
    let who = format!("controller 1 at {}: ", ours.to_first[&2].address);
    assert!(why.starts_with(&who), "{why}");

    road.send_replace(home);
    let (index, _) = propose(ours.cluster.node(1), create(1)).await;
    assert!(read_index(follower).await >= index);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_of_another_cluster_keeps_nobody_from_starting() {
    let (mut ours, theirs) = two_clusters().await;
    for id in [1, 2] {
        ours.cluster.crash(id).await;
    }
    let address = ours.to_first[&2].address.clone();
    let home = ours.to_first[&2].target.send_replace(theirs.addresses[&1].clone());
    ours.launch(2).await;
    // It has asked there, and says so; before the first comes back nobody leads.
    let found = format!("at {address} another cluster answers");
    poll("a word of it", || ours.cluster.node(2).waits_for().contains(&found).then_some(())).await;

    ours.launch(1).await;
    poll("its taking part", || ours.cluster.node(2).waits_for().is_empty().then_some(())).await;
    ours.to_first[&2].target.send_replace(home);
    let (index, _) = propose(ours.cluster.node(2), create(1)).await;
    ours.cluster.settle(index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_of_another_cluster_only_is_refused_though_its_own_is_there() {
    let (mut ours, theirs) = two_clusters().await;
    ours.cluster.crash(2).await;
    let Cluster { dirs, addresses, tune, .. } = &ours.cluster;
    let mut wrong = options(2, addresses, dirs[&2].path(), *tune);
    for other in [1, 3] {
        wrong.peers.insert(other, theirs.addresses[&1].clone());
    }
    let misplaced = start(wrong).await;
    let refused = tokio::time::timeout(PATIENCE, misplaced.node.refused());
    assert_eq!(refused.await.expect("it asks"), Refused::OtherCluster(2));
    misplaced.crash().await;

    ours.launch(2).await;
    let (index, _) = propose(ours.cluster.node(2), create(1)).await;
    ours.cluster.settle(index).await;
}
