//! CLOCK: what a leader does not propose while its clock and cluster time are far apart.

use super::CommandClock;
use super::node::RaftNode;
use super::options::RaftOptions;
use super::propose::ProposeError;
use super::recovery_tests::Deaf;
use crate::state::collector::{CollectorReply, CollectorStep, KeptBackups};
use crate::state::command::{CommandBody, GenerationKey};
use crate::state::reply::Reply;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Cluster time, and whether the wall's is another.
struct Clock {
    apart: AtomicBool,
}

impl CommandClock for Clock {
    fn stamp_ms(&self) -> u64 {
        1
    }

    fn apart(&self) -> Option<Duration> {
        self.apart.load(Ordering::Relaxed).then_some(Duration::from_secs(61))
    }
}

/// The answer to a step of the collector, once the cluster has taken up the level that it needs.
async fn answer(node: &RaftNode, step: CollectorStep) -> Reply {
    let asked = async {
        loop {
            match node.propose(None, CommandBody::Collect(step.clone())).await {
                Err(ProposeError::FeatureLevel { .. }) => tokio::task::yield_now().await,
                answer => return answer.unwrap().1,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("an answer in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_while_the_clock_is_apart_and_everything_else_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let peers = BTreeMap::from([(1, "127.0.0.1:1".to_owned())]);
    let options = RaftOptions::new(1, "127.0.0.1:1", peers, dir.path());
    let clock = Arc::new(Clock { apart: AtomicBool::new(true) });
    let started = RaftNode::start(options, Arc::new(Deaf), Arc::clone(&clock) as _).await;
    let (node, _service) = started.unwrap();
    let mut leadership = node.leadership();
    leadership.wait_for(|now| now.is_leader).await.unwrap();
    let generation = GenerationKey { counter: 1, random: 1 };
    let init = CommandBody::InitCluster { cluster: [1; 16], generation };
    node.propose(None, init).await.unwrap();

    let allow = || CollectorStep::Allow {
        session: 1,
        epoch: 1,
        grace_ms: 0,
        backups: KeptBackups::default(),
        objects: Vec::new(),
    };
    assert_eq!(answer(&node, allow()).await, Reply::Collector(CollectorReply::ClockApart));
    assert_eq!(node.clock_apart(), Some(Duration::from_secs(61)), "the alarm");
    let paused = answer(&node, CollectorStep::SetPaused(false)).await;
    assert_eq!(paused, Reply::Collector(CollectorReply::Done));
    // The clock was set right: the state machine decides, and knows no collector.
    clock.apart.store(false, Ordering::Relaxed);
    let held = Reply::Collector(CollectorReply::Held { holder: 0 });
    assert_eq!(answer(&node, allow()).await, held);
    assert_eq!(node.clock_apart(), None);
    node.abort().await;
}
