//! What a leader that has just begun to lead grants the members of groups.
use crate::raft_support::controllers::{Controllers, insist};
use crate::raft_support::poll;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use streamhouse_controller::Controller;
use streamhouse_controller::raft::RaftOptions;
use streamhouse_controller::state::groups;
use streamhouse_proto::v1;

const GROUP: &str = "g";
const MEMBER: [u8; 16] = [5; 16];
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_ends_nobody_whom_the_one_before_may_have_told_that_it_lives() {
    let mut controllers = Controllers::start(3).await;
    let leader = controllers.leader().await;
    let join = v1::JoinGroupRequest {
        request: Some(v1::RequestId { requester: vec![1; 16], number: 1 }),
        group: GROUP.to_owned(),
        member_id: MEMBER.to_vec(),
        session_timeout_ms: SESSION_TIMEOUT.as_millis() as u32,
        ..Default::default()
    };
    let mut metadata = controllers.metadata(leader);
    insist(async || metadata.join_group(join.clone()).await).await;
    let knows = |one: &Controller| {
        let view = one.raft().view();
        groups::member(&view, GROUP, &MEMBER).unwrap().is_some()
    };
    // Whoever has not applied the join yet would look as if the member had ended.
    poll("the member, known to all", || controllers.running.values().all(knows).then_some(()))
        .await;
    // Another may lead by now.
    let leader = controllers.leader().await;
    // From here on nothing is heard of it, as if it were cut off together with its leader. That one would go on as a
    // leader until its majority had been silent for three election timeouts.
    let cut = Instant::now();
    controllers.crash([leader]).await;
    let deposed = 3 * RaftOptions::new(1, "", BTreeMap::new(), "").election_max;
    poll("the member's end", || (!controllers.running.values().all(knows)).then_some(())).await;
    let took = cut.elapsed();
    println!("a silent member was ended {took:?} after its leader was cut off");
    assert!(took >= deposed + SESSION_TIMEOUT, "GROUP: {took:?}");
    controllers.shutdown().await;
}
