//! Receiving a snapshot: chunks go to a file as they come, and the file is
//! checked from start to end before Raft hears of it.

use super::snapshot_file;
use super::snapshot_store::{SnapshotFile, SnapshotStore};
use bytes::Bytes;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use streamhouse_proto::v1::SnapshotChunk;
use tonic::{Status, Streaming};

/// A sender that is silent for so long is given up.
const IDLE: Duration = Duration::from_secs(10);

/// Removes the file unless it was kept.
struct Unfinished {
    path: PathBuf,
    kept: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The next chunk of a call.
pub(crate) async fn next(chunks: &mut Streaming<SnapshotChunk>) -> Result<SnapshotChunk, Status> {
    match tokio::time::timeout(IDLE, chunks.message()).await {
        Ok(chunk) => chunk?.ok_or_else(|| Status::invalid_argument("snapshot is cut off")),
        Err(_) => Err(Status::deadline_exceeded("snapshot stopped coming")),
    }
}

/// Writes the chunks after the first to a file, and checks it.
pub(crate) async fn receive(
    mut chunks: Streaming<SnapshotChunk>,
    store: &SnapshotStore,
) -> Result<SnapshotFile, Status> {
    let mut unfinished = Unfinished { path: store.incoming(), kept: false };
    let path = unfinished.path.clone();
    let mut file = blocking(move || File::create(&path).map_err(io_status)).await?;
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
    let path = unfinished.path.clone();
    let file = blocking(move || {
        file.sync_all().map_err(io_status)?;
        snapshot_file::verify(&path).map_err(|e| Status::data_loss(e.to_string()))?;
        File::open(&path).map_err(io_status)
    })
    .await?;
    unfinished.kept = true;
    let path = unfinished.path.clone();
    Ok(SnapshotFile { path, file: Arc::new(file), verified: true })
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
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

fn io_status(error: std::io::Error) -> Status {
    Status::unavailable(format!("snapshot file: {error}"))
}
