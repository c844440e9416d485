//! What a controller's disk guarantees: group commit, snapshots, damage.
use crate::raft_support::{
    Cluster, PATIENCE, Running, create, cut, free_address, poll, poll_for, propose, propose_as,
    run, start,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use streamhouse_controller::raft::{OpenError, RaftNode, RaftOptions, StartError};
use streamhouse_controller::state::command::{CommandBody, PartitionKey};
use streamhouse_controller::state::offsets::MAX_METADATA_BYTES;
use streamhouse_controller::state::reply::Reply;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn defaults(_: &mut RaftOptions) {}

fn small_snapshots(options: &mut RaftOptions) {
    options.snapshot_every = 50;
    options.keep_logs = 5;
}

/// Waits until a snapshot was installed: it is told of a moment after it is applied.
async fn installed(running: &Running) {
    let told = || (!running.observer.installed.lock().is_empty()).then_some(());
    poll("an installed snapshot", told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_proposals_share_their_syncs() {
    const PROPOSALS: u64 = 2000;
    let cluster = Cluster::start(1, defaults).await;
    cluster.leader().await;
    let node = cluster.node(1);
    let before = node.status().log_syncs;
    let proposals = (0..PROPOSALS).map(|number| propose(node, create(number)));
    futures::future::join_all(proposals).await;
    let syncs = node.status().log_syncs - before;
    println!("{PROPOSALS} proposals took {syncs} synced writes");
    assert!(syncs < PROPOSALS / 10, "{syncs} syncs for {PROPOSALS} proposals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::start(3, small_snapshots).await;
    let leader = cluster.leader().await;
    let (index, _) = propose(cluster.node(leader), create(0)).await;
    cluster.settle(index).await;
    let absent = 1 + leader % 3;
    cluster.crash(absent).await;

    let mut last = 0;
    for number in 1..=300 {
        (last, _) = propose(cluster.node(leader), create(number)).await;
    }
    poll("a snapshot that the absent node needs", || {
        (cluster.node(leader).status().snapshot > index + 100).then_some(())
    })
    .await;

    cluster.launch(absent).await;
    cluster.node(absent).wait_applied(last, PATIENCE).await.unwrap();
    installed(&cluster.running[&absent]).await;
    let hash = cluster.settle(last).await;

    // It goes on from there, and finds all of it again after a crash.
    let (last, _) = propose(cluster.node(absent), create(1000)).await;
    assert_ne!(cluster.settle(last).await, hash);
    let hash = cluster.node(absent).view().state_hash();
    cluster.crash(absent).await;
    cluster.launch(absent).await;
    cluster.node(absent).wait_applied(last, PATIENCE).await.unwrap();
    assert_eq!(cluster.node(absent).view().state_hash(), hash);
}

const MIB: u64 = 1 << 20;

/// By entries alone this log would stay as it is.
fn bounded_in_bytes(options: &mut RaftOptions) {
    (options.snapshot_every_bytes, options.keep_log_bytes) = (4 * MIB, MIB);
}

/// An entry of 1 MiB: it is refused when it is applied, and in the log all the
/// same.
fn large(number: u64) -> CommandBody {
    let offset = |partition| {
        (PartitionKey { topic: [1; 16], partition }, number, "m".repeat(MAX_METADATA_BYTES))
    };
    let offsets = (0..MIB as u32 / MAX_METADATA_BYTES as u32).map(offset);
    CommandBody::CommitOffsets { group: "g".into(), offsets: offsets.collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_large_entries_is_cut_off_by_its_bytes() {
    let mut cluster = Cluster::start(3, bounded_in_bytes).await;
    let leader = cluster.leader().await;
    let absent = 1 + leader % 3;
    let (index, _) = propose(cluster.node(leader), create(0)).await;
    cluster.settle(index).await;
    cluster.crash(absent).await;
    for number in 0..20 {
        propose(cluster.node(leader), large(number)).await;
    }
    // A snapshot came of the bytes, and what lies before it went but for 1 MiB;
    // what came after it is less than calls for another.
    let (last, _) = propose(cluster.node(leader), create(1)).await;
    for running in cluster.running.values() {
        poll("the log is short", || {
            let (status, bytes) = (running.node.status(), running.node.sizes().log_bytes);
            (status.snapshot > index && bytes <= 6 * MIB).then_some(())
        })
        .await;
    }
    // Who was away gets it, and what is counted is found again.
    cluster.launch(absent).await;
    cluster.node(absent).wait_applied(last, PATIENCE).await.unwrap();
    installed(&cluster.running[&absent]).await;
    cluster.settle(last).await;
    let bytes = cluster.node(leader).sizes().log_bytes;
    cluster.crash(leader).await;
    cluster.launch(leader).await;
    let again = cluster.node(leader).sizes().log_bytes;
    assert!(again > 0 && again <= bytes + MIB, "{again} bytes, before it was {bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_does_not_change() {
    let cluster = Cluster::start(1, defaults).await;
    cluster.leader().await;
    let node = cluster.node(1);
    let (first, _) = propose(node, create(1)).await;
    let view = node.view();
    let hash = view.state_hash();
    propose(node, create(2)).await;
    assert_eq!((view.applied(), view.state_hash()), (first, hash));
    assert_ne!(node.view().state_hash(), hash);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_node_or_process_is_refused() {
    let mut cluster = Cluster::start(1, defaults).await;
    cluster.leader().await;
    let data = cluster.dirs[&1].path().to_owned();
    let start = |id: u64| {
        let peers = BTreeMap::from([(id, crate::raft_support::free_address())]);
        let options = RaftOptions::new(id, peers[&id].clone(), peers, &data);
        let observer = std::sync::Arc::new(crate::raft_support::Observer::default());
        async move { RaftNode::start(options, observer, crate::raft_support::clock()).await.map(|_| ()) }
    };
    let in_use = start(1).await;
    assert!(matches!(in_use, Err(StartError::Open(OpenError::InUse(_)))), "{in_use:?}");
    cluster.crash(1).await;
    // The last task lets go of the database a moment after the crash.
    let other = loop {
        match start(2).await {
            Err(StartError::Open(OpenError::InUse(_))) => tokio::task::yield_now().await,
            outcome => break outcome,
        }
    };
    let found = matches!(other, Err(StartError::Open(OpenError::OtherNode { found: 1, .. })));
    assert!(found, "{other:?}");
    // Its owner is welcome.
    run(1, &cluster.addresses, &data, defaults).await.shutdown().await;
}

/// A transfer that breaks off goes on where it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_s_transfer_is_resumed() {
    const GROUPS: u64 = 2_000;
    const METADATA: usize = 4_000;
    let mut cluster = Cluster::start(3, small_snapshots).await;
    let leader = cluster.leader().await;
    let (index, topic) = propose(cluster.node(leader), create(0)).await;
    let Reply::Topic(topic) = topic else { panic!("{topic:?}") };
    propose(cluster.node(leader), CommandBody::Continue).await;
    cluster.settle(index + 1).await;
    let absent = 1 + leader % 3;
    cluster.crash(absent).await;

    let commit = |number: u64| CommandBody::CommitOffsets {
        group: format!("group-{number}"),
        offsets: vec![(PartitionKey { topic, partition: 0 }, 1, "x".repeat(METADATA))],
    };
    let commits = (0..GROUPS).map(|number| propose(cluster.node(leader), commit(number)));
    futures::future::join_all(commits).await;
    let (last, _) = propose(cluster.node(leader), create(1)).await;
    let state = GROUPS * METADATA as u64;
    poll("a snapshot that the absent node needs", || {
        let node = cluster.node(leader);
        (node.status().snapshot > last - 100 && node.sizes().log_bytes < state / 4).then_some(())
    })
    .await;

    // The others reach it through a proxy that breaks half way.
    let behind = free_address();
    let proxy = cut::proxy(&cluster.addresses[&absent], behind.clone(), state / 2).await;
    let dir = cluster.dirs[&absent].path();
    let mut options = RaftOptions::new(absent, behind, cluster.addresses.clone(), dir);
    small_snapshots(&mut options);
    let follower = start(options).await;
    follower.node.wait_applied(last, PATIENCE).await.unwrap();
    installed(&follower).await;
    let (before, after) = (proxy.before.load(Ordering::SeqCst), proxy.after.load(Ordering::SeqCst));
    println!("{before} bytes until the cut, {after} after it; the state has {state}");
    assert!(before >= state / 2, "it was cut");
    assert!(after < state * 3 / 4, "{after} bytes were sent after the cut, of about {state}");
    follower.crash().await;
}

const PROPOSERS: u64 = 32;
/// Entries that a node may be behind which has caught up: a few rounds of what is proposed at once.
const LAG: u64 = 4 * PROPOSERS;
const SNAPSHOT_EVERY: u64 = 1_000;

fn snapshots_under_load(options: &mut RaftOptions) {
    (options.snapshot_every, options.keep_logs) = (SNAPSHOT_EVERY, SNAPSHOT_EVERY / 2);
}

/// Proposers that never wait, until they are told to stop.
struct Load {
    answered: Arc<AtomicU64>,
    stop: CancellationToken,
    proposers: JoinSet<()>,
}

impl Load {
    /// Each of `nodes` gets its share; all they write is `topic`'s offsets, of so many groups and no more.
    fn start(nodes: &[RaftNode], topic: [u8; 16]) -> Self {
        const GROUPS: u64 = 50;
        const METADATA: usize = 4_000;
        let (answered, stop) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let mut proposers = JoinSet::new();
        for (proposer, node) in (0..PROPOSERS).zip(nodes.iter().cycle().cloned()) {
            let (answered, stop) = (answered.clone(), stop.clone());
            proposers.spawn(async move {
                for number in 0.. {
                    if stop.is_cancelled() {
                        return;
                    }
                    let partition = PartitionKey { topic, partition: 0 };
                    let offsets = vec![(partition, number, "x".repeat(METADATA))];
                    let group = format!("group-{proposer}-{}", number % GROUPS);
                    let commit = CommandBody::CommitOffsets { group, offsets };
                    let (_, reply) = propose_as(&node, None, commit).await;
                    assert_eq!(reply, Reply::Offsets(vec![None]));
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { answered, stop, proposers }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Waits for so many more answers.
    async fn goes_on(&self, answers: u64) {
        let enough = self.answered() + answers;
        poll("proposals that go on", || (self.answered() >= enough).then_some(())).await;
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.proposers.join_next().await {
            ended.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_catches_up_under_full_load() {
    let mut cluster = Cluster::start(3, snapshots_under_load).await;
    let leader = cluster.leader().await;
    let (_, topic) = propose(cluster.node(leader), create(0)).await;
    let Reply::Topic(topic) = topic else { panic!("{topic:?}") };
    propose(cluster.node(leader), CommandBody::Continue).await;
    let absent = 1 + leader % 3;
    let others: Vec<u64> = (1..=3).filter(|id| *id != absent).collect();
    let nodes: Vec<RaftNode> = others.iter().map(|id| cluster.node(*id).clone()).collect();
    let load = Load::start(&nodes, topic);
    load.goes_on(PROPOSERS).await;

    let had = cluster.node(absent).status().last_log;
    cluster.crash(absent).await;
    // Of two snapshots since the first at least has cut the log off.
    poll("a log that begins after what it has", || {
        let cut = |node: &RaftNode| node.status().snapshot > had + 2 * SNAPSHOT_EVERY;
        nodes.iter().all(cut).then_some(())
    })
    .await;

    cluster.launch(absent).await;
    let (begun, before) = (Instant::now(), load.answered());
    let follower = cluster.node(absent);
    // Read first, so that it is never made to look nearer than it is.
    let behind = || {
        let applied = follower.status().applied;
        let last = nodes.iter().map(|node| node.status().last_log).max().unwrap();
        last.saturating_sub(applied)
    };
    let at_first = behind();
    poll_for(4 * PATIENCE, "it has caught up", || (behind() <= LAG).then_some(())).await;
    let (took, meanwhile) = (begun.elapsed(), load.answered() - before);
    assert!(at_first > SNAPSHOT_EVERY, "{at_first} entries behind");
    assert!(meanwhile >= PROPOSERS, "{meanwhile} answers meanwhile");

    // It keeps up with what comes then.
    let installed = || cluster.running[&absent].observer.installed.lock().len();
    let installs = poll("an installed snapshot", || Some(installed()).filter(|n| *n > 0)).await;
    load.goes_on(2 * SNAPSHOT_EVERY).await;
    poll_for(4 * PATIENCE, "it has kept up", || (behind() <= LAG).then_some(())).await;
    println!(
        "{at_first} entries behind, it caught up within {took:?}, by {installs} snapshots, while \
         {meanwhile} proposals were answered; {} more came later",
        installed() - installs
    );
    load.stop().await;
    let (last, _) = propose(cluster.node(absent), create(1)).await;
    cluster.settle(last).await;
}
