//! Taking a backup: from the state to an object, in pieces, and read back.
//!
//! GC: objects that leave the index meanwhile are kept by a hold, which is
//! placed before the state is read and outlives [`WHOLE`]; a backup that is not
//! there by then is given up, for what it refers to may be gone.

use super::BackupError;
use super::file::{Decoder, EncodeError, Encoder, Header, Item, Totals};
use super::place::{Place, generation};
use crate::clock;
use crate::errors::refusal_info;
use crate::raft::{ProposeError, RaftNode, StateView};
use crate::seeds::{CALL, Seeds};
use crate::state::collector::{CollectorReply, CollectorStep, HOLD_MS};
use crate::state::command::CommandBody;
use crate::state::reply::{Refusal, Reply};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::pin::pin;
use std::time::{Duration, Instant};
use streamhouse_proto::v1;
use streamhouse_proto::v1::backups_client::BackupsClient;
use streamhouse_proto::{MAX_MESSAGE_BYTES, from_status};
use streamhouse_segment::ClusterId;
use streamhouse_store::{Created, Upload};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

/// BOUND: pieces read from the state and not yet taken.
const QUEUE: usize = 4;
/// BOUND: a view keeps what it sees on the disk, so whoever takes no piece for
/// so long gets no more.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// And so does whoever has not taken all of it after so long.
const WHOLE: Duration = Duration::from_secs(3_600);
const _: () = assert!(HOLD_MS >= 3 * WHOLE.as_secs() * 1_000, "cluster time may run twice as fast");
/// What is compared of a backup that was written, besides its size: the
/// checksum of all of it.
const CHECKSUM_BYTES: u64 = 16;

/// A backup that lies in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Where.
    pub url: String,
    /// Whose, and as of when.
    pub header: Header,
    /// What is in it.
    pub totals: Totals,
}

impl Taken {
    /// The cluster's id.
    pub fn cluster(&self) -> String {
        ClusterId::from_bytes(self.header.cluster).to_string()
    }

    /// Where it is.
    pub fn into_url(self) -> String {
        self.url
    }

    /// The cluster's generation.
    pub fn generation(&self) -> String {
        generation(self.header.generation).to_string()
    }
}

/// Backs up the cluster of these controllers to `to`: a folder, or a whole
/// name that ends in `.backup`; by default into the cluster's own store.
pub async fn take(controllers: &[String], to: Option<&str>) -> Result<Taken, BackupError> {
    let (mut seeds, deadline) = (Seeds::new(controllers), deadline());
    let stream = seeds.call("taking a backup", Some(CALL), |channel| async move {
        let client = BackupsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut client = client;
        client.take(v1::TakeBackupRequest {}).await
    });
    let pieces = stream.await?.map(|piece| match piece {
        Ok(chunk) => Ok(chunk.data),
        Err(status) => Err(BackupError::from(from_status(&status))),
    });
    write(pieces, |header| Place::for_writing(header, to), deadline).await
}

/// Why no hold was placed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    #[error(transparent)]
    Propose(ProposeError),
    #[error("{}", refusal_info(.0).message)]
    Refused(Refusal),
    #[error("unexpected reply to holding objects for a backup")]
    Unexpected,
}

/// From now on no object is deleted that the index refers to when this returns.
pub(crate) async fn hold(raft: &RaftNode) -> Result<(), HoldError> {
    match raft.propose(None, CommandBody::Collect(CollectorStep::Hold)).await {
        Ok((_, Reply::Collector(CollectorReply::Done))) => Ok(()),
        Ok((_, Reply::Refused(refusal))) => Err(HoldError::Refused(refusal)),
        Ok(_) => Err(HoldError::Unexpected),
        // Below that level nothing is deleted at all.
        Err(ProposeError::FeatureLevel { .. }) => Ok(()),
        Err(error) => Err(HoldError::Propose(error)),
    }
}

/// When a backup must be there that is begun now.
pub(crate) fn deadline() -> Instant {
    clock::now() + WHOLE
}

/// The pieces of a backup of what `view` sees, read as they are taken.
pub(crate) fn pieces(
    tasks: &TaskTracker,
    view: StateView,
) -> Result<ReceiverStream<Result<Bytes, EncodeError>>, EncodeError> {
    let index = view.applied();
    let mut encoder = Encoder::new(view, index)?;
    let (out, stream) = mpsc::channel(QUEUE);
    let end = clock::now() + WHOLE;
    tasks.spawn(async move {
        loop {
            if clock::now() > end {
                return tracing::warn!(index, "a backup took too long; it is given up");
            }
            let read = streamhouse_host::spawn_blocking(move || {
                let piece = encoder.next_piece();
                (encoder, piece)
            });
            let Ok((rest, piece)) = read.await else { return };
            encoder = rest;
            let Some(piece) = piece.map_err(EncodeError::from).transpose() else { return };
            match tokio::time::timeout(TAKEN_WITHIN, out.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => return tracing::warn!(index, "nobody takes the backup; it is given up"),
            }
        }
    });
    Ok(ReceiverStream::new(stream))
}

/// A backup on its way into a store.
struct Writing {
    place: Place,
    upload: Upload,
    header: Header,
}

/// Writes a backup as its pieces come, and reads back that it is there.
pub(crate) async fn write(
    pieces: impl Stream<Item = Result<Bytes, BackupError>>,
    choose: impl FnOnce(&Header) -> Result<Place, BackupError>,
    deadline: Instant,
) -> Result<Taken, BackupError> {
    let mut pieces = pin!(pieces);
    let mut check = Check::default();
    let Some(first) = pieces.next().await else { return Err(incomplete()) };
    let first = first?;
    let Some(header) = check.take(&first)? else { return Err(incomplete()) };
    let place = choose(&header)?;
    let upload = place.store.upload(&place.key);
    let mut writing = Writing { place, upload, header };
    let mut next = Some(first);
    while let Some(piece) = next.take() {
        match writing.upload.write(&piece).await {
            Ok(Created::New) => {}
            Ok(Created::AlreadyExists) => {
                // What is there is compared with all of this one.
                while let Some(piece) = pieces.next().await {
                    check.take(&piece?)?;
                }
                writing.upload.abort().await;
                in_time(deadline)?;
                return found(writing.place, writing.header, check).await;
            }
            Err(error) => {
                writing.upload.abort().await;
                return Err(error.into());
            }
        }
        let read = match pieces.next().await {
            Some(Ok(piece)) => check.take(&piece).map(|_| Some(piece)),
            Some(Err(error)) => Err(error),
            None => Ok(None),
        };
        match read {
            Ok(piece) => next = piece,
            Err(error) => {
                writing.upload.abort().await;
                return Err(error);
            }
        }
    }
    let Writing { place, upload, header } = writing;
    if check.totals.is_none() {
        upload.abort().await;
        return Err(incomplete());
    }
    if let Err(late) = in_time(deadline) {
        upload.abort().await;
        return Err(late);
    }
    let created = upload.finish().await?;
    if let (Err(late), Created::New) = (in_time(deadline), created) {
        place.store.delete(&place.key).await?;
        return Err(late);
    }
    match created {
        Created::New => confirm(&place, header, &check).await,
        Created::AlreadyExists => found(place, header, check).await,
    }
}

/// GC: past the deadline nothing keeps what the backup refers to.
fn in_time(deadline: Instant) -> Result<(), BackupError> {
    if clock::now() < deadline {
        return Ok(());
    }
    let message = format!("the backup took longer than {WHOLE:?}, and was given up");
    Err(BackupError::Cluster { retryable: true, message })
}

/// The stream of its pieces ended early.
fn incomplete() -> BackupError {
    let message = "the controller ended the backup before it was whole".to_owned();
    BackupError::Cluster { retryable: true, message }
}

/// Reads along what is written: what breaks on its way to us is no backup.
#[derive(Default)]
struct Check {
    decoder: Decoder,
    totals: Option<Totals>,
    /// The last bytes so far.
    tail: Vec<u8>,
}

impl Check {
    fn take(&mut self, piece: &[u8]) -> Result<Option<Header>, BackupError> {
        self.tail.extend_from_slice(piece);
        let keep = self.tail.len().saturating_sub(CHECKSUM_BYTES as usize);
        self.tail.drain(..keep);
        self.decoder.feed(piece);
        let mut header = None;
        loop {
            let item = self.decoder.next_item().map_err(|error| BackupError::Cluster {
                retryable: true,
                message: format!("what the controller sent {error}"),
            })?;
            match item {
                None => return Ok(header),
                Some(Item::Header(found)) => header = Some(*found),
                Some(Item::Part(_)) => {}
                Some(Item::End(totals)) => self.totals = Some(totals),
            }
        }
    }
}

/// Something lies there already: this backup, or another under a name that
/// the operator chose.
async fn found(place: Place, header: Header, check: Check) -> Result<Taken, BackupError> {
    let confirmed = confirm(&place, header, &check).await;
    match confirmed {
        Err(BackupError::Place(_)) if place.named => {
            let url = place.url();
            Err(BackupError::Place(format!("{url} exists already; a backup overwrites nothing")))
        }
        other => other,
    }
}

/// The size and the checksum of all are those that were sent.
async fn confirm(place: &Place, header: Header, check: &Check) -> Result<Taken, BackupError> {
    let Some(totals) = check.totals else { return Err(incomplete()) };
    let (size, tail) = place.store.get_tail(&place.key, CHECKSUM_BYTES).await?;
    let url = place.url();
    if size != totals.bytes || tail[..] != check.tail[..] {
        let message =
            format!("{url} holds {size} bytes that are not the {} of this backup", totals.bytes);
        return Err(BackupError::Place(message));
    }
    place.store.sync_existing(&place.key).await?;
    Ok(Taken { url, header, totals })
}
