//! Receiving a snapshot: chunks go to a file as they come, and the file is
//! checked from start to end before Raft hears of it. If the connection
//! breaks, the next transfer goes on where this one ended, provided that what
//! is here is what the sender has.

use super::snapshot_file;
use super::snapshot_store::{RECEIVED, SnapshotFile};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use streamhouse_proto::v1::SnapshotChunk;
use tonic::{Status, Streaming};

/// A sender that is silent for so long is given up.
const IDLE: Duration = Duration::from_secs(10);
const BUFFER: usize = 256 << 10;

/// The next chunk of a call.
pub(crate) async fn next(chunks: &mut Streaming<SnapshotChunk>) -> Result<SnapshotChunk, Status> {
    match tokio::time::timeout(IDLE, chunks.message()).await {
        Ok(chunk) => chunk?.ok_or_else(|| Status::invalid_argument("snapshot is cut off")),
        Err(_) => Err(Status::deadline_exceeded("snapshot stopped coming")),
    }
}

/// How much of a snapshot is here, and its checksum.
pub(crate) async fn progress(path: PathBuf) -> Result<(u64, u32), Status> {
    blocking(move || match File::open(&path) {
        Ok(file) => checksum(&file, u64::MAX).map_err(io_status),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, 0)),
        Err(error) => Err(io_status(error)),
    })
    .await
}

/// Length and CRC-32C of the first `limit` bytes, or of all if it is shorter.
pub(crate) fn checksum(file: &File, limit: u64) -> io::Result<(u64, u32)> {
    let mut buffer = vec![0; BUFFER];
    let (mut at, mut crc) = (0, 0);
    while at < limit {
        let want = buffer.len().min(usize::try_from(limit - at).unwrap_or(usize::MAX));
        match file.read_at(&mut buffer[..want], at) {
            Ok(0) => break,
            Ok(read) => {
                crc = crc32c::crc32c_append(crc, &buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((at, crc))
}

/// Writes the chunks after the first to the file at `path`, behind the
/// `offset` bytes that are there, and checks the whole. A file whose transfer
/// breaks off stays, to be continued; one that does not hold is removed.
pub(crate) async fn receive(
    mut chunks: Streaming<SnapshotChunk>,
    path: PathBuf,
    offset: u64,
) -> Result<SnapshotFile, Status> {
    let opened = path.clone();
    let mut file = blocking(move || continued(&opened, offset)).await?;
    loop {
        let chunk = next(&mut chunks).await?;
        if crc32c::crc32c(&chunk.data) != chunk.crc32c {
            return Err(Status::data_loss("snapshot chunk's checksum does not match"));
        }
        file = write(file, chunk.data).await?;
        if chunk.done {
            break;
        }
    }
    let (part, received) = (path.clone(), path.with_extension(RECEIVED));
    let path = received.clone();
    let file = blocking(move || {
        let held = complete(&file, &part);
        if held.is_err() {
            // Nobody knows what the disk has of it.
            let _ = std::fs::remove_file(&part);
        }
        held?;
        std::fs::rename(&part, &received).map_err(io_status)?;
        File::open(&received).map_err(io_status)
    })
    .await?;
    Ok(SnapshotFile { path, file: Arc::new(file), verified: true })
}

/// Makes the file durable, and checks all of it.
fn complete(file: &File, path: &Path) -> Result<(), Status> {
    file.sync_all().map_err(io_status)?;
    snapshot_file::verify(path).map_err(|error| Status::data_loss(error.to_string()))?;
    Ok(())
}

/// The file, to be written from `offset` on.
fn continued(path: &Path, offset: u64) -> Result<File, Status> {
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(offset == 0).open(path);
    let mut file = file.map_err(io_status)?;
    let length = file.seek(SeekFrom::End(0)).map_err(io_status)?;
    if length != offset {
        let message = format!("snapshot continues at {offset}, {length} bytes are here");
        return Err(Status::aborted(message));
    }
    Ok(file)
}

async fn write(mut file: File, data: Bytes) -> Result<File, Status> {
    blocking(move || {
        file.write_all(&data).map_err(io_status)?;
        Ok(file)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = streamhouse_host::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

fn io_status(error: io::Error) -> Status {
    Status::unavailable(format!("snapshot file: {error}"))
}
