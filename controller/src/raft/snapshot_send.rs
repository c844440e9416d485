//! Sending a snapshot file: the message with `meta`, then chunks with a
//! checksum each, the last marked `done`. What the peer has of an earlier,
//! broken transfer is not sent again.

use super::snapshot_receive;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use streamhouse_proto::v1::raft_client::RaftClient;
use streamhouse_proto::v1::{Payload, SnapshotChunk};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

const CHUNK_BYTES: usize = 512 << 10;
/// BOUND on chunks read ahead of the network.
const READ_AHEAD: usize = 4;

/// What is to be sent.
pub(crate) struct Chunks {
    pub(crate) file: Arc<File>,
    pub(crate) cluster: Vec<u8>,
    pub(crate) target: u64,
    pub(crate) meta: Bytes,
}

/// Bytes that the peer has already, from a transfer that broke off.
async fn offset(client: &mut RaftClient<Channel>, chunks: &Chunks) -> Result<u64, Status> {
    let payload = Payload {
        cluster_id: chunks.cluster.clone(),
        target: chunks.target,
        body: chunks.meta.clone(),
    };
    let there = client.snapshot_progress(payload).await?.into_inner();
    if there.bytes == 0 {
        return Ok(0);
    }
    let file = chunks.file.clone();
    let here = move || snapshot_receive::checksum(&file, there.bytes);
    let here = streamhouse_host::spawn_blocking(here).await.map_err(io::Error::other).flatten();
    let here = here.map_err(|error| Status::aborted(format!("snapshot: {error}")))?;
    Ok(if here == (there.bytes, there.crc32c) { there.bytes } else { 0 })
}

/// Sends what the peer has not yet and waits until the peer has installed it. Dropping the
/// future ends the call.
pub(crate) async fn send(
    mut client: RaftClient<Channel>,
    chunks: Chunks,
) -> Result<Payload, Status> {
    let offset = offset(&mut client, &chunks).await?;
    if offset > 0 {
        tracing::info!(peer = chunks.target, offset, "going on with a snapshot's transfer");
    }
    let (out, up) = mpsc::channel(READ_AHEAD);
    let feed = async {
        match feed(&chunks, offset, &out).await {
            // The call has ended; its own answer says why.
            Err(Stop::Closed) => {}
            Err(Stop::Read(error)) => return Err(Status::aborted(format!("snapshot: {error}"))),
            Ok(()) => {}
        }
        drop(out);
        std::future::pending().await
    };
    tokio::select! {
        answer = client.install_snapshot(ReceiverStream::new(up)) => Ok(answer?.into_inner()),
        failed = feed => failed,
    }
}

enum Stop {
    Closed,
    Read(io::Error),
}

async fn feed(chunks: &Chunks, offset: u64, out: &mpsc::Sender<SnapshotChunk>) -> Result<(), Stop> {
    let message = |meta: Vec<u8>, data: Bytes, done: bool| SnapshotChunk {
        cluster_id: chunks.cluster.clone(),
        target: chunks.target,
        crc32c: crc32c::crc32c(&data),
        meta,
        data,
        done,
        offset,
    };
    let send = |chunk| async { out.send(chunk).await.map_err(|_| Stop::Closed) };
    send(message(chunks.meta.to_vec(), Bytes::new(), false)).await?;
    let mut position = offset;
    loop {
        let file = chunks.file.clone();
        let read = streamhouse_host::spawn_blocking(move || read_chunk(&file, position)).await;
        let data = read.map_err(io::Error::other).flatten().map_err(Stop::Read)?;
        position += data.len() as u64;
        let done = data.len() < CHUNK_BYTES;
        send(message(Vec::new(), data, done)).await?;
        if done {
            return Ok(());
        }
    }
}

/// The next chunk; shorter than the others only at the end.
fn read_chunk(file: &File, position: u64) -> io::Result<Bytes> {
    let mut data = vec![0; CHUNK_BYTES];
    let mut length = 0;
    while length < data.len() {
        match file.read_at(&mut data[length..], position + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    data.truncate(length);
    Ok(data.into())
}
