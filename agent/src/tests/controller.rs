//! A controller in memory: sessions, leases and commits of one topic, with scripted misbehaviour.

use futures::Stream;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use streamhouse_proto::to_status;
use streamhouse_proto::v1;
use streamhouse_proto::v1::collector_server::{Collector, CollectorServer};
use streamhouse_proto::v1::producers_server::{Producers, ProducersServer};
use streamhouse_proto::v1::sessions_server::{Sessions, SessionsServer};
use streamhouse_proto::v1::{
    AttachRequest, AttachResponse, BatchRefusal, CloseSessionRequest, CloseSessionResponse,
    CommitObjectsRequest, CommitObjectsResponse, CommittedSequences, DrainSessionRequest,
    DrainSessionResponse, ErrorCode, ErrorInfo, FindProducersRequest, FindProducersResponse,
    Generation, InitProducerRequest, InitProducerResponse, Lease, ObjectCommit, ObjectResult,
    ProducerProgress, RegisterRequest, RegisterResponse, ReleaseLeasesRequest,
    ReleaseLeasesResponse, SequenceRun, SliceCommit, SliceResult, TopicPartition,
};
use streamhouse_segment::sequences::{Sequences, Standing};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

pub(super) const CLUSTER: [u8; 16] = [5; 16];
pub(super) const TOPIC: [u8; 16] = [6; 16];

/// What happens to a commit request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Applied, but the answer is lost.
    AnswerLost,
    /// Not even looked at: there is no leader.
    NoLeader,
    /// Before it is applied, every epoch is raised, as if an offset had not matched.
    RaiseEpochs,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Partition {
    pub(super) epoch: u32,
    pub(super) next_offset: u64,
    /// Base and last offset of every accepted slice.
    pub(super) slices: Vec<(u64, u64)>,
    /// Where the bytes of each are: session, sequence, and what its commit said.
    pub(super) places: Vec<(u64, u64, SliceCommit)>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) session: u64,
    pub(super) instances: Vec<Vec<u8>>,
    pub(super) partitions: Vec<Partition>,
    /// RETRY: results by session and sequence.
    results: BTreeMap<(u64, u64), ObjectResult>,
    last_sequence: u64,
    pub(super) faults: VecDeque<Fault>,
    /// Epochs of producers that were raised.
    pub(super) producer_epochs: BTreeMap<u64, u32>,
    /// DEDUP: by partition and producer.
    sequences: BTreeMap<(usize, u64), Sequences>,
    pub(super) released: usize,
    /// The session was asked to give its leases back.
    pub(super) drained: bool,
    pub(super) closed: bool,
    pub(super) commit_calls: usize,
    applied: u64,
    streams: Vec<mpsc::UnboundedSender<Result<AttachResponse, Status>>>,
}

#[derive(Clone)]
pub(super) struct FakeController {
    state: Arc<parking_lot::Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    tracker: TaskTracker,
    stop: CancellationToken,
    pub(super) address: String,
}

impl FakeController {
    pub(super) async fn start(partitions: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            partitions: vec![Partition::default(); partitions],
            session: 100,
            ..Default::default()
        };
        let fake = Self {
            state: Arc::new(parking_lot::Mutex::new(state)),
            changed: Arc::new(watch::Sender::new(0)),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            address: listener.local_addr().unwrap().to_string(),
        };
        let server = tonic::transport::Server::builder()
            .add_service(SessionsServer::new(fake.clone()))
            .add_service(ProducersServer::new(fake.clone()))
            .add_service(CollectorServer::new(fake.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let stop = fake.stop.clone();
        fake.tracker.spawn(async move { stop.run_until_cancelled(server).await });
        fake
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.send_modify(|version| *version += 1);
        result
    }

    /// Waits until the state is as wanted.
    pub(super) async fn until(&self, wanted: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        while !wanted(&self.state.lock()) {
            changed.changed().await.unwrap();
        }
    }

    /// Ends the session; the agent has to open another one.
    pub(super) fn end_session(&self) {
        self.with(|state| {
            state.session += 1;
            let applied = u64::MAX;
            state.tell(AttachResponse { ended: true, applied, ..Default::default() });
        });
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

fn wire(partition: usize) -> TopicPartition {
    TopicPartition { topic_id: TOPIC.to_vec(), partition: partition as u32 }
}

impl State {
    fn leases(&self, revoking: bool) -> AttachResponse {
        let lease = |(number, partition): (usize, &Partition)| Lease {
            partition: Some(wire(number)),
            epoch: partition.epoch,
            epoch_start_offset: partition.next_offset,
            next_offset: partition.next_offset,
            revoking,
        };
        AttachResponse {
            leader: true,
            term: 1,
            applied: self.applied,
            cluster_time_ms: 1_000_000,
            full: true,
            leases: self.partitions.iter().enumerate().map(lease).collect(),
            ..Default::default()
        }
    }

    pub(super) fn tell(&mut self, news: AttachResponse) {
        self.streams.retain(|stream| stream.send(Ok(news.clone())).is_ok());
    }

    fn commit(&mut self, session: u64, object: &ObjectCommit) -> ObjectResult {
        let key = (session, object.sequence);
        // RETRY: the duplicate check comes before the fence check.
        if let Some(result) = self.results.get(&key) {
            return result.clone();
        }
        let refused = |code, message| ObjectResult {
            sequence: object.sequence,
            error: Some(ErrorInfo::new(code, message)),
            slices: Vec::new(),
        };
        if session != self.session {
            return refused(ErrorCode::SessionEnded, "the session has ended");
        }
        if object.sequence != self.last_sequence + 1 {
            return refused(ErrorCode::StaleCommit, "not the session's next object");
        }
        self.last_sequence += 1;
        self.applied += 1;
        let place = (session, object.sequence);
        let slices = object.slices.iter().map(|slice| self.apply(place, slice));
        let mut slices: Vec<_> = slices.collect();
        for abandoned in &object.abandoned_partitions {
            let partition = &mut self.partitions[abandoned.partition as usize];
            partition.epoch += 1;
            slices.push(result_of(partition, false));
        }
        let result = ObjectResult { sequence: object.sequence, error: None, slices };
        self.results.insert(key, result.clone());
        result
    }

    fn apply(&mut self, (session, sequence): (u64, u64), slice: &SliceCommit) -> SliceResult {
        let number = slice.partition.as_ref().unwrap().partition as usize;
        let partition = &mut self.partitions[number];
        let current = slice.lease_epoch == partition.epoch;
        let mut accepted = current && slice.base_offset == partition.next_offset;
        let (known, refused_batches) = match accepted {
            true => judge(&self.sequences, &self.producer_epochs, number, slice),
            false => Default::default(),
        };
        accepted &= refused_batches.is_empty();
        if accepted {
            self.sequences.extend(known);
            partition.next_offset = slice.last_offset + 1;
            partition.slices.push((slice.base_offset, slice.last_offset));
            partition.places.push((session, sequence, slice.clone()));
        } else if current {
            partition.epoch += 1;
        }
        SliceResult { refused_batches, ..result_of(partition, accepted) }
    }
}

type Judged = (BTreeMap<(usize, u64), Sequences>, Vec<BatchRefusal>);

/// What the slice makes of its producers' sequences, or what is wrong with its batches.
fn judge(
    sequences: &BTreeMap<(usize, u64), Sequences>,
    epochs: &BTreeMap<u64, u32>,
    partition: usize,
    slice: &streamhouse_proto::v1::SliceCommit,
) -> Judged {
    let (mut after, mut refused) = (BTreeMap::new(), Vec::new());
    for (index, batch) in (0..).zip(&slice.producers) {
        let key = (partition, batch.producer_id);
        let known =
            after.entry(key).or_insert_with(|| sequences.get(&key).cloned().unwrap_or_default());
        let fenced = epochs.get(&batch.producer_id).is_some_and(|now| *now > batch.producer_epoch);
        let code = match known.judge(batch.base_sequence, batch.records) {
            _ if fenced => Some(ErrorCode::ProducerFenced),
            Standing::Next => {
                known.append(batch.records, slice.base_offset + batch.offset_delta);
                continue;
            }
            Standing::Had { .. } => None,
            Standing::OutOfOrder { .. } => Some(ErrorCode::OutOfOrderSequence),
        };
        let error = code.map(|code| ErrorInfo::new(code, "refused"));
        refused.push(BatchRefusal { index, error, base_offset: None });
    }
    (after, refused)
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("nothing is collected here"))
}

#[tonic::async_trait]
impl Collector for FakeController {
    /// A cluster that no agent has registered with yet.
    async fn get(
        &self,
        _: Request<v1::GetCollectorRequest>,
    ) -> Result<Response<v1::GetCollectorResponse>, Status> {
        let cluster_id = CLUSTER.to_vec();
        Ok(Response::new(v1::GetCollectorResponse { cluster_id, ..Default::default() }))
    }

    async fn acquire(
        &self,
        _: Request<v1::AcquireCollectorRequest>,
    ) -> Result<Response<v1::AcquireCollectorResponse>, Status> {
        not_here()
    }

    async fn judge(
        &self,
        _: Request<v1::JudgeObjectsRequest>,
    ) -> Result<Response<v1::JudgeObjectsResponse>, Status> {
        not_here()
    }

    async fn allow(
        &self,
        _: Request<v1::AllowDeletionRequest>,
    ) -> Result<Response<v1::JudgeObjectsResponse>, Status> {
        not_here()
    }

    async fn report(
        &self,
        _: Request<v1::ReportSweepRequest>,
    ) -> Result<Response<v1::ReportSweepResponse>, Status> {
        not_here()
    }

    async fn control(
        &self,
        _: Request<v1::ControlCollectorRequest>,
    ) -> Result<Response<v1::ControlCollectorResponse>, Status> {
        not_here()
    }
}

#[tonic::async_trait]
impl Producers for FakeController {
    async fn init_producer(
        &self,
        _: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        Err(Status::unimplemented("agents do not ask"))
    }

    async fn find_producers(
        &self,
        request: Request<FindProducersRequest>,
    ) -> Result<Response<FindProducersResponse>, Status> {
        let state = self.state.lock();
        let producers = request.into_inner().producers.into_iter().map(|asked| {
            let partition = asked.partition.unwrap().partition as usize;
            let current = state.producer_epochs.get(&asked.producer_id).copied().unwrap_or(0);
            let known = state.sequences.get(&(partition, asked.producer_id));
            let run = |run: &streamhouse_segment::sequences::SequenceRun| SequenceRun {
                first: run.first,
                records: run.records,
                base_offset: run.base_offset,
            };
            let committed = known.map(|known| CommittedSequences {
                epoch: 0,
                records: known.records,
                runs: known.runs.iter().map(run).collect(),
            });
            ProducerProgress { current_epoch: Some(current), committed, full: false }
        });
        let producers = producers.collect();
        Ok(Response::new(FindProducersResponse { producers, applied: state.applied }))
    }
}

fn result_of(partition: &Partition, accepted: bool) -> SliceResult {
    let error = (!accepted).then(|| ErrorInfo::new(ErrorCode::StaleCommit, "stale"));
    SliceResult {
        accepted,
        error,
        lease_epoch: partition.epoch,
        next_offset: partition.next_offset,
        still_holder: true,
        refused_batches: Vec::new(),
    }
}

#[tonic::async_trait]
impl Sessions for FakeController {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let request = request.into_inner();
        if request.store_url.contains("elsewhere") {
            let error = ErrorInfo::new(ErrorCode::StoreMismatch, "the cluster's is memory://given");
            return Err(to_status(error));
        }
        let session = self.with(|state| {
            // RETRY: an attempt whose answer came too late is made again.
            if state.instances.last() == Some(&request.instance) {
                return state.session;
            }
            state.instances.push(request.instance);
            state.session += 1;
            state.last_sequence = 0;
            for partition in &mut state.partitions {
                partition.epoch += 1;
            }
            state.session
        });
        Ok(Response::new(RegisterResponse {
            session,
            cluster_id: CLUSTER.to_vec(),
            generation: Some(Generation { counter: 1, random: 9 }),
            session_ttl_ms: 60_000,
            heartbeat_interval_ms: 100,
            applied: 1,
        }))
    }

    type AttachStream = Pin<Box<dyn Stream<Item = Result<AttachResponse, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.unwrap_or_default();
        let (stream, news) = mpsc::unbounded_channel();
        self.with(|state| {
            let applied = u64::MAX;
            let ended = AttachResponse { ended: true, applied, ..Default::default() };
            let current = first.session == state.session;
            let _ = stream.send(Ok(if current { state.leases(false) } else { ended }));
            state.streams.push(stream);
        });
        let (keep, kept) = mpsc::channel::<Result<AttachResponse, Status>>(1);
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            let heartbeats = async { while let Ok(Some(_)) = inbound.message().await {} };
            stop.run_until_cancelled(heartbeats).await;
            drop(keep);
        });
        let news = UnboundedReceiverStream::new(news).merge(ReceiverStream::new(kept));
        Ok(Response::new(Box::pin(news)))
    }

    async fn commit_objects(
        &self,
        request: Request<CommitObjectsRequest>,
    ) -> Result<Response<CommitObjectsResponse>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            state.commit_calls += 1;
            let fault = state.faults.pop_front();
            match fault {
                Some(Fault::NoLeader) => {
                    return Err(to_status(ErrorInfo::new(ErrorCode::NoLeader, "no leader")));
                }
                Some(Fault::RaiseEpochs) => {
                    state.partitions.iter_mut().for_each(|partition| partition.epoch += 1);
                }
                Some(Fault::AnswerLost) | None => {}
            }
            let results = request
                .objects
                .iter()
                .map(|object| state.commit(request.session, object))
                .collect();
            if matches!(fault, Some(Fault::AnswerLost)) {
                return Err(Status::unavailable("connection reset"));
            }
            Ok(Response::new(CommitObjectsResponse { results, applied: state.applied }))
        })
    }

    async fn release_leases(
        &self,
        request: Request<ReleaseLeasesRequest>,
    ) -> Result<Response<ReleaseLeasesResponse>, Status> {
        self.with(|state| state.released += request.into_inner().leases.len());
        Ok(Response::new(ReleaseLeasesResponse { applied: 0 }))
    }

    async fn drain_session(
        &self,
        _: Request<DrainSessionRequest>,
    ) -> Result<Response<DrainSessionResponse>, Status> {
        self.with(|state| {
            state.drained = true;
            let news = state.leases(true);
            state.tell(news);
        });
        Ok(Response::new(DrainSessionResponse { applied: 0 }))
    }

    async fn close_session(
        &self,
        _: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        self.with(|state| state.closed = true);
        Ok(Response::new(CloseSessionResponse { applied: 0 }))
    }
}
