//! BOUND: whoever floods a controller, with connections or with signs of life, keeps nobody out and starts no election.

use std::iter::repeat;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use streamhouse_proto::{advice, from_status, v1};
use streamhouse_tests::{LocalCluster, Stopwatch, http_get, in_bounds, unless_paused, until};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

const TERM: &str = "streamhouse_controller_term";
const CONNECTIONS: &str = "streamhouse_controller_connections";

/// The value of a metric of controller `n` that has no labels.
fn metric(cluster: &LocalCluster, n: usize, name: &str) -> f64 {
    let (_, text) = http_get(cluster.http_address(n), "/metrics").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    lines.next().unwrap().parse().unwrap()
}

/// Whether there was no election; a machine that stands still has one without any flood.
fn same_term(cluster: &LocalCluster, n: usize, term: f64) -> Result<(), String> {
    let now = metric(cluster, n, TERM);
    in_bounds(now == term, || format!("there was an election: term {now} after {term}"))
}

/// As many open files as may be: usually that is more than the usual limit, which a flood exceeds.
fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Connects again and again and says nothing, so that `count` connections are there or wanted at any time.
fn flood(address: SocketAddr, count: usize, tasks: &mut JoinSet<()>) {
    for _ in 0..count {
        tasks.spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(address).await {
                    // Until the other side has had enough of it.
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                }
                // Not faster than the system has ports for.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
    }
}

#[test]
fn a_flood_of_connections_keeps_no_controller_out() {
    allow_many_files();
    unless_paused(flood_of_connections);
}

fn flood_of_connections() -> Result<(), String> {
    let mut cluster = LocalCluster::start_with_flags(3, 0, &["--max-connections=20"]);
    let leader = cluster.leader();
    let follower = 1 + leader % 3;
    cluster.run(&["topic", "create", "before", "--partitions", "1"]).ok();
    let runtime = Runtime::new().unwrap();
    let mut tasks = JoinSet::new();
    let term = metric(&cluster, leader, TERM);
    {
        let _entered = runtime.enter();
        for n in 1..=3 {
            flood(cluster.controller_address(n), 600, &mut tasks);
        }
    }
    // All places are taken, also those of the one that comes back.
    until("the places are taken", Duration::from_secs(30), || {
        (1..=3).all(|n| metric(&cluster, n, CONNECTIONS) >= 20.0).then_some(())
    });
    cluster.kill_controller(follower);
    cluster.start_controller(follower);
    until("it takes part again", Duration::from_secs(60), || {
        let (status, _) = http_get(cluster.http_address(follower), "/readyz")?;
        (status == 200).then_some(())
    });
    let calm = same_term(&cluster, leader, term);
    runtime.block_on(tasks.shutdown());
    // Clients are served again, too.
    until("a topic is created", Duration::from_secs(30), || {
        let created = cluster.run(&["topic", "create", "after", "--partitions", "1"]);
        (created.code == Some(0)).then_some(())
    });
    calm
}

/// Calls for as long as a retry may help, as clients do: for a moment of which it heard nothing of the others, a leader
/// does not know that it is one.
async fn insist<T>(mut call: impl AsyncFnMut() -> Result<Response<T>, Status>) -> T {
    let watch = Stopwatch::start();
    loop {
        match call().await {
            Ok(answer) => return answer.into_inner(),
            Err(status) => {
                let again = advice(from_status(&status).code()).retryable;
                assert!(again && watch.elapsed() < Duration::from_secs(10), "{status:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// An agent as the controllers see it.
#[derive(Clone)]
struct Session {
    client: SessionsClient<Channel>,
    beat: v1::AttachRequest,
}

impl Session {
    async fn register(endpoint: &Endpoint, store_url: String, n: u8) -> Self {
        let mut client = SessionsClient::new(endpoint.connect().await.unwrap());
        let instance = vec![n; 16];
        let register = v1::RegisterRequest {
            instance: instance.clone(),
            address: format!("nowhere:{n}"),
            group: "flood".to_owned(),
            store_url,
            ..v1::RegisterRequest::default()
        };
        let session = insist(async || client.register(register.clone()).await).await.session;
        Self { client, beat: v1::AttachRequest { session, instance } }
    }

    /// Heartbeats without an end; how the controller ended them.
    async fn flood(&mut self) -> tonic::Status {
        let beats = tokio_stream::iter(repeat(self.beat.clone()));
        let mut answers = match self.client.attach(beats).await {
            Ok(answers) => answers.into_inner(),
            Err(refused) => return refused,
        };
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a word"),
                Err(end) => return end,
            }
        }
    }

    /// Heartbeats as an agent sends them. Ends when the controller does.
    async fn beat(self) -> Result<(), tonic::Status> {
        let Self { mut client, beat } = self;
        let (beats, outbound) = mpsc::channel(1);
        let mut every = tokio::time::interval(Duration::from_millis(300));
        let send = async {
            while beats.send(beat.clone()).await.is_ok() {
                every.tick().await;
            }
        };
        let listen = async {
            let mut answers = client.attach(ReceiverStream::new(outbound)).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                assert!(!answer.ended, "its session was ended");
            }
            Ok(())
        };
        tokio::select! {
            () = send => Ok(()),
            ended = listen => ended,
        }
    }
}

#[test]
fn a_flood_of_heartbeats_starts_no_election() {
    unless_paused(flood_of_heartbeats);
}

fn flood_of_heartbeats() -> Result<(), String> {
    const FLOODS: u8 = 64;
    const TIME: Duration = Duration::from_secs(5);
    /// The one who asks shares the machine with those who flood.
    const SLOWEST: Duration = Duration::from_secs(3);
    let cluster = LocalCluster::start(3, 0);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let leader = cluster.leader();
    let term = metric(&cluster, leader, TERM);
    let store = format!("file://{}", cluster.objects().display());
    let address = format!("http://{}", cluster.controller_address(leader));
    let endpoint = Endpoint::from_shared(address).unwrap();
    let slowest = Runtime::new().unwrap().block_on(async {
        let mut polite = JoinSet::new();
        polite.spawn(Session::register(&endpoint, store.clone(), 255).await.beat());
        let watch = Stopwatch::start();
        let mut floods = JoinSet::new();
        for n in 0..FLOODS {
            let mut session = Session::register(&endpoint, store.clone(), n).await;
            floods.spawn(async move {
                let watch = Stopwatch::start();
                let mut ends = Vec::new();
                while watch.elapsed() < TIME {
                    ends.push(session.flood().await);
                }
                ends
            });
        }
        // Meanwhile others are served.
        let mut metadata = MetadataClient::new(endpoint.connect().await.unwrap());
        let mut slowest = Duration::ZERO;
        while watch.elapsed() < TIME {
            let asked = watch.elapsed();
            let list = v1::ListTopicsRequest { linearizable: true };
            insist(async || metadata.list_topics(list).await).await;
            slowest = slowest.max(watch.elapsed() - asked);
        }
        let ends = floods.join_all().await;
        println!("the slowest of the others' calls: {slowest:?}");
        for end in ends.iter().flatten() {
            assert_eq!(end.code(), Code::ResourceExhausted, "{end:?}");
        }
        assert!(ends.iter().all(|own| !own.is_empty()), "each flood is ended");
        assert!(polite.try_join_next().is_none(), "who is polite is served");
        slowest
    });
    (1..=3).try_for_each(|n| same_term(&cluster, n, term))?;
    in_bounds(slowest < SLOWEST, || format!("the slowest of the others' calls: {slowest:?}"))
}

#[test]
fn a_member_that_floods_is_told_so_and_stays_a_member() {
    let cluster = LocalCluster::start(1, 0);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let address = format!("http://{}", cluster.controller_address(1));
    let endpoint = Endpoint::from_shared(address).unwrap();
    Runtime::new().unwrap().block_on(async {
        let mut client = MetadataClient::new(endpoint.connect().await.unwrap());
        let list = v1::ListTopicsRequest { linearizable: true };
        let topics = client.list_topics(list).await.unwrap().into_inner().topics;
        let (member_id, session_timeout_ms) = (vec![7; 16], 30_000);
        let wish = v1::JoinGroupRequest {
            request: Some(v1::RequestId { requester: member_id.clone(), number: 1 }),
            group: "g".to_owned(),
            member_id: member_id.clone(),
            topic_ids: topics.into_iter().map(|topic| topic.topic_id).collect(),
            session_timeout_ms,
            ..v1::JoinGroupRequest::default()
        };
        client.join_group(wish).await.unwrap();
        let sign = v1::AttendGroupRequest {
            group: "g".to_owned(),
            member_id,
            session_timeout_ms,
            number: 1,
            ..v1::AttendGroupRequest::default()
        };
        let signs = tokio_stream::iter(repeat(sign.clone()));
        let mut answers = client.attend_group(signs).await.unwrap().into_inner();
        let end = loop {
            match answers.message().await {
                Ok(Some(answer)) => assert!(answer.leader && !answer.fenced, "{answer:?}"),
                Ok(None) => panic!("the stream ended without a word"),
                Err(end) => break end,
            }
        };
        assert_eq!(end.code(), Code::ResourceExhausted, "{end:?}");
        // It may come again, more slowly.
        let sign = tokio_stream::iter([sign]);
        let answer = client.attend_group(sign).await.unwrap().into_inner().message().await;
        assert!(answer.unwrap().is_some_and(|answer| !answer.fenced));
    });
}
