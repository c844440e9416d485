//! The produce service: batches in, answers out.
//!
//! BOUND: a stream is read on only while there is room for its batches in the buffer budget (bytes, for all streams
//! together) and while not too many of its batches are unanswered. Whoever must wait is paused, never refused.

use crate::clock;
use crate::partition::PartitionId;
use crate::run::Runs;
use crate::ticket::{Arrival, Pending, Results, Ticket};
use futures::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::produce_server::Produce;
use streamhouse_proto::v1::{
    ErrorCode, ErrorInfo, ProduceBatch, ProduceRequest, ProduceResponse, ProduceResult,
};
use streamhouse_segment::{BatchError, Limits, validate_for_produce};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

/// The most answers in one message.
const MAX_RESULTS: usize = 1_024;
/// What a batch costs besides its bytes.
const BATCH_OVERHEAD: usize = 256;

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
        };
        Self { shared: Arc::new(shared) }
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
        let reader = Reader {
            shared,
            results,
            places: Arc::clone(&places),
            admitted: Vec::new(),
            runs: Runs::default(),
        };
        self.shared.tracker.spawn(reader.run(request.into_inner()));
        Ok(Response::new(Answers { answers, places, _stream: stream }))
    }
}

/// Answers on their way to a producer, as many in a message as there are.
#[derive(Debug)]
pub(crate) struct Answers {
    answers: mpsc::UnboundedReceiver<ProduceResult>,
    places: Arc<Semaphore>,
    _stream: OwnedSemaphorePermit,
}

impl Drop for Answers {
    fn drop(&mut self) {
        // The producer hung up: its reader may be waiting for a place.
        self.places.close();
    }
}

impl Stream for Answers {
    type Item = Result<ProduceResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut results = Vec::new();
        let count = ready!(self.answers.poll_recv_many(cx, &mut results, MAX_RESULTS));
        self.places.add_permits(count);
        Poll::Ready((count > 0).then_some(Ok(ProduceResponse { results })))
    }
}

/// The task that reads one stream.
struct Reader {
    shared: Arc<Shared>,
    results: Results,
    /// One for each batch that has no answer on its way yet.
    places: Arc<Semaphore>,
    admitted: Vec<Arrival>,
    runs: Runs,
}

/// The stream is to be read no further.
struct Stop;

impl Reader {
    async fn run(mut self, mut requests: Streaming<ProduceRequest>) {
        let closing = self.shared.closing.clone();
        let read = async {
            while let Ok(Some(request)) = requests.message().await {
                if self.take(request).await.is_err() {
                    break;
                }
            }
        };
        closing.run_until_cancelled(read).await;
        for arrival in self.admitted {
            let message = format!("the agent takes no more batches of {}", arrival.partition);
            arrival.pending.ticket.refuse(ErrorInfo::new(ErrorCode::NotLeaseHolder, message));
        }
    }

    async fn take(&mut self, request: ProduceRequest) -> Result<(), Stop> {
        let now = clock::now();
        for batch in request.batches {
            self.take_batch(batch, now).await?;
        }
        self.hand_over().await
    }

    async fn take_batch(&mut self, batch: ProduceBatch, now: Instant) -> Result<(), Stop> {
        self.take_place().await?;
        let ticket = |room| Ticket::new(self.results.clone(), batch.correlation, room);
        let (partition, records) = match self.check(&batch) {
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
        let room = self.take_room(batch.batch.len()).await?;
        let ticket = Ticket::new(self.results.clone(), batch.correlation, Some(room)).in_run(run);
        let pending = Pending { batch: batch.batch, records, arrived: now, ticket };
        self.admitted.push(Arrival { partition, pending });
        Ok(())
    }

    fn check(&self, batch: &ProduceBatch) -> Result<(PartitionId, u32), ErrorInfo> {
        let partition = PartitionId::from_wire(batch.partition.as_ref()).ok_or_else(|| {
            ErrorInfo::new(ErrorCode::InvalidArgument, "no topic id and partition")
        })?;
        match validate_for_produce(&batch.batch, &self.shared.limits) {
            Ok(header) => Ok((partition, header.records_count.unsigned_abs())),
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
        let cost = bytes.saturating_add(BATCH_OVERHEAD).min(self.shared.room_bytes);
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
