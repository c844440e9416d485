//! A leader that is stopped, replaced, and goes on as if nothing had been. What was sent to it meanwhile waits in its
//! sockets, so that it comes after everything that the next leader has acknowledged.
use std::fs;
use std::time::Duration;

use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::{self, ErrorCode};
use streamhouse_proto::{advice, from_status};
use streamhouse_tests::{LocalCluster, Stopwatch, until};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use super::{PATIENCE, serves_again};
use crate::leases::Holders;
use crate::load::{CALL, client, commit, committed};
use crate::promised::assert_exactly_once;
use crate::{load, raw};

/// How soon another controller leads.
const REPLACED: Duration = Duration::from_secs(3);
/// After so long a silence an agent's session ends.
const SESSION_TTL: Duration = Duration::from_secs(3);
/// Linearizable reads of each kind.
const READS: usize = 4;

/// Its second commit waits in a socket while its third is made elsewhere.
const HASTY: u8 = 5;
/// Its commit waits in a socket; it makes the same one elsewhere, and then another.
const IMPATIENT: u8 = 6;
/// Its only commit waits in a socket.
const PATIENT: u8 = 7;
/// Its topic waits in a socket while somebody else creates one of that name.
const LATE: u8 = 8;
const FIRST: u8 = 9;

type Client = MetadataClient<Channel>;
type Committed = Result<v1::CommitOffsetsResponse, Status>;

fn create(requester: u8) -> v1::CreateTopicRequest {
    v1::CreateTopicRequest {
        request: Some(v1::RequestId { requester: vec![requester; 16], number: 1 }),
        name: "contested".into(),
        partitions: 1,
        ..v1::CreateTopicRequest::default()
    }
}

/// Makes a call at one controller after the other, until one answers.
async fn anywhere<T>(
    clients: &[Client],
    mut call: impl AsyncFnMut(Client) -> Result<tonic::Response<T>, Status>,
) -> T {
    let watch = Stopwatch::start();
    let mut at = 0;
    loop {
        let client = clients[at % clients.len()].clone();
        if let Ok(Ok(answer)) = tokio::time::timeout(CALL, call(client)).await {
            return answer.into_inner();
        }
        at += 1;
        assert!(watch.elapsed() < PATIENCE, "nobody took over");
        // As a client's back-off does; what ends the loop is the answer.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until one of them knows another leader than `old`, each asked for what it knows by itself.
async fn replaced(others: &[Client], old: usize) {
    let watch = Stopwatch::start();
    loop {
        for other in others {
            let mut other = other.clone();
            let asked = other.get_controller(v1::GetControllerRequest {});
            if let Ok(Ok(known)) = tokio::time::timeout(CALL, asked).await
                && ![0, old as u64].contains(&known.into_inner().leader_id)
            {
                return;
            }
        }
        assert!(watch.elapsed() < PATIENCE, "nobody took over");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Commits elsewhere; the index of that.
async fn commit_elsewhere(
    clients: &[Client],
    requester: u8,
    partition: &v1::TopicPartition,
    number: u64,
) -> u64 {
    let request = commit(requester, partition, number);
    let call = async |mut client: Client| client.commit_offsets(request.clone()).await;
    let answer = anywhere(clients, call).await;
    assert!(is_accepted(&answer), "{answer:?}");
    answer.applied
}

fn is_accepted(answer: &v1::CommitOffsetsResponse) -> bool {
    answer.results.iter().all(|result| result.code() == ErrorCode::Unspecified)
}

/// Waits until every thread of the process has stopped: from then on it takes nothing from its sockets.
fn has_stopped(pid: u32) {
    until("the process has stopped", PATIENCE, || {
        let mut threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let all = threads.all(|thread| {
            // The state stands behind the name, which is in parentheses. A thread may have ended meanwhile.
            let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
        });
        all.then_some(())
    });
}

/// What waits in the sockets of a leader that was stopped.
struct InItsSockets {
    commits: JoinSet<(u8, Committed)>,
    creation: JoinSet<Result<v1::CreateTopicResponse, Status>>,
    reads: JoinSet<Option<(u64, u64)>>,
}

impl InItsSockets {
    fn send(leader: &str, partition: &v1::TopicPartition) -> Self {
        let mut commits = JoinSet::new();
        for (requester, number) in [(HASTY, 2), (IMPATIENT, 1), (PATIENT, 1)] {
            let mut client = client(leader);
            let request = commit(requester, partition, number);
            commits.spawn(async move {
                let answer = client.commit_offsets(request).await;
                (requester, answer.map(tonic::Response::into_inner))
            });
        }
        let mut creation = JoinSet::new();
        let mut client = client(leader);
        creation.spawn(async move {
            client.create_topic(create(LATE)).await.map(tonic::Response::into_inner)
        });
        let mut sent = Self { commits, creation, reads: JoinSet::new() };
        sent.read(leader, partition);
        sent
    }

    fn read(&mut self, leader: &str, partition: &v1::TopicPartition) {
        for _ in 0..READS {
            let (mut client, partition) = (client(leader), partition.clone());
            self.reads.spawn(async move { committed(&mut client, HASTY, &partition).await });
        }
    }

    /// Waits for all answers. Nothing took effect before `since`, the index of what was done elsewhere meanwhile. Tells
    /// what the patient requester has committed, if its answer does.
    async fn answered(self, since: u64) -> Option<u64> {
        let Self { commits, creation, reads } = self;
        let reads = reads.join_all().await;
        let answered: Vec<_> = reads.iter().copied().flatten().collect();
        println!(
            "of {} reads that were held {} were answered: {answered:?}",
            reads.len(),
            answered.len()
        );
        for (offset, applied) in answered {
            assert_eq!(offset, 3, "a read that was held open is answered with what is over");
            assert!(applied >= since, "a read at {applied}, older than {since}");
        }
        let mut patient = None;
        for (requester, answer) in commits.join_all().await {
            println!("the commit of requester {requester} that was held: {answer:?}");
            match (requester, answer) {
                (HASTY, Ok(answer)) => {
                    assert!(!is_accepted(&answer), "an older commit counts late: {answer:?}");
                }
                // RETRY: the first result of the same commit.
                (IMPATIENT, Ok(answer)) => assert!(is_accepted(&answer), "{answer:?}"),
                (_, Ok(answer)) => {
                    assert!(is_accepted(&answer) && answer.applied > since, "{answer:?}");
                    patient = Some(1);
                }
                (PATIENT, Err(status)) if !advice(from_status(&status).code()).indeterminate => {
                    patient = Some(0);
                }
                (_, Err(_)) => {}
            }
        }
        for answer in creation.join_all().await {
            println!("the topic's creation that was held: {answer:?}");
            assert!(answer.is_err(), "two topics of one name");
        }
        patient
    }
}

/// Everybody, the leader that was stopped included, shows what was done meanwhile, and nothing that came too late.
async fn all_agree(
    addresses: &[String],
    partition: &v1::TopicPartition,
    topic: &v1::CreateTopicResponse,
    patient: Option<u64>,
) {
    for address in addresses {
        // The leader may just have changed again: what it cannot answer now it answers in a moment.
        let own = [client(address)];
        for (requester, number) in [(HASTY, Some(3)), (IMPATIENT, Some(2)), (PATIENT, patient)] {
            let read = async |mut client: Client| {
                let read = committed(&mut client, requester, partition).await;
                read.map(tonic::Response::new).ok_or_else(|| Status::unavailable("try again"))
            };
            let (offset, _) = anywhere(&own, read).await;
            assert_eq!(offset, number.unwrap_or(offset), "of requester {requester} at {address}");
        }
        let request = v1::ListTopicsRequest { linearizable: true };
        let list = async |mut client: Client| client.list_topics(request).await;
        let topics = anywhere(&own, list).await.topics;
        let contested: Vec<_> = topics.iter().filter(|topic| topic.name == "contested").collect();
        assert_eq!(contested.len(), 1, "at {address}");
        assert_eq!(contested[0].topic_id, topic.topic_id, "the one that came first, at {address}");
    }
}

#[test]
fn a_leader_that_hung_is_replaced_and_has_no_say_afterwards() {
    let cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "t", "--partitions", "8"]).ok();
    let partition = raw::partition(&cluster, "t");
    let mut holders = Holders::of(&cluster);
    let held = holders.shared_out(&cluster, &[1, 2]);
    let load = load::records(&cluster, "hung");
    load.flows();
    let old = cluster.leader();
    let addresses: Vec<String> = cluster.controllers().split(',').map(str::to_owned).collect();
    let old_address = cluster.controller_address(old).to_string();
    let runtime = Runtime::new().unwrap();
    let (in_its_sockets, since, topic) = runtime.block_on(async {
        let others = addresses.iter().filter(|address| **address != old_address);
        let others: Vec<Client> = others.map(|address| client(address)).collect();
        commit_elsewhere(&[client(&old_address)], HASTY, &partition, 1).await;
        cluster.stop_controller_process(old);
        has_stopped(cluster.controller_pid(old));
        let watch = Stopwatch::start();
        let mut waiting = InItsSockets::send(&old_address, &partition);
        replaced(&others, old).await;
        let took = watch.elapsed();
        println!("a hung leader was replaced after {took:?}");
        assert!(took < REPLACED, "{took:?}");
        let mut since = commit_elsewhere(&others, HASTY, &partition, 3).await;
        for number in 1..=2 {
            since = commit_elsewhere(&others, IMPATIENT, &partition, number).await;
        }
        let creating = async |mut client: Client| client.create_topic(create(FIRST)).await;
        let topic = anywhere(&others, creating).await;
        // Begun after all that was acknowledged: whatever answers these must have seen it.
        waiting.read(&old_address, &partition);
        (waiting, since.max(topic.applied), topic)
    });
    // Writers go on without it.
    load.flows();
    cluster.continue_controller_process(old);
    let patient = runtime.block_on(async {
        let answered = in_its_sockets.answered(since);
        tokio::time::timeout(PATIENCE, answered).await.expect("every call is answered")
    });
    serves_again(&cluster, old);
    runtime.block_on(all_agree(&addresses, &partition, &topic, patient));

    // Whoever ends a session does so within the TTL.
    let watch = Stopwatch::start();
    until("sessions had the time to end", PATIENCE, || {
        assert_eq!(holders.leases(), held, "a living agent lost a lease, or its epoch");
        (watch.elapsed() > SESSION_TTL).then_some(())
    });
    load.flows();
    let (sent, longest) = load.acknowledged();
    println!("while a leader hung, a record waited for {longest:?} at most");
    assert_exactly_once(&cluster, &[&sent]);
}
