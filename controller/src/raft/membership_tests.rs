//! Changes of the membership that only a node's inside can bring about.

use super::CommandClock;
use super::membership::{Heard, MembershipError, refused, without};
use super::node::RaftNode;
use super::options::RaftOptions;
use super::recovery_tests::Deaf;
use super::server::RaftService;
use super::types::{ControllerNode, Payload, TypeConfig};
use openraft::Membership;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::entry::RaftPayload;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use streamhouse_proto::v1::IdentifyRequest;
use streamhouse_proto::v1::raft_server::RaftServer;

struct NoClock;

impl CommandClock for NoClock {
    fn stamp_ms(&self) -> u64 {
        1
    }
}

async fn start(data: &Path, nodes: u64) -> (RaftNode, RaftServer<RaftService>) {
    let peers = (1..=nodes).map(|id| (id, format!("127.0.0.1:{id}"))).collect();
    let options = RaftOptions::new(1, "127.0.0.1:1", peers, data);
    RaftNode::start(options, Arc::new(Deaf), Arc::new(NoClock)).await.unwrap()
}

async fn until(node: &RaftNode, ready: impl Fn(&RaftNode) -> bool) {
    let mut metrics = node.core().raft.metrics();
    let wait = async {
        while !ready(node) {
            metrics.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the membership in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_nobody_ended_is_ended_by_whoever_leads() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _service) = start(dir.path(), 1).await;
    let mut leadership = node.leadership();
    leadership.wait_for(|now| now.is_leader).await.unwrap();
    // As it is left when the one that began it is gone.
    let one = BTreeSet::from([1]);
    let nodes = node.with_metrics(|m| {
        let nodes = m.membership_config.membership().nodes();
        nodes.map(|(id, node)| (*id, node.clone())).collect::<BTreeMap<_, _>>()
    });
    let joint = Membership::new(vec![one.clone(), one], nodes).unwrap();
    let half = node.core().raft.append_membership(joint, Payload::blank(), []).await.unwrap();
    assert_eq!(node.remove_member(7).await, Err(MembershipError::Busy));
    until(&node, |node| {
        node.with_metrics(|m| {
            let committed = &m.committed_membership_config;
            *committed.log_id() > Some(half.log_id)
                && committed.membership().get_joint_config().len() == 1
        })
    })
    .await;
    // Whoever ended it looks at the membership, too, before the next change may begin.
    let next = async {
        loop {
            match node.remove_member(7).await {
                Err(MembershipError::Busy) => tokio::task::yield_now().await,
                outcome => return outcome,
            }
        }
    };
    let next = tokio::time::timeout(Duration::from_secs(30), next).await;
    assert_eq!(next.unwrap(), Err(MembershipError::Unknown(7)));
    node.abort().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_cluster_that_is_being_founded_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _service) = start(dir.path(), 2).await;
    let member = |disk: u8| ControllerNode { disk: [disk; 16], ..ControllerNode::default() };
    let members = BTreeMap::from([(1, member(1)), (2, member(2))]);
    // The other one never answers: nothing is committed.
    node.core().raft.initialize(members).await.unwrap();
    until(&node, |node| {
        node.with_metrics(|m| m.membership_config.membership().get_node(&2).is_some())
    })
    .await;
    let asking = IdentifyRequest { node_id: 2, disk_id: vec![2; 16] };
    let answer = node.identify(&asking).await.unwrap();
    assert_eq!(answer.member_disk, [2; 16]);
    assert!(!answer.membership.unwrap().committed);
    node.abort().await;
}

#[test]
fn a_young_leader_waits_for_the_word_of_all_before_it_counts_them() {
    let left = [Heard::Lately, Heard::NotYet];
    assert_eq!(without(3, &left, true), Err(MembershipError::Busy));
    let none = MembershipError::NoMajority { id: 3, alive: 1, voters: 2 };
    assert_eq!(without(3, &left, false), Err(none.clone()));
    assert_eq!(without(3, &[Heard::Lately, Heard::NotLately], true), Err(none));
    assert_eq!(without(3, &[Heard::Lately, Heard::Lately], true), Ok(()));
}

#[test]
fn a_change_that_was_begun_under_another_leader_may_have_been_made() {
    let forward = || -> RaftError<TypeConfig, ClientWriteError<TypeConfig>> {
        RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader::empty()))
    };
    assert_eq!(refused(forward(), false), MembershipError::NotLeader);
    assert!(matches!(refused(forward(), true), MembershipError::Indeterminate(_)));
}
