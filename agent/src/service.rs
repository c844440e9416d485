//! The produce service: batches in, answers out.
//!
//! BOUND: a stream is read on only while there is room for its batches in the buffer budget (bytes, for all streams
//! together) and while not too many of its batches are unanswered. Whoever must wait is paused, never refused. What
//! producers can make an agent hold in memory is at the most
//!
//! * `buffer_bytes` of admitted batches and, while the small ones are copied into objects, so much of `max_uploads` objects.
//!   A batch keeps the message alive that it came in, so a message counts whole until the last of its batches is answered,
//!   and those of its batches that are copied beside one that is not count again; batches of small messages, or that are a
//!   small part of theirs, are copied, and count alone;
//! * [`POOL_BYTES`](crate::inflow::POOL_BYTES) of messages that are coming or wait for that budget, and about three
//!   times as much for their batches' decoded fields: a message has no more batches than its length allows, and
//!   [`MAX_MESSAGE_BATCHES`](streamhouse_proto::MAX_MESSAGE_BATCHES) at the most;
//! * one HTTP/2 window for each of `max_streams`.

use crate::clock;
use crate::inflow::Share;
use crate::metrics::Probes;
use crate::partition::PartitionId;
use crate::run::Runs;
use crate::ticket::{Arrival, Pending, Results, Room, Sequence, Ticket};
use bytes::Bytes;
use futures::Stream;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::produce_server::Produce;
use streamhouse_proto::v1::{
    ErrorCode, ErrorInfo, ProduceBatch, ProduceRequest, ProduceResponse, ProduceResult,
};
use streamhouse_segment::{BatchError, BatchHeader, Limits, ObjectBuilder, validate_for_produce};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

/// The most answers in one message.
const MAX_RESULTS: usize = 1_024;
/// What a batch costs besides its bytes.
const BATCH_OVERHEAD: usize = 256;
/// Smaller messages may lie in one piece of memory with others, which a slice would keep alive, too.
const SHARED_FROM: usize = 128 << 10;

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct ProduceService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    inbox: mpsc::Sender<Vec<Arrival>>,
    /// One permit a byte.
    room: Arc<Semaphore>,
    room_bytes: usize,
    streams: Arc<Semaphore>,
    max_stream_batches: usize,
    tracker: TaskTracker,
    /// Streams are to be ended, after their last answer.
    closing: CancellationToken,
    max_streams: usize,
    /// Streams so far.
    opened: AtomicU64,
    probes: Probes,
}

/// How much of its bounds the service uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) streams: usize,
    pub(crate) buffer_bytes: usize,
    pub(crate) buffer_limit_bytes: usize,
}

/// How much the service takes at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) limits: Limits,
    pub(crate) buffer_bytes: usize,
    pub(crate) max_streams: usize,
    pub(crate) max_stream_batches: usize,
}

impl ProduceService {
    pub(crate) fn new(
        bounds: Bounds,
        inbox: mpsc::Sender<Vec<Arrival>>,
        tracker: TaskTracker,
        closing: CancellationToken,
        probes: Probes,
    ) -> Self {
        let room_bytes = bounds.buffer_bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let max_streams = bounds.max_streams.min(Semaphore::MAX_PERMITS);
        let shared = Shared {
            limits: bounds.limits,
            inbox,
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            streams: Arc::new(Semaphore::new(max_streams)),
            max_stream_batches: bounds.max_stream_batches.min(Semaphore::MAX_PERMITS),
            tracker,
            closing,
            max_streams,
            opened: AtomicU64::new(1),
            probes,
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn usage(&self) -> Usage {
        let Shared { room, room_bytes, streams, max_streams, .. } = &*self.shared;
        Usage {
            streams: max_streams - streams.available_permits(),
            buffer_bytes: room_bytes - room.available_permits(),
            buffer_limit_bytes: *room_bytes,
        }
    }
}

#[tonic::async_trait]
impl Produce for ProduceService {
    type StreamStream = Answers;

    async fn stream(
        &self,
        request: Request<Streaming<ProduceRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let shared = Arc::clone(&self.shared);
        if shared.closing.is_cancelled() {
            let error = ErrorInfo::new(ErrorCode::ShuttingDown, "the agent is shutting down");
            return Err(to_status(error));
        }
        let Ok(stream) = Arc::clone(&shared.streams).try_acquire_owned() else {
            let error = ErrorInfo::new(ErrorCode::Overloaded, "the agent has no stream left");
            return Err(to_status(error));
        };
        let (results, answers) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new(shared.max_stream_batches));
        let ties = Arc::new(Ties { failure: Mutex::default(), _stream: stream });
        let share = request.extensions().get().cloned().unwrap_or_default();
        let reader = Reader {
            shared,
            results,
            places: Arc::clone(&places),
            share,
            ties: Arc::clone(&ties),
            admitted: Vec::new(),
            runs: Runs::default(),
            stream: self.shared.opened.fetch_add(1, Ordering::Relaxed),
        };
        self.shared.tracker.spawn(reader.run(request.into_inner()));
        let probes = self.shared.probes.clone();
        Ok(Response::new(Answers { answers, places, ties, probes }))
    }
}

/// What both halves of a stream share; the stream is gone when both are.
#[derive(Debug)]
struct Ties {
    /// Why it was read no further, to be told after the last answer.
    failure: Mutex<Option<Status>>,
    _stream: OwnedSemaphorePermit,
}

impl Ties {
    fn failure(&self) -> std::sync::MutexGuard<'_, Option<Status>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers on their way to a producer, as many in a message as there are.
#[derive(Debug)]
pub(crate) struct Answers {
    answers: mpsc::UnboundedReceiver<ProduceResult>,
    places: Arc<Semaphore>,
    ties: Arc<Ties>,
    probes: Probes,
}

impl Drop for Answers {
    fn drop(&mut self) {
        // The producer hung up: its reader may be waiting for a place.
        self.places.close();
    }
}

impl Answers {
    fn count(&self, results: &[ProduceResult]) {
        let errors = results.iter().filter_map(|result| result.error.as_ref());
        let refused = errors.map(|error| self.probes.refused(error.code())).count();
        self.probes.acknowledged.increment((results.len() - refused) as u64);
    }
}

impl Stream for Answers {
    type Item = Result<ProduceResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut results = Vec::new();
        let count = ready!(self.answers.poll_recv_many(cx, &mut results, MAX_RESULTS));
        if count == 0 {
            return Poll::Ready(self.ties.failure().take().map(Err));
        }
        self.places.add_permits(count);
        self.count(&results);
        Poll::Ready(Some(Ok(ProduceResponse { results })))
    }
}

/// The task that reads one stream.
struct Reader {
    shared: Arc<Shared>,
    results: Results,
    /// One for each batch that has no answer on its way yet.
    places: Arc<Semaphore>,
    /// What the message at hand holds of the pool.
    share: Share,
    ties: Arc<Ties>,
    admitted: Vec<Arrival>,
    runs: Runs,
    /// Counts the streams of this agent.
    stream: u64,
}

/// The stream is to be read no further.
struct Stop;

impl Reader {
    async fn run(mut self, mut requests: Streaming<ProduceRequest>) {
        let (closing, results) = (self.shared.closing.clone(), self.results.clone());
        tokio::select! {
            () = self.read(&mut requests) => {}
            () = closing.cancelled() => {}
            // The producer hung up: nobody waits for what it could not hand over, and will send it again elsewhere.
            () = results.closed() => {}
        }
        for arrival in self.admitted {
            let message = format!("the agent takes no more batches of {}", arrival.partition);
            arrival.pending.ticket.refuse(ErrorInfo::new(ErrorCode::NotLeaseHolder, message));
        }
    }

    async fn read(&mut self, requests: &mut Streaming<ProduceRequest>) {
        loop {
            match requests.message().await {
                Ok(Some(request)) => {
                    if self.take(request).await.is_err() {
                        return;
                    }
                    self.share.give_back();
                }
                Ok(None) => return,
                Err(status) => {
                    *self.ties.failure() = Some(status);
                    return;
                }
            }
        }
    }

    async fn take(&mut self, request: ProduceRequest) -> Result<(), Stop> {
        let now = clock::now();
        let room = self.room_for_all(&request.batches).await?;
        for batch in request.batches {
            self.take_batch(batch, now, room.as_ref()).await?;
        }
        self.hand_over().await
    }

    /// Room for the whole message, if its batches are to stay where they are.
    async fn room_for_all(&mut self, batches: &[ProduceBatch]) -> Result<Option<Room>, Stop> {
        let message = self.share.bytes();
        let used: usize = batches.iter().map(|batch| batch.batch.len()).sum();
        if message < SHARED_FROM || used < message / 2 {
            return Ok(None);
        }
        // What is small is copied into the object, while a large neighbour keeps the message.
        let lengths = batches.iter().map(|batch| batch.batch.len());
        let small: usize = lengths.filter(|len| ObjectBuilder::copied_bytes(*len) == *len).sum();
        let twice = if small < used { small } else { 0 };
        let overhead = batches.len().saturating_mul(BATCH_OVERHEAD);
        let permit = self.take_room(message.saturating_add(twice + overhead)).await?;
        Ok(Some(Arc::new(permit)))
    }

    async fn take_batch(
        &mut self,
        batch: ProduceBatch,
        now: Instant,
        message: Option<&Room>,
    ) -> Result<(), Stop> {
        self.take_place().await?;
        let (results, correlation) = (self.results.clone(), batch.correlation);
        let ticket = |room| Ticket::new(results.clone(), correlation, room);
        let (partition, header) = match self.check(&batch) {
            Ok(checked) => checked,
            Err(error) => {
                ticket(None).refuse(error);
                return Ok(());
            }
        };
        let Some(run) = self.runs.next(partition, batch.restart) else {
            let message = "too many partitions of one stream were refused";
            ticket(None).refuse(ErrorInfo::new(ErrorCode::Overloaded, message));
            return Err(Stop);
        };
        let span = self.follow(&batch, partition);
        let (room, batch) = match message {
            Some(room) => (room.clone(), batch.batch),
            None => {
                let room = self.take_room(batch.batch.len().saturating_add(BATCH_OVERHEAD)).await?;
                (Arc::new(room), Bytes::copy_from_slice(&batch.batch))
            }
        };
        let ticket = ticket(Some(room)).in_run(run).followed_by(span);
        let (records, sequence) = (header.records_count.unsigned_abs(), Sequence::of(&header));
        let pending = Pending { batch, records, sequence, arrived: now, ticket };
        self.admitted.push(Arrival { partition, pending });
        Ok(())
    }

    /// A span for one batch; nothing where nobody looks.
    fn follow(&self, batch: &ProduceBatch, partition: PartitionId) -> Span {
        let (stream, correlation) = (self.stream, batch.correlation);
        let span = tracing::trace_span!("batch", stream, correlation, %partition);
        span.in_scope(|| tracing::trace!(bytes = batch.batch.len(), "batch admitted"));
        span
    }

    fn check(&self, batch: &ProduceBatch) -> Result<(PartitionId, BatchHeader), ErrorInfo> {
        let partition = PartitionId::from_wire(batch.partition.as_ref()).ok_or_else(|| {
            ErrorInfo::new(ErrorCode::InvalidArgument, "no topic id and partition")
        })?;
        match validate_for_produce(&batch.batch, &self.shared.limits) {
            Ok(header) => Ok((partition, header)),
            Err(error) => {
                Err(ErrorInfo::new(code_of(&error), format!("batch of {partition}: {error}")))
            }
        }
    }

    async fn take_place(&mut self) -> Result<(), Stop> {
        let places = Arc::clone(&self.places);
        if let Ok(place) = places.try_acquire() {
            place.forget();
            return Ok(());
        }
        // What waits here with us cannot be answered.
        self.hand_over().await?;
        places.acquire().await.map_err(|_| Stop)?.forget();
        Ok(())
    }

    async fn take_room(&mut self, bytes: usize) -> Result<OwnedSemaphorePermit, Stop> {
        let cost = bytes.min(self.shared.room_bytes);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.shared.room);
        if let Ok(permit) = Arc::clone(&room).try_acquire_many_owned(cost) {
            return Ok(permit);
        }
        self.hand_over().await?;
        room.acquire_many_owned(cost).await.map_err(|_| Stop)
    }

    async fn hand_over(&mut self) -> Result<(), Stop> {
        if self.admitted.is_empty() {
            return Ok(());
        }
        let place = self.shared.inbox.reserve().await.map_err(|_| Stop)?;
        let admitted = self.admitted.iter().map(|arrival| &arrival.pending);
        let (bytes, records) = admitted.fold((0, 0), |(bytes, records), pending| {
            (bytes + pending.batch.len() as u64, records + u64::from(pending.records))
        });
        let probes = &self.shared.probes;
        probes.batches_in.increment(self.admitted.len() as u64);
        probes.batch_bytes_in.increment(bytes);
        probes.records_in.increment(records);
        place.send(std::mem::take(&mut self.admitted));
        Ok(())
    }
}

fn code_of(error: &BatchError) -> ErrorCode {
    match error {
        BatchError::RecordTooLarge { .. }
        | BatchError::BatchFull { .. }
        | BatchError::BatchTooLarge { .. }
        | BatchError::DecompressedTooLarge { .. } => ErrorCode::RecordTooLarge,
        BatchError::Truncated { .. }
        | BatchError::WrongLength { .. }
        | BatchError::WrongMagic { .. }
        | BatchError::WrongChecksum { .. }
        | BatchError::MalformedLz4 { .. }
        | BatchError::MalformedRecord { .. }
        | BatchError::TrailingBytes { .. } => ErrorCode::CorruptBatch,
        BatchError::UnsupportedCodec { .. }
        | BatchError::ForbiddenAttributes { .. }
        | BatchError::WrongField { .. }
        | BatchError::Empty => ErrorCode::InvalidArgument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflow::testing::{channel_body, framed};
    use futures::StreamExt;
    use prost::Message;
    use std::time::Duration;
    use streamhouse_proto::v1::TopicPartition;
    use streamhouse_proto::{BoundedDecoder, from_status};
    use streamhouse_segment::{BatchBuilder, Compression, NO_HEADERS, ProducerInfo};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn batch(correlation: u64) -> ProduceBatch {
        batch_of(correlation, 1_000)
    }

    fn batch_of(correlation: u64, bytes: usize) -> ProduceBatch {
        let mut builder = BatchBuilder::new(Compression::None, Limits::default());
        builder.push(1, None, Some(&vec![7; bytes]), NO_HEADERS).unwrap();
        let partition = Some(TopicPartition { topic_id: vec![1; 16], partition: 0 });
        let batch = builder.finish(ProducerInfo::NONE).unwrap();
        ProduceBatch { correlation, partition, batch, restart: false }
    }

    struct Rig {
        service: ProduceService,
        inbox: mpsc::Receiver<Vec<Arrival>>,
        tracker: TaskTracker,
    }

    /// A service for one stream and with room for one batch and a half.
    fn rig() -> Rig {
        rig_with(2_000)
    }

    fn rig_with(buffer_bytes: usize) -> Rig {
        let bounds = Bounds {
            limits: Limits::default(),
            buffer_bytes,
            max_streams: 1,
            max_stream_batches: 64,
        };
        let (arrivals, inbox) = mpsc::channel(16);
        let (tracker, closing) = (TaskTracker::new(), CancellationToken::new());
        Rig {
            service: ProduceService::new(
                bounds,
                arrivals,
                tracker.clone(),
                closing,
                Probes::default(),
            ),
            inbox,
            tracker,
        }
    }

    impl Rig {
        async fn open(&self) -> (mpsc::UnboundedSender<Bytes>, Result<Answers, Status>) {
            self.open_for(Share::default()).await
        }

        async fn open_for(
            &self,
            share: Share,
        ) -> (mpsc::UnboundedSender<Bytes>, Result<Answers, Status>) {
            let (sender, body) = channel_body();
            let decoder = BoundedDecoder::<ProduceRequest>::default();
            let requests = Streaming::new_request(decoder, body, None, None);
            let mut request = Request::new(requests);
            request.extensions_mut().insert(share);
            let answers = self.service.stream(request).await;
            (sender, answers.map(Response::into_inner))
        }
    }

    fn message(batches: Vec<ProduceBatch>) -> Bytes {
        framed(&ProduceRequest { batches }.encode_to_vec()).into()
    }

    async fn patiently<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
    }

    #[tokio::test]
    async fn a_reader_that_waits_for_room_ends_when_its_producer_hangs_up() {
        let mut rig = rig();
        let (_sender, answers) = {
            let (sender, answers) = rig.open().await;
            sender.send(message(vec![batch(1), batch(2)])).unwrap();
            (sender, answers.unwrap())
        };
        // The first is handed over because the second has to wait for its room.
        let held = patiently(rig.inbox.recv()).await.unwrap();
        assert_eq!(held.len(), 1);
        assert!(rig.open().await.1.is_err(), "there is one stream at the most");
        drop(answers);
        rig.tracker.close();
        patiently(rig.tracker.wait()).await;
        assert!(rig.open().await.1.is_ok());
    }

    #[tokio::test]
    async fn a_stream_counts_until_its_reader_has_ended() {
        let rig = rig();
        let (sender, answers) = rig.open().await;
        drop(answers);
        assert!(rig.open().await.1.is_err(), "its reader has not noticed yet");
        drop(sender);
        rig.tracker.close();
        patiently(rig.tracker.wait()).await;
        assert!(rig.open().await.1.is_ok());
    }

    #[tokio::test]
    async fn a_large_message_is_not_copied_and_counts_whole_until_its_last_batch_is_answered() {
        const ROOM: usize = 1 << 20;
        let mut rig = rig_with(ROOM);
        let message = message(vec![batch_of(1, 100_000), batch_of(2, 100_000)]);
        let (sender, _answers) = rig.open_for(Share::of_message(message.len()).await).await;
        sender.send(message.clone()).unwrap();
        let mut arrivals = patiently(rig.inbox.recv()).await.unwrap();
        // Both are slices of the one message.
        assert!(arrivals.iter().all(|arrival| !arrival.pending.batch.is_unique()));
        assert_eq!(arrivals[1].pending.batch, batch_of(2, 100_000).batch);
        let room = Arc::clone(&rig.service.shared.room);
        assert!(room.available_permits() <= ROOM - message.len());
        arrivals.pop().unwrap().pending.ticket.acknowledge(0, 1);
        assert!(room.available_permits() <= ROOM - message.len(), "the other keeps it alive");
        arrivals.pop().unwrap().pending.ticket.acknowledge(0, 1);
        assert_eq!(room.available_permits(), ROOM);
    }

    #[tokio::test]
    async fn a_batch_of_a_small_message_does_not_keep_it_alive() {
        let mut rig = rig();
        let (sender, _answers) = rig.open().await;
        sender.send(message(vec![batch(1)])).unwrap();
        let arrivals = patiently(rig.inbox.recv()).await.unwrap();
        assert!(arrivals[0].pending.batch.is_unique());
        assert_eq!(arrivals[0].pending.batch, batch(1).batch);
    }

    #[tokio::test]
    async fn a_message_of_too_many_batches_is_refused_before_there_is_room_made_for_them() {
        let rig = rig();
        let (sender, answers) = rig.open().await;
        let empty = [10, 0].repeat(100);
        sender.send(framed(&empty).into()).unwrap();
        let refused = patiently(answers.unwrap().next()).await.unwrap().unwrap_err();
        assert_eq!(from_status(&refused).code(), ErrorCode::InvalidArgument);
    }
}
