//! Three controllers in one process: elections, forwarding, losses.
use crate::raft_support::{Cluster, PATIENCE, create, poll, propose, read_index};
use std::time::{Duration, Instant};
use streamhouse_controller::raft::{ProposeError, RaftOptions, ReadError, Refused, Role};
use streamhouse_controller::state::topics;

fn defaults(_: &mut RaftOptions) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_founds_its_cluster_and_keeps_its_state() {
    let mut cluster = Cluster::start(1, defaults).await;
    cluster.leader().await;
    let (index, _) = propose(cluster.node(1), create(1)).await;
    let hash = cluster.settle(index).await;
    assert_ne!(hash, 0);

    // After a crash it applies what it had applied, and leads again.
    cluster.crash(1).await;
    cluster.launch(1).await;
    cluster.leader().await;
    let view = cluster.node(1).view();
    assert!(view.applied() >= index);
    assert_eq!(view.state_hash(), hash);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_go_through_any_node_and_all_agree() {
    let cluster = Cluster::start(3, defaults).await;
    cluster.leader().await;
    let mut last = 0;
    for number in 0..30 {
        // Each node in turn: two of three proposals are forwarded.
        let (index, _) = propose(cluster.node(1 + number % 3), create(number)).await;
        assert!(index > last);
        last = index;
        // Read your writes, linearizably, at another node.
        let reader = cluster.node(1 + (number + 1) % 3);
        assert!(read_index(reader).await >= index);
    }
    cluster.settle(last).await;

    let leader = cluster.leader().await;
    let status = cluster.node(leader).status();
    assert_eq!(status.role, Role::Leader);
    assert_eq!(status.voters, cluster.addresses);
    let follower = cluster.node(1 + leader % 3);
    poll("the leader's address", || {
        (follower.leader_address().as_ref() == Some(&cluster.addresses[&leader])).then_some(())
    })
    .await;
    let local = follower.propose_local(None, create(99)).await;
    assert_eq!(local, Err(ProposeError::NoLeader { leader: Some(leader) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_survives_the_loss_of_its_leader() {
    let mut cluster = Cluster::start(3, defaults).await;
    let first = cluster.leader().await;
    propose(cluster.node(first), create(1)).await;

    let lost = Instant::now();
    cluster.crash(first).await;
    let survivor = *cluster.running.keys().next().unwrap();
    let (index, _) = propose(cluster.node(survivor), create(2)).await;
    println!("writers waited {:?} for a new leader", lost.elapsed());
    assert_ne!(cluster.leader().await, first);

    // Back again, it follows and catches up.
    cluster.launch(first).await;
    cluster.settle(index).await;
    let (index, _) = propose(cluster.node(first), create(3)).await;
    cluster.settle(index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_and_is_started_at_once_is_followed_by_another() {
    let mut cluster = Cluster::start(3, defaults).await;
    let mut last = cluster.leader().await;
    for round in 0..4 {
        propose(cluster.node(last), create(round)).await;
        cluster.crash(last).await;
        cluster.launch(last).await;
        let next = cluster.leader().await;
        assert_ne!(next, last, "round {round}: it remembers nobody's signs of life");
        last = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_shuts_down_hands_over() {
    let mut cluster = Cluster::start(3, defaults).await;
    let first = cluster.leader().await;
    propose(cluster.node(first), create(1)).await;
    let others: Vec<u64> = cluster.running.keys().copied().filter(|id| *id != first).collect();

    let leaving = cluster.running.remove(&first).unwrap();
    let begun = Instant::now();
    leaving.shutdown().await;
    let (index, _) = propose(cluster.node(others[0]), create(2)).await;
    println!("writers waited {:?} for the hand-over", begun.elapsed());
    cluster.settle(index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_written_or_read() {
    let mut cluster = Cluster::start(3, defaults).await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.crash(id).await;
    }
    let node = cluster.node(leader);
    let outcome = node.propose(None, create(1)).await;
    assert!(
        matches!(outcome, Err(ProposeError::Indeterminate(_) | ProposeError::NoLeader { .. })),
        "{outcome:?}"
    );
    assert_eq!(topics::topic_id(&node.view(), "topic-1").unwrap(), None);
    let read = node.read_index().await;
    assert!(matches!(read, Err(ReadError::NoLeader(_))), "{read:?}");
    // It says itself that it does not lead any more.
    let mut leadership = node.leadership();
    let lonely = leadership.wait_for(|l| !l.is_leader && l.leader.is_none());
    tokio::time::timeout(Duration::from_secs(5), lonely).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_disk_founds_nothing_while_a_peer_holds_data() {
    let mut cluster = Cluster::start(3, defaults).await;
    let leader = cluster.leader().await;
    let (index, _) = propose(cluster.node(leader), create(1)).await;
    cluster.settle(index).await;

    // Node 1, which founded the cluster, comes back with an empty disk.
    cluster.crash(1).await;
    cluster.dirs.insert(1, tempfile::tempdir().unwrap());
    cluster.launch(1).await;
    let (index, _) = propose(cluster.node(2), create(2)).await;
    let reborn = cluster.node(1);
    assert!(reborn.wait_applied(index, Duration::from_secs(2)).await.is_err());
    // It has no vote and no leader: messages for the old disk are not for it.
    assert_eq!(reborn.status().role, Role::Learner);
    assert_eq!(reborn.leader_address(), None);
    // It knows why.
    let refused = tokio::time::timeout(PATIENCE, reborn.refused()).await.unwrap();
    assert_eq!(refused, Refused::OtherDisk(1));
    cluster.crash(1).await;
    cluster.settle(index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_no_message_could_carry_is_refused() {
    let cluster = Cluster::start(1, defaults).await;
    cluster.leader().await;
    let mut body = create(1);
    if let streamhouse_controller::state::command::CommandBody::CreateTopic { config, .. } =
        &mut body
    {
        config.push(("key".into(), "x".repeat(5 << 20)));
    }
    let outcome = cluster.node(1).propose(None, body).await;
    assert!(matches!(outcome, Err(ProposeError::TooLarge { .. })), "{outcome:?}");
}
