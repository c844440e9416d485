//! A cluster inside the test: one fake state, served by any number of fake controllers and agents over loopback.
#![allow(unreachable_pub, reason = "a private module of the tests")]

mod agent;
mod controller;
pub mod faulty;
mod groups;
pub mod member;
pub mod objects;
mod plans;
mod producers;
pub mod reading;
pub mod sending;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use parking_lot::Mutex;
use streamhouse_client::Store;
use streamhouse_proto::v1;
use streamhouse_store::StoreKind;
use tokio::net::{TcpListener, TcpStream};
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
    /// So do releases of partitions.
    pub releases_held: watch::Sender<bool>,
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
            releases_held: watch::channel(false).0,
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

    /// An agent, and how many of the connections to it, the earliest ones, lead nowhere: nobody is told.
    pub async fn add_agent_behind_relay(&self) -> (String, watch::Sender<usize>) {
        let (outer, address) = listen().await;
        let (inner, behind) = listen().await;
        let fake = agent::Fake { world: self.clone(), address: address.clone() };
        let service = v1::produce_server::ProduceServer::new(fake);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(inner)));
        let dead = watch::Sender::new(0);
        let told = dead.subscribe();
        tokio::spawn(async move {
            for number in 0.. {
                let (mut near, _) = outer.accept().await.unwrap();
                let mut far = TcpStream::connect(&behind).await.unwrap();
                let mut told = told.clone();
                tokio::spawn(async move {
                    let dead = async { drop(told.wait_for(|dead| number < *dead).await) };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = dead => std::future::pending().await,
                    }
                });
            }
        });
        (address, dead)
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

    /// The first segment of the partition expires.
    pub fn trim(&self, topic: &str, partition: usize) {
        let mut state = self.state.lock();
        let log = &mut state.topics.get_mut(topic).unwrap().1[partition];
        let first = log.segments.remove(0);
        log.log_start = first.last_offset + 1;
    }

    pub fn store(&self) -> Store {
        Store::from_object_store(self.objects.clone(), "", StoreKind::Memory)
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

/// Waits for what nobody tells of.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + reading::SOON;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "it never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}
