//! A thousand members of one group, each with a stream of its own to the leader: one dies, and only who inherits from it
//! hears of that.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_tests::{LocalCluster, Stopwatch, until};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(120);
const MEMBERS: usize = 1_000;
/// Two for each.
const PARTITIONS: usize = 2 * MEMBERS;
/// Members that share a connection.
const CONNECTION: usize = 50;
const HEARTBEAT: Duration = Duration::from_secs(2);
/// That of the one that dies, and that of the others, who live however busy the machine is.
const SHORT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(60);
/// What the leader may take for all of it.
const MEMORY_BOUND: u64 = 300 << 20;

type Client = MetadataClient<Channel>;

/// What one member was told.
#[derive(Default)]
struct Told {
    /// Times that it was told what it owns.
    rung: AtomicUsize,
    owned: AtomicUsize,
    /// The number of the last sign of life that was confirmed.
    heard: AtomicU64,
}

struct Member {
    told: Arc<Told>,
    life: AbortHandle,
}

fn id(number: usize) -> Vec<u8> {
    (number as u128 + 1).to_be_bytes().to_vec()
}

fn timeout_ms(number: usize) -> u32 {
    let timeout = if number == 0 { SHORT_TIMEOUT } else { TIMEOUT };
    timeout.as_millis() as u32
}

async fn connect(cluster: &LocalCluster, leader: usize) -> Client {
    let address = format!("http://{}", cluster.controller_address(leader));
    let channel = Endpoint::from_shared(address).unwrap().tcp_nodelay(true).connect().await;
    MetadataClient::new(channel.unwrap())
}

async fn join(client: &mut Client, number: usize, topic: Vec<u8>) {
    let wish = v1::JoinGroupRequest {
        request: Some(v1::RequestId { requester: id(number), number: 1 }),
        group: "g".to_owned(),
        member_id: id(number),
        client_id: "one of many".to_owned(),
        topic_ids: vec![topic],
        session_timeout_ms: timeout_ms(number),
        ..Default::default()
    };
    client.join_group(wish).await.unwrap();
}

/// Gives signs of life, takes what it is told, and gives up what it is asked for.
async fn live(mut client: Client, number: usize, told: Arc<Told>) {
    let (signs, outgoing) = mpsc::channel(4);
    let beat = async move {
        let mut sign = v1::AttendGroupRequest {
            group: "g".to_owned(),
            member_id: id(number),
            session_timeout_ms: timeout_ms(number),
            ..Default::default()
        };
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            beat.tick().await;
            sign.number += 1;
            signs.send(sign.clone()).await.unwrap();
        }
    };
    let attend = async move {
        let stream = client.attend_group(ReceiverStream::new(outgoing)).await.unwrap();
        let (mut stream, mut released) = (stream.into_inner(), 1);
        while let Some(answer) = stream.next().await {
            let answer = answer.unwrap();
            assert!(answer.leader && !answer.fenced, "member {number}: {answer:?}");
            told.heard.store(answer.heard, Relaxed);
            if !answer.assignment {
                continue;
            }
            told.rung.fetch_add(1, Relaxed);
            let (asked, kept): (Vec<_>, Vec<_>) =
                answer.partitions.into_iter().partition(|owned| owned.revoking);
            told.owned.store(kept.len(), Relaxed);
            if asked.is_empty() {
                continue;
            }
            released += 1;
            let release = v1::ReleasePartitionsRequest {
                request: Some(v1::RequestId { requester: id(number), number: released }),
                group: "g".to_owned(),
                member_id: id(number),
                partitions: asked,
            };
            client.release_partitions(release).await.unwrap();
        }
        panic!("the stream of member {number} ended");
    };
    tokio::select! {
        () = beat => {}
        () = attend => {}
    }
}

fn attend(client: Client, number: usize, lives: &mut JoinSet<()>) -> Member {
    let told = Arc::new(Told::default());
    let life = lives.spawn(live(client, number, told.clone()));
    Member { told, life }
}

async fn topic(client: &mut Client) -> Vec<u8> {
    let list = v1::ListTopicsRequest { linearizable: true };
    let topics = client.list_topics(list).await.unwrap().into_inner().topics;
    topics[0].topic_id.clone()
}

/// All but the one that dies, joined one after another on their connection, and attending.
async fn start(cluster: &LocalCluster, leader: usize, lives: &mut JoinSet<()>) -> Vec<Member> {
    let topic = topic(&mut connect(cluster, leader).await).await;
    let mut joins = JoinSet::new();
    for first in (0..MEMBERS).step_by(CONNECTION) {
        let (mut client, topic) = (connect(cluster, leader).await, topic.clone());
        let numbers = first.max(1)..first + CONNECTION;
        joins.spawn(async move {
            for number in numbers.clone() {
                join(&mut client, number, topic.clone()).await;
            }
            (numbers, client)
        });
    }
    let mut members = Vec::new();
    while let Some(joined) = joins.join_next().await {
        let (numbers, client) = joined.unwrap();
        members.extend(numbers.map(|number| attend(client.clone(), number, lives)));
    }
    members
}

/// The one that dies. It is missed soon, and so gives signs of life from the moment it joins.
async fn start_mortal(cluster: &LocalCluster, leader: usize, lives: &mut JoinSet<()>) -> Member {
    let mut client = connect(cluster, leader).await;
    let topic = topic(&mut client).await;
    join(&mut client, 0, topic).await;
    attend(client, 0, lives)
}

/// Waits until these own everything, and everybody has been told so. Nobody ends meanwhile, but who was to.
fn settled(members: &[Member], lives: &mut JoinSet<()>) {
    until("everything is shared out", PATIENCE, || {
        while let Some(ended) = lives.try_join_next() {
            assert!(ended.is_err_and(|end| end.is_cancelled()), "the others attend all the while");
        }
        let owned: Vec<_> = members.iter().map(|member| member.told.owned.load(Relaxed)).collect();
        let share = PARTITIONS / members.len();
        let balanced = owned.iter().all(|count| (share..=share + 1).contains(count));
        (balanced && owned.iter().sum::<usize>() == PARTITIONS).then_some(())
    });
}

/// Times that each was rung once nothing is under way: what was to be told before a sign of life is told when the
/// second one after it is confirmed.
fn rung(members: &[Member]) -> Vec<usize> {
    let heard = |member: &Member| member.told.heard.load(Relaxed);
    let before: Vec<_> = members.iter().map(heard).collect();
    until("everybody's signs of life are confirmed", PATIENCE, || {
        let twice = |(member, before): (&Member, &u64)| heard(member) >= before + 2;
        members.iter().zip(&before).all(twice).then_some(())
    });
    members.iter().map(|member| member.told.rung.load(Relaxed)).collect()
}

#[test]
fn when_one_of_a_thousand_members_dies_the_others_are_left_alone() {
    // One controller: however busy the machine is, it leads.
    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", &PARTITIONS.to_string()]).ok();
    let leader = cluster.leader();
    let before = cluster.peak_memory(leader);
    let runtime = Runtime::new().unwrap();
    let mut lives = JoinSet::new();
    let watch = Stopwatch::start();
    let mut members = runtime.block_on(start(&cluster, leader, &mut lives));
    let joined = watch.elapsed();
    settled(&members, &mut lives);
    // Only now, when nothing else is going on.
    members.push(runtime.block_on(start_mortal(&cluster, leader, &mut lives)));
    settled(&members, &mut lives);
    println!(
        "{} members joined in {joined:.1?}, and with one more shared out all in {:.1?}",
        MEMBERS - 1,
        watch.elapsed()
    );

    let dead = members.pop().unwrap();
    let had = dead.told.owned.load(Relaxed);
    let heard = rung(&members);
    dead.life.abort();
    settled(&members, &mut lives);
    let again = rung(&members);
    let disturbed = heard.iter().zip(&again).filter(|(before, after)| before != after).count();
    let peak = cluster.peak_memory(leader);
    println!(
        "one that had {had} partitions died: {disturbed} of {} others were rung; the leader's peak memory is {} MiB, \
         {} MiB before they came",
        members.len(),
        peak >> 20,
        before >> 20
    );
    assert!(disturbed <= had, "only who inherits hears of it");
    assert!(peak < MEMORY_BOUND, "{peak} bytes");
    runtime.block_on(lives.shutdown());
}
