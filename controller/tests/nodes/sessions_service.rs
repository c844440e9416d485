//! What a controller answers an agent that has no session there, or one that is not its own: controllers in this process,
//! called over loopback.
use crate::raft_support::controllers::{Agent, Controllers, INSTANCE, insist, patiently};
use streamhouse_proto::from_status;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use streamhouse_proto::v1::{
    AttachRequest, AttachResponse, CloseSessionRequest, ErrorCode, RegisterRequest, RequestId,
};

const OTHER: [u8; 16] = [8; 16];

struct Rig {
    controllers: Controllers,
    agent: Agent,
}

/// A controller that leads, with one session.
async fn rig() -> Rig {
    let controllers = Controllers::start(1).await;
    let agent = Agent::register(controllers.endpoint(1).connect_lazy()).await;
    Rig { controllers, agent }
}

impl Rig {
    /// All that a stream says whose session is not to be kept.
    async fn attach(&mut self, session: u64, instance: [u8; 16]) -> Vec<AttachResponse> {
        let request = AttachRequest { session, instance: instance.to_vec() };
        let open = self.agent.client.attach(tokio_stream::iter([request]));
        let mut stream = patiently(open).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(message) = patiently(stream.message()).await.unwrap() {
            all.push(message);
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_attaches_for_no_session_learns_that_it_needs_another() {
    let mut rig = rig().await;
    let session = rig.agent.session;
    // A number below that of the session is known not to be one.
    let answers = rig.attach(session - 1, INSTANCE).await;
    let [answer] = &answers[..] else { panic!("{answers:?}") };
    assert!(answer.ended && answer.leader && answer.applied >= session);

    let answers = rig.attach(session, OTHER).await;
    let [answer] = &answers[..] else { panic!("{answers:?}") };
    assert!(answer.ended, "the number is another instance's");
    rig.controllers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_cannot_close_a_session() {
    let Rig { controllers, mut agent } = rig().await;
    let close = |instance: [u8; 16], requester: [u8; 16]| CloseSessionRequest {
        request: Some(RequestId { requester: requester.to_vec(), number: 1 }),
        session: agent.session,
        instance: instance.to_vec(),
    };
    let (other, own) = (close(OTHER, [1; 16]), close(INSTANCE, [2; 16]));
    let refused = patiently(agent.client.close_session(other)).await.unwrap_err();
    assert_eq!(from_status(&refused).code(), ErrorCode::SessionEnded);
    patiently(agent.client.close_session(own)).await.unwrap();
    controllers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_wants_the_leader_gets_no_session_from_another() {
    let controllers = Controllers::start(3).await;
    let client = |id: u64| SessionsClient::new(controllers.endpoint(id).connect_lazy());
    // The cluster has its name when a first one is registered.
    Agent::register(controllers.endpoint(1).connect_lazy()).await;
    let request = RegisterRequest {
        instance: OTHER.to_vec(),
        address: "agent:2".to_owned(),
        group: "default".to_owned(),
        store_url: "memory://test".to_owned(),
        direct: true,
        ..Default::default()
    };
    let told = async {
        loop {
            let leader = controllers.leader().await;
            let follower = (1..=3).find(|id| *id != leader).unwrap();
            let answer = client(follower).register(request.clone()).await;
            if controllers.leader().await != leader {
                continue;
            }
            let refused = from_status(&answer.unwrap_err());
            assert_eq!(refused.code(), ErrorCode::NoLeader);
            // A follower that has not heard of the leader yet names nobody.
            if !refused.address.is_empty() {
                return (leader, refused.address);
            }
        }
    };
    let (leader, named) = patiently(told).await;
    let leads = controllers.endpoint(leader).uri().authority().unwrap().to_string();
    assert_eq!(named, leads);
    insist(async || client(leader).register(request.clone()).await).await;
    controllers.shutdown().await;
}
