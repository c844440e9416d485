//! An agent without data: it holds leases and commits objects that nobody wrote. It attaches to every controller, and
//! again when one comes back, as agents do.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use streamhouse_proto::{advice, from_status};
use streamhouse_tests::Stopwatch;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::{GROUP, PATIENCE, RECORDS, SLICES, channel, id};

const HEARTBEAT: Duration = Duration::from_millis(500);
/// How often it is looked whether a controller can be reached.
const LOOK: Duration = Duration::from_millis(20);
/// What a session waits before it attaches again to a controller that can be, or makes a call again.
const AGAIN: Duration = Duration::from_millis(100);

/// Epoch and next offset by topic and partition.
type Leases = BTreeMap<(Vec<u8>, u32), (u32, u64)>;

/// The controllers, and which of them can be reached. Looked at once for all sessions, whose attempts would else take the
/// processor from controllers that start.
pub(super) struct Controllers {
    addresses: Vec<String>,
    reached: Vec<watch::Receiver<bool>>,
    /// How many streams of sessions are attached.
    streams: Arc<AtomicUsize>,
    /// How many calls had to be made again.
    repeated: AtomicUsize,
    _looking: JoinSet<()>,
}

impl Controllers {
    pub(super) fn of(addresses: Vec<String>) -> Self {
        let mut looking = JoinSet::new();
        let look = |address: &String| {
            let (seen, reached) = watch::channel(false);
            let address = address.clone();
            looking.spawn(async move {
                loop {
                    let now = TcpStream::connect(&address).await.is_ok();
                    seen.send_if_modified(|reached| std::mem::replace(reached, now) != now);
                    tokio::time::sleep(LOOK).await;
                }
            });
            reached
        };
        let reached = addresses.iter().map(look).collect();
        let (streams, repeated) = (Arc::default(), AtomicUsize::default());
        Self { addresses, reached, streams, repeated, _looking: looking }
    }

    /// A call that is made since then was refused: it may be made again in a moment.
    pub(super) async fn pause(&self, since: &Stopwatch, refused: &Status) {
        assert!(advice(from_status(refused).code()).retryable, "{refused:?}");
        assert!(since.elapsed() < PATIENCE, "{refused:?}");
        self.repeated.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(AGAIN).await;
    }

    /// How many calls had to be made again.
    pub(super) fn repeated(&self) -> usize {
        self.repeated.load(Ordering::SeqCst)
    }

    /// How many streams of sessions are attached.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }
}

pub(super) struct Session {
    id: u64,
    instance: Vec<u8>,
    leases: watch::Receiver<Leases>,
    sequence: u64,
    _tasks: JoinSet<()>,
}

impl Session {
    pub(super) async fn open(controllers: &Controllers, n: usize) -> Self {
        let instance = id(n);
        let request = v1::RegisterRequest {
            instance: instance.clone(),
            address: format!("scale-{n}.invalid:1"),
            group: GROUP.into(),
            store_url: "memory://scale".into(),
            ..v1::RegisterRequest::default()
        };
        let mut client = SessionsClient::new(channel(&controllers.addresses[0]).await.unwrap());
        let id = client.register(request).await.unwrap().into_inner().session;
        let (told, leases) = watch::channel(BTreeMap::new());
        let told = Arc::new(told);
        let mut tasks = JoinSet::new();
        for (address, reached) in controllers.addresses.iter().zip(&controllers.reached) {
            let attachment = Attachment {
                address: address.clone(),
                reached: reached.clone(),
                message: v1::AttachRequest { session: id, instance: instance.clone() },
                told: Arc::clone(&told),
                streams: Arc::clone(&controllers.streams),
            };
            tasks.spawn(attachment.keep());
        }
        Self { id, instance, leases, sequence: 0, _tasks: tasks }
    }

    /// Commits `objects`, one after another, to the first partitions it holds; returns their next offsets.
    pub(super) async fn fill(
        mut self,
        controllers: Arc<Controllers>,
        address: String,
        objects: u64,
    ) -> (Self, Vec<(v1::TopicPartition, u64)>) {
        let mut client = SessionsClient::new(channel(&address).await.unwrap());
        let held = self.leases.wait_for(|leases| leases.len() >= SLICES);
        let held = tokio::time::timeout(PATIENCE, held).await.unwrap().unwrap().clone();
        let mut held: Vec<_> = held.into_iter().take(SLICES).collect();
        for _ in 0..objects {
            self.sequence += 1;
            let object = v1::ObjectCommit {
                sequence: self.sequence,
                size: 1 << 20,
                slices: held.iter().map(slice).collect(),
                ..v1::ObjectCommit::default()
            };
            let request = v1::CommitObjectsRequest {
                session: self.id,
                instance: self.instance.clone(),
                objects: vec![object],
            };
            let since = Stopwatch::start();
            let answer = loop {
                match client.commit_objects(request.clone()).await {
                    Ok(answer) => break answer.into_inner(),
                    Err(refused) => controllers.pause(&since, &refused).await,
                }
            };
            let slices = &answer.results[0].slices;
            assert!(slices.iter().all(|slice| slice.accepted), "{:?}", answer.results[0]);
            held.iter_mut().for_each(|(_, (_, next))| *next += RECORDS);
        }
        let written = held.into_iter().map(|((topic_id, partition), (_, next))| {
            (v1::TopicPartition { topic_id, partition }, next)
        });
        (self, written.collect())
    }
}

fn slice(((topic, partition), (epoch, next)): &((Vec<u8>, u32), (u32, u64))) -> v1::SliceCommit {
    v1::SliceCommit {
        partition: Some(v1::TopicPartition { topic_id: topic.clone(), partition: *partition }),
        lease_epoch: *epoch,
        base_offset: *next,
        last_offset: next + RECORDS - 1,
        record_count: RECORDS as u32,
        length: 64 << 10,
        crc32c: 1,
        ..v1::SliceCommit::default()
    }
}

/// A session's stream at one controller.
struct Attachment {
    address: String,
    reached: watch::Receiver<bool>,
    message: v1::AttachRequest,
    told: Arc<watch::Sender<Leases>>,
    streams: Arc<AtomicUsize>,
}

impl Attachment {
    async fn keep(mut self) {
        while self.reached.wait_for(|reached| *reached).await.is_ok() {
            if let Ok(channel) = channel(&self.address).await {
                // It ends with the controller.
                let _ = self.keep_one(channel).await;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn keep_one(&self, channel: Channel) -> Option<()> {
        let (beats, outgoing) = mpsc::channel(1);
        beats.send(self.message.clone()).await.ok()?;
        let mut client = SessionsClient::new(channel);
        let mut news = client.attach(ReceiverStream::new(outgoing)).await.ok()?.into_inner();
        // It answers with who leads, at once.
        self.take_note(news.message().await.ok()??);
        self.streams.fetch_add(1, Ordering::SeqCst);
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = news.message() => match message {
                    Ok(Some(message)) => self.take_note(message),
                    Ok(None) | Err(_) => break,
                },
                // One that is still on its way is enough.
                _ = beat.tick() => drop(beats.try_send(self.message.clone())),
            }
        }
        self.streams.fetch_sub(1, Ordering::SeqCst);
        None
    }

    fn take_note(&self, news: v1::AttachResponse) {
        self.told.send_if_modified(|leases| {
            if news.full {
                leases.clear();
            }
            let changes = news.full || !news.leases.is_empty() || !news.lost.is_empty();
            for lease in news.leases {
                let partition = lease.partition.unwrap();
                let key = (partition.topic_id, partition.partition);
                leases.insert(key, (lease.epoch, lease.next_offset));
            }
            for partition in news.lost.into_iter().filter_map(|lost| lost.partition) {
                leases.remove(&(partition.topic_id, partition.partition));
            }
            changes
        });
    }
}
