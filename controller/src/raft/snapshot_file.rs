//! Snapshot files: the whole state at one log index, as a checksummed stream.
//!
//! ```text
//! magic "SHSNAP01"
//! header   length u32 LE | CRC-32C u32 LE | SnapshotHeader
//! blocks   length u32 LE, not 0 | CRC-32C u32 LE
//!            | (key length u32 LE | value length u32 LE | key | value)*
//! trailer  0 u32 LE | CRC-32C u32 LE of what follows | pairs u64 LE | state hash u128 LE
//! ```
//!
//! A file without its trailer, or whose pairs do not add up to the state hash,
//! is not a snapshot.

use super::db::ReadError;
use super::hash;
use super::meta::AppliedMeta;
use super::types::SnapshotMeta;
use super::view::StateView;
use crate::codec;
use crate::state::features;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"SHSNAP01";
const BLOCK_BYTES: usize = 64 << 10;
const SYNC_BYTES: usize = 4 << 20;
/// BOUND on what a damaged length may make the reader allocate; the largest
/// value of the state is far smaller.
const MAX_BLOCK_BYTES: usize = 80 << 20;

/// A snapshot file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("snapshot file: {0}")]
    Io(#[from] io::Error),
    #[error("snapshot file is damaged: {0}")]
    Damaged(String),
    #[error("snapshot file: {0}")]
    State(String),
}

impl From<ReadError> for SnapshotError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(what) => Self::Damaged(what),
            ReadError::Failed(what) => Self::Io(io::Error::other(what)),
        }
    }
}

fn damaged(what: impl ToString) -> SnapshotError {
    SnapshotError::Damaged(what.to_string())
}

/// What a snapshot with this applied state is called by openraft.
pub(crate) fn snapshot_meta(applied: &AppliedMeta) -> SnapshotMeta {
    SnapshotMeta { last_log_id: applied.last_applied, last_membership: applied.membership.clone() }
}

/// Syncs as it goes, so that the log, on the same disk, never has to wait for
/// all of a large snapshot at once.
struct Steady {
    file: File,
    unsynced: usize,
}

impl Write for Steady {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unsynced += written;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes the state that `view` sees to a new file at `path` and syncs it.
pub(crate) fn write(path: &Path, view: &StateView) -> Result<(), SnapshotError> {
    let file = Steady { file: File::create(path)?, unsynced: 0 };
    let mut out = BufWriter::with_capacity(1 << 18, file);
    out.write_all(MAGIC)?;
    write_block(&mut out, &codec::encode_serde(view.meta()))?;
    let (mut block, mut pairs) = (Vec::with_capacity(BLOCK_BYTES), 0u64);
    let mut iterator = view.iterate();
    while let Some((key, value)) = iterator.item() {
        let lengths = [key.len() as u32, value.len() as u32];
        lengths.iter().for_each(|length| block.extend(length.to_le_bytes()));
        block.extend_from_slice(key);
        block.extend_from_slice(value);
        pairs += 1;
        if block.len() >= BLOCK_BYTES {
            write_block(&mut out, &block)?;
            block.clear();
        }
        iterator.next();
    }
    iterator.status().map_err(ReadError::from)?;
    if !block.is_empty() {
        write_block(&mut out, &block)?;
    }
    let mut trailer = pairs.to_le_bytes().to_vec();
    trailer.extend(view.state_hash().to_le_bytes());
    out.write_all(&0u32.to_le_bytes())?;
    out.write_all(&crc32c::crc32c(&trailer).to_le_bytes())?;
    out.write_all(&trailer)?;
    let steady = out.into_inner().map_err(|e| e.into_error())?;
    steady.file.sync_all()?;
    Ok(())
}

fn write_block(out: &mut impl Write, body: &[u8]) -> io::Result<()> {
    out.write_all(&(body.len() as u32).to_le_bytes())?;
    out.write_all(&crc32c::crc32c(body).to_le_bytes())?;
    out.write_all(body)
}

/// Reads a snapshot file from start to end.
pub(crate) struct SnapshotReader {
    input: BufReader<File>,
    applied: AppliedMeta,
    block: Vec<u8>,
    pairs: u64,
    hash: u128,
}

impl SnapshotReader {
    /// Opens `path` and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let mut input = BufReader::with_capacity(1 << 18, File::open(path)?);
        let mut magic = [0; 8];
        read_exact(&mut input, &mut magic)?;
        if &magic != MAGIC {
            return Err(damaged("it begins with other bytes"));
        }
        let mut block = Vec::new();
        if !read_block(&mut input, &mut block)? {
            return Err(damaged("it has no header"));
        }
        let applied = codec::decode_serde(&block).map_err(damaged)?;
        Ok(Self { input, applied, block, pairs: 0, hash: hash::EMPTY })
    }

    /// What the state in it is the state of.
    pub(crate) fn applied(&self) -> &AppliedMeta {
        &self.applied
    }

    /// Calls `each` with the next block's pairs; false after the last block,
    /// when the trailer was found to hold.
    pub(crate) fn next_block(
        &mut self,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<bool, SnapshotError> {
        if !read_block(&mut self.input, &mut self.block)? {
            self.check_trailer()?;
            return Ok(false);
        }
        let mut rest = self.block.as_slice();
        while !rest.is_empty() {
            let (key, value);
            (key, value, rest) = split_pair(rest).ok_or_else(|| damaged("a pair is cut off"))?;
            self.hash = self.hash.wrapping_add(hash::of_pair(key, value));
            self.pairs += 1;
            each(key, value);
        }
        Ok(true)
    }

    fn check_trailer(&mut self) -> Result<(), SnapshotError> {
        let mut trailer = [0; 4 + 8 + 16];
        read_exact(&mut self.input, &mut trailer)?;
        let mut expected = self.pairs.to_le_bytes().to_vec();
        expected.extend(self.hash.to_le_bytes());
        let crc = crc32c::crc32c(&expected).to_le_bytes();
        if trailer[..4] != crc || trailer[4..] != expected || self.hash != self.applied.state_hash {
            return Err(damaged("its pairs do not add up to the state hash"));
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(damaged("bytes follow the trailer"));
        }
        Ok(())
    }
}

/// Reads the whole file and says what it is a snapshot of.
pub(crate) fn verify(path: &Path) -> Result<AppliedMeta, SnapshotError> {
    let mut reader = SnapshotReader::open(path)?;
    while reader.next_block(|_, _| ())? {}
    Ok(reader.applied)
}

/// The feature level of the state in the file; 0 if that states none.
pub(crate) fn feature_level(path: &Path) -> Result<u32, SnapshotError> {
    let mut found = None;
    // The pair that states it is the first.
    SnapshotReader::open(path)?.next_block(|key, value| {
        found = found.take().or_else(|| features::stated(key, value));
    })?;
    Ok(found.transpose().map_err(damaged)?.unwrap_or(0))
}

fn split_pair(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_length, rest) = bytes.split_first_chunk::<4>()?;
    let (value_length, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_length) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_length) as usize)?;
    Some((key, value, rest))
}

/// False at the trailer's mark.
fn read_block(input: &mut impl Read, block: &mut Vec<u8>) -> Result<bool, SnapshotError> {
    let length = read_u32(input)? as usize;
    if length == 0 {
        return Ok(false);
    }
    if length > MAX_BLOCK_BYTES {
        return Err(damaged(format!("a block of {length} bytes")));
    }
    let crc = read_u32(input)?;
    block.resize(length, 0);
    read_exact(input, block)?;
    if crc32c::crc32c(block) != crc {
        return Err(damaged("a block's checksum does not match"));
    }
    Ok(true)
}

fn read_u32(input: &mut impl Read) -> Result<u32, SnapshotError> {
    let mut bytes = [0; 4];
    read_exact(input, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_exact(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => error.into(),
    })
}
