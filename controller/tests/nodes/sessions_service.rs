//! What a controller answers an agent whose session is not, or is not its own: one controller in this process, called
//! over loopback.
use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::time::Duration;
use streamhouse_controller::{Controller, ControllerOptions};
use streamhouse_proto::from_status;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use streamhouse_proto::v1::{
    AttachRequest, AttachResponse, CloseSessionRequest, ErrorCode, RegisterRequest, RequestId,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(30);

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

struct Rig {
    controller: Controller,
    client: SessionsClient<Channel>,
    session: u64,
    _data: TempDir,
}

const INSTANCE: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [8; 16];

/// A controller that leads, with one session.
async fn rig() -> Rig {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let data = TempDir::new().unwrap();
    let peers = BTreeMap::from([(1, address.to_string())]);
    let options = ControllerOptions::new(1, address, peers, data.path());
    let controller = Controller::start(options).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let mut client = SessionsClient::new(channel);
    let request = RegisterRequest {
        instance: INSTANCE.to_vec(),
        address: "agent:1".to_owned(),
        group: "default".to_owned(),
        pid: 1,
        store_url: "memory://test".to_owned(),
        ..Default::default()
    };
    let registered = patiently(async {
        loop {
            match client.register(request.clone()).await {
                Ok(response) => break response.into_inner(),
                // It has to be elected first.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    let session = registered.await.session;
    Rig { controller, client, session, _data: data }
}

impl Rig {
    /// All that a stream says whose session is not to be kept.
    async fn attach(&mut self, session: u64, instance: [u8; 16]) -> Vec<AttachResponse> {
        let request = AttachRequest { session, instance: instance.to_vec() };
        let open = self.client.attach(tokio_stream::iter([request]));
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
    // A number below that of the session is known not to be one.
    let answers = rig.attach(rig.session - 1, INSTANCE).await;
    let [answer] = &answers[..] else { panic!("{answers:?}") };
    assert!(answer.ended && answer.leader && answer.applied >= rig.session);

    let answers = rig.attach(rig.session, OTHER).await;
    let [answer] = &answers[..] else { panic!("{answers:?}") };
    assert!(answer.ended, "the number is another instance's");
    rig.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_cannot_close_a_session() {
    let mut rig = rig().await;
    let close = |instance: [u8; 16], requester: [u8; 16]| CloseSessionRequest {
        request: Some(RequestId { requester: requester.to_vec(), number: 1 }),
        session: rig.session,
        instance: instance.to_vec(),
    };
    let refused = patiently(rig.client.close_session(close(OTHER, [1; 16]))).await.unwrap_err();
    assert_eq!(from_status(&refused).code(), ErrorCode::SessionEnded);
    patiently(rig.client.close_session(close(INSTANCE, [2; 16]))).await.unwrap();
    rig.controller.shutdown().await;
}
