//! The cluster's feature level: it rises when every controller reads the next
//! one, and keeps out whoever does not read what is used.
use crate::raft_support::{
    Cluster, Observer, PATIENCE, clock, create, options, poll, propose, start, steady,
};
use std::sync::Arc;
use std::time::Duration;
use streamhouse_controller::raft::{
    self, OpenError, ProposeError, RaftNode, RaftOptions, Refused, StartError, TooOld,
};
use streamhouse_controller::state::command::{CommandBody, GenerationKey, RestoreStart};
use streamhouse_controller::state::features;
use streamhouse_controller::state::reply::Reply;

fn of_this_release(options: &mut RaftOptions) {
    steady(options);
}

/// Controller 3 is of the release before.
fn third_is_older(options: &mut RaftOptions) {
    of_this_release(options);
    if options.node_id == 3 {
        options.reads_level = 1;
    }
}

fn init() -> CommandBody {
    let generation = GenerationKey { counter: 1, random: 1 };
    CommandBody::InitCluster { cluster: [1; 16], generation }
}

/// A command of level 2: what follows it is as new as the backup.
fn of_level_2() -> CommandBody {
    CommandBody::BeginRestore(RestoreStart {
        cluster: [5; 16],
        backup_generation: GenerationKey { counter: 1, random: 7 },
        backup_index: 10,
        generation: GenerationKey { counter: 2, random: 7 },
        time_ms: 1_000,
        sessions_upto: 10,
        store_url: None,
        feature_level: 2,
    })
}

fn level(node: &RaftNode) -> Option<u32> {
    features::level(&node.view()).unwrap()
}

/// Proposes until `node` says so for whom the level waits.
async fn refusal(node: &RaftNode, says_so: impl Fn(&str) -> bool) -> ProposeError {
    let refusal = async {
        loop {
            let error = node.propose(None, of_level_2()).await.unwrap_err();
            if says_so(&error.to_string()) {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refusal).await.expect("it says so in time")
}

/// What whoever leads replies. For want of a leader it is asked again, for nothing else.
async fn reply_to(cluster: &Cluster, body: CommandBody) -> Reply {
    let reply = async {
        loop {
            let leader = cluster.leader().await;
            match cluster.node(leader).propose(None, body.clone()).await {
                Ok((_, reply)) => return reply,
                Err(ProposeError::NoLeader { .. }) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, reply).await.expect("it is applied in time")
}

async fn until_level(cluster: &Cluster, expected: u32) {
    poll("the level", || {
        let mut nodes = cluster.running.values();
        nodes.all(|running| level(&running.node) == Some(expected)).then_some(())
    })
    .await;
}

/// A cluster at level 2, all of this release.
async fn at_level_2() -> Cluster {
    let cluster = Cluster::start(3, of_this_release).await;
    let leader = cluster.leader().await;
    propose(cluster.node(leader), init()).await;
    until_level(&cluster, 2).await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_level_waits_for_the_last_controller_and_then_rises_by_itself() {
    let mut cluster = Cluster::start(3, third_is_older).await;
    let leader = cluster.leader().await;
    propose(cluster.node(leader), init()).await;
    cluster.move_leader(1).await;

    // The leader, and a follower that would pass it on, name who is waited for.
    let third = format!("controller 3 at {}, which reads up to 1", cluster.addresses[&3]);
    let expected = format!("feature level 2 is needed, the cluster is at 1: waiting for {third}");
    for id in [1, 2] {
        // A member that was slow to answer is waited for as well, for a while.
        let error = refusal(cluster.node(id), |said| said == expected).await;
        assert!(matches!(error, ProposeError::FeatureLevel { needs: 2, level: 1, .. }), "{error}");
    }
    // Everything else goes on.
    let (index, reply) = propose(cluster.node(3), create(1)).await;
    assert!(matches!(reply, Reply::Topic(_)), "{reply:?}");
    cluster.settle(index).await;
    assert_eq!(level(cluster.node(1)), Some(1));

    // One that is away may come back as it was.
    cluster.crash(3).await;
    refusal(cluster.node(1), |said| said.contains("controller 3")).await;
    assert_eq!(level(cluster.node(1)), Some(1));

    cluster.tune = of_this_release;
    cluster.launch(3).await;
    until_level(&cluster, 2).await;
    let reply = reply_to(&cluster, of_level_2()).await;
    // A living cluster takes no backup; but it has read the command.
    assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_of_an_older_release_does_not_start_again() {
    let mut cluster = at_level_2().await;
    cluster.crash(3).await;
    // What ran before lets go of its folder a little after its end.
    let error = loop {
        let options = options(3, &cluster.addresses, cluster.dirs[&3].path(), third_is_older);
        let started = RaftNode::start(options, Arc::new(Observer::default()), clock()).await;
        match started.map(|_| ()).unwrap_err() {
            StartError::Open(OpenError::InUse(_)) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            error => break error,
        }
    };
    let expected = TooOld { level: 2, reads: 1 };
    assert!(
        matches!(&error, StartError::TooOld { too_old, .. } if *too_old == expected),
        "{error}"
    );
    // Its disk is as it was.
    cluster.launch(3).await;
    let (index, _) = propose(cluster.node(3), create(1)).await;
    cluster.node(3).wait_applied(index, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_controller_of_an_older_release_takes_no_part() {
    let cluster = at_level_2().await;
    let (leader, dir) = (cluster.leader().await, tempfile::tempdir().unwrap());
    let (_, disk) = raft::owner(dir.path()).unwrap();
    let body = CommandBody::AllocateController { disk, above: 3 };
    propose(cluster.node(leader), body).await;
    raft::assign(dir.path(), 4, 0).unwrap();
    let mut addresses = cluster.addresses.clone();
    addresses.insert(4, crate::raft_support::free_address());
    let mut options = options(4, &addresses, dir.path(), of_this_release);
    (options.founds, options.reads_level) = (false, 1);
    let running = start(options).await;
    let refused = tokio::time::timeout(PATIENCE, running.node.refused()).await.unwrap();
    assert_eq!(refused, Refused::TooOld(4, TooOld { level: 2, reads: 1 }));
    running.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_level_outlives_restarts_of_all() {
    let mut cluster = at_level_2().await;
    for id in 1..=3 {
        cluster.crash(id).await;
    }
    for id in 1..=3 {
        cluster.launch(id).await;
    }
    // At once, whatever the others say of themselves.
    let reply = reply_to(&cluster, of_level_2()).await;
    assert!(matches!(reply, Reply::Restoring { .. }), "{reply:?}");
}
