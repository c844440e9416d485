//! A cluster inside the test: one fake state, served by any number of fake controllers and agents over loopback.
#![allow(unreachable_pub, reason = "a private module of the tests")]

mod agent;
mod controller;
pub mod faulty;
mod groups;
mod producers;
pub mod reading;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use parking_lot::Mutex;
use streamhouse_client::Store;
use streamhouse_proto::v1;
use streamhouse_segment::batch::{
    self, BatchBuilder, BatchHeader, Limits, NO_HEADERS, ProducerInfo,
};
use streamhouse_segment::ids::{ClusterId, Generation, ObjectId, SessionId};
use streamhouse_store::StoreKind;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_stream::wrappers::TcpListenerStream;

pub use agent::Action;
pub use groups::Coordinator;

const CLUSTER: [u8; 16] = [7; 16];
const GENERATION: v1::Generation = v1::Generation { counter: 1, random: 9 };

/// One partition: who takes its batches, and what was committed.
#[derive(Clone, Default)]
pub struct Log {
    pub agent: String,
    pub log_start: u64,
    pub next_offset: u64,
    pub segments: Vec<v1::Segment>,
}

#[derive(Default)]
pub struct State {
    pub applied: u64,
    pub topics: BTreeMap<String, ([u8; 16], Vec<Log>)>,
    /// Committed offsets and their metadata.
    pub offsets: BTreeMap<(String, Vec<u8>, u32), (u64, String)>,
    pub commits: Vec<v1::CommitOffsetsRequest>,
    pub controllers: Vec<String>,
    /// What each agent does with its next batches; afterwards it accepts.
    pub scripts: BTreeMap<String, VecDeque<Action>>,
    pub look_ups: u64,
    /// Look-ups and descriptions find no leader.
    pub unavailable: bool,
    /// Look-ups find every log empty, until a topic is described linearizably.
    pub lagging: bool,
    pub producers: producers::Producers,
    /// The next look-up that is not linearizable says the second instead of the first object.
    pub outdated: Option<(u64, u64)>,
    pub groups: Coordinator,
    sequence: u64,
}

#[derive(Clone)]
pub struct World {
    pub state: Arc<Mutex<State>>,
    pub objects: Arc<InMemory>,
    changed: watch::Sender<u64>,
    /// Commits of offsets wait while it is set.
    pub commits_held: watch::Sender<bool>,
    /// So many of the next descriptions are never answered.
    pub silence: watch::Sender<u32>,
    /// Agents take one permit per batch with [`Action::Hold`].
    pub gate: Arc<Semaphore>,
}

impl World {
    /// A cluster with one controller.
    pub async fn new() -> (World, String) {
        let world = World {
            state: Arc::default(),
            objects: Arc::new(InMemory::new()),
            changed: watch::channel(0).0,
            commits_held: watch::channel(false).0,
            silence: watch::channel(0).0,
            gate: Arc::new(Semaphore::new(0)),
        };
        let controller = world.add_controller().await;
        (world, controller)
    }

    pub async fn add_controller(&self) -> String {
        let (listener, address) = listen().await;
        let service = v1::metadata_server::MetadataServer::new(controller::Fake(
            self.clone(),
            address.clone(),
        ));
        let producers = v1::producers_server::ProducersServer::new(producers::Fake(self.clone()));
        let server =
            tonic::transport::Server::builder().add_service(service).add_service(producers);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        self.state.lock().controllers.push(address.clone());
        address
    }

    pub async fn add_agent(&self) -> String {
        let (listener, address) = listen().await;
        let fake = agent::Fake { world: self.clone(), address: address.clone() };
        let service = v1::produce_server::ProduceServer::new(fake)
            .max_decoding_message_size(streamhouse_proto::MAX_MESSAGE_BYTES);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    pub fn add_topic(&self, name: &str, partitions: usize, agent: &str) {
        let mut state = self.state.lock();
        let id = [state.topics.len() as u8 + 1; 16];
        let log = Log { agent: agent.to_owned(), ..Log::default() };
        state.topics.insert(name.to_owned(), (id, vec![log; partitions]));
        state.applied += 1;
    }

    /// Whether the description that is asked for is one of those that are never answered.
    fn is_silent(&self) -> bool {
        self.silence.send_if_modified(|left| {
            let silent = *left > 0;
            *left -= u32::from(silent);
            silent
        })
    }

    /// Watchers are told what there is now.
    pub fn announce(&self) {
        let applied = self.state.lock().applied;
        self.changed.send_replace(applied);
    }

    pub fn script(&self, agent: &str, actions: impl IntoIterator<Item = Action>) {
        self.state.lock().scripts.entry(agent.to_owned()).or_default().extend(actions);
    }

    pub fn move_partition(&self, topic: &str, partition: usize, agent: &str) {
        let mut state = self.state.lock();
        state.topics.get_mut(topic).unwrap().1[partition].agent = agent.to_owned();
        state.applied += 1;
    }

    pub fn store(&self) -> Store {
        Store::from_object_store(self.objects.clone(), "", StoreKind::Memory)
    }

    /// Writes the batch as an object of its own and commits it.
    pub async fn append(
        &self,
        topic: &[u8],
        partition: u32,
        bytes: &[u8],
    ) -> Result<(u64, u64), v1::ErrorInfo> {
        let header = batch::validate_for_produce(bytes, &Limits::default()).unwrap();
        let mut bytes = bytes.to_vec();
        let (key, base, sequence) = {
            let mut state = self.state.lock();
            if let Some(before) = state.producers.judge((topic, partition), &header)? {
                return Ok((before, state.applied));
            }
            state.sequence += 1;
            let sequence = state.sequence;
            let log = state.log(topic, partition)?;
            let base = log.next_offset;
            log.next_offset += u64::try_from(header.records_count).unwrap();
            state.producers.append((topic, partition), &header, base);
            batch::assign(&mut bytes, base as i64, 1);
            (object(sequence).key(), base, sequence)
        };
        let parsed = BatchHeader::parse(&bytes).unwrap();
        let segment = v1::Segment {
            base_offset: base,
            last_offset: parsed.last_offset() as u64,
            record_count: parsed.records_count as u32,
            min_timestamp_ms: parsed.base_timestamp,
            max_timestamp_ms: parsed.max_timestamp,
            position: 0,
            length: bytes.len() as u32,
            crc32c: crc32c::crc32c(&bytes),
            source: Some(v1::segment::Source::L0(v1::L0Object {
                generation: Some(GENERATION),
                session: 5,
                sequence,
            })),
            ..v1::Segment::default()
        };
        self.put(&key, bytes).await;
        let applied = {
            let mut state = self.state.lock();
            state.applied += 1;
            state.log(topic, partition)?.segments.push(segment);
            state.applied
        };
        self.changed.send_replace(applied);
        Ok((base, applied))
    }

    /// One object with a slice for each of these partitions of the topic, as an agent writes it: ten records each.
    pub async fn append_object(&self, topic: &str, partitions: std::ops::Range<u32>) {
        let mut object = Vec::new();
        let mut slices = Vec::new();
        for partition in partitions {
            let id = self.state.lock().topics[topic].0;
            let base = self.state.lock().log(&id, partition).unwrap().next_offset;
            let mut builder = BatchBuilder::new(batch::Compression::Lz4, Limits::default());
            for number in base..base + 10 {
                let value = format!("v{number}");
                builder.push(1, None, Some(value.as_bytes()), NO_HEADERS).unwrap();
            }
            let mut bytes = builder.finish(ProducerInfo::NONE).unwrap().to_vec();
            batch::assign(&mut bytes, base as i64, 1);
            slices.push((id, partition, base, object.len() as u64, bytes.len() as u32));
            object.extend(bytes);
        }
        let sequence = {
            let mut state = self.state.lock();
            state.sequence += 1;
            state.sequence
        };
        let crc = |start: u64, length: u32| {
            crc32c::crc32c(&object[start as usize..start as usize + length as usize])
        };
        let segments: Vec<_> = slices
            .into_iter()
            .map(|(id, partition, base_offset, position, length)| {
                let segment = v1::Segment {
                    base_offset,
                    last_offset: base_offset + 9,
                    record_count: 10,
                    position,
                    length,
                    crc32c: crc(position, length),
                    source: Some(v1::segment::Source::L0(v1::L0Object {
                        generation: Some(GENERATION),
                        session: 5,
                        sequence,
                    })),
                    ..v1::Segment::default()
                };
                (id, partition, segment)
            })
            .collect();
        self.put(&self.key(sequence), object).await;
        let applied = {
            let mut state = self.state.lock();
            state.applied += 1;
            for (id, partition, segment) in segments {
                let log = state.log(&id, partition).unwrap();
                log.next_offset = segment.last_offset + 1;
                log.segments.push(segment);
            }
            state.applied
        };
        self.changed.send_replace(applied);
    }

    pub async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.objects.put(&Path::from(key), PutPayload::from(bytes)).await.unwrap();
    }

    pub async fn get(&self, key: &str) -> Vec<u8> {
        self.objects.get(&Path::from(key)).await.unwrap().bytes().await.unwrap().to_vec()
    }

    pub async fn delete(&self, key: &str) {
        self.objects.delete(&Path::from(key)).await.unwrap();
    }

    /// The key of the n-th object written, from 1.
    pub fn key(&self, sequence: u64) -> String {
        object(sequence).key()
    }

    /// All values of a partition, in log order, read around the consumer.
    pub async fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        let segments = self.state.lock().topics[topic].1[partition].segments.clone();
        let mut values = Vec::new();
        for segment in segments {
            let Some(v1::segment::Source::L0(l0)) = segment.source else { panic!() };
            let bytes = self.get(&object(l0.sequence).key()).await;
            for record in batch::decode(bytes.into(), &Limits::default()).unwrap() {
                values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            }
        }
        values
    }
}

impl State {
    pub fn log(&mut self, topic: &[u8], partition: u32) -> Result<&mut Log, v1::ErrorInfo> {
        let unknown = |code| v1::ErrorInfo::new(code, "no such topic or partition");
        let found = self.topics.values_mut().find(|(id, _)| id.as_slice() == topic);
        let (_, logs) = found.ok_or_else(|| unknown(v1::ErrorCode::UnknownTopic))?;
        let log = logs.get_mut(partition as usize);
        log.ok_or_else(|| unknown(v1::ErrorCode::UnknownPartition))
    }
}

fn object(sequence: u64) -> ObjectId {
    ObjectId {
        cluster: ClusterId::from_bytes(CLUSTER),
        generation: Generation { counter: GENERATION.counter, random: GENERATION.random },
        session: SessionId(5),
        sequence,
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}
