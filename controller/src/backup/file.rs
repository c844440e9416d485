//! The format of a backup: all metadata as of one index, as a checksummed
//! stream. Bytes in, bytes out.
//!
//! ```text
//! magic "SHBACKUP" | format version u16 LE
//! header   length u32 LE | CRC-32C u32 LE | Header
//! parts    length u32 LE, not 0 | CRC-32C u32 LE
//!            | (key length u32 LE | value length u32 LE | key | value)*
//! trailer  0 u32 LE | parts u64 LE | pairs u64 LE | XXH3-128 u128 LE of everything before it
//! ```
//!
//! A file without its trailer is no backup. The pairs come in key order, and a
//! part is what one command of a restore carries, so that it fits an entry.
//! The same state gives the same bytes, whichever controller writes them.

use crate::codec;
use crate::state::cluster::Cluster;
use crate::state::command::GenerationKey;
use crate::state::features::NEWEST;
use crate::state::kv::{KvError, KvRead, Value};
use crate::state::{cluster, restore};
use bincode::{Decode, Encode};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"SHBACKUP";
/// The one that this release writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// A part ends once it holds so much.
const PART_BYTES: usize = 256 << 10;
/// BOUND on what a damaged length may make the reader wait for. The largest
/// value is that of one entry of the log.
const MAX_PART_BYTES: usize = PART_BYTES + (8 << 20);
/// Pairs read from the state at once.
const PAGE: usize = 1_000;
const TRAILER: usize = 8 + 8 + 16;

/// What a backup is a backup of.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Header {
    /// The cluster.
    pub cluster: [u8; 16],
    /// Its generation.
    pub generation: GenerationKey,
    /// The index of the last entry in it.
    pub index: u64,
    /// Cluster time at that index.
    pub time_ms: u64,
    /// Sessions of this generation up to this one were opened before.
    pub sessions_upto: u64,
    /// Where the data lies.
    pub store_url: Option<String>,
    /// Encodings that it may use.
    pub feature_level: u32,
}

/// What the trailer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Parts.
    pub parts: u64,
    /// Pairs in them.
    pub pairs: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
}

/// A state that cannot be backed up.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// There is nothing to back up, or only a part of it.
    #[error("{0}")]
    NotNow(&'static str),
    /// It cannot be read.
    #[error(transparent)]
    State(#[from] KvError),
}

/// Writes a backup of one view of the state, piece by piece.
pub struct Encoder<V> {
    view: V,
    header: Header,
    ranges: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// Read and not yet written.
    page: VecDeque<(Vec<u8>, Value)>,
    hash: Xxh3,
    totals: Totals,
    stage: Stage,
}

#[derive(PartialEq)]
enum Stage {
    Header,
    Parts,
    Done,
}

impl<V: KvRead> Encoder<V> {
    /// A backup of what `view` sees, whose last entry is `index`.
    pub fn new(view: V, index: u64) -> Result<Self, EncodeError> {
        if restore::restoring(&view)?.is_some() {
            return Err(EncodeError::NotNow("the cluster is being restored from a backup"));
        }
        let own = cluster::cluster(&view)?;
        let own = own.ok_or(EncodeError::NotNow("the cluster is not initialised yet"))?;
        let Cluster { cluster, generation, store_url, feature_level } = own;
        let header = Header {
            cluster,
            generation,
            index,
            time_ms: cluster::time_ms(&view)?,
            sessions_upto: index + restore::sessions_before(&view)?,
            store_url,
            feature_level,
        };
        Ok(Self {
            view,
            header,
            ranges: restore::backed_up().into(),
            page: VecDeque::new(),
            hash: Xxh3::new(),
            totals: Totals { parts: 0, pairs: 0, bytes: 0 },
            stage: Stage::Header,
        })
    }

    /// What it is a backup of.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was written so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The next piece of the file; `None` after the last.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>, KvError> {
        let mut piece = Vec::with_capacity(PART_BYTES + (PART_BYTES >> 2));
        match self.stage {
            Stage::Done => return Ok(None),
            Stage::Header => {
                piece.extend_from_slice(MAGIC);
                piece.extend(FORMAT_VERSION.to_le_bytes());
                put_block(&mut piece, &codec::encode(&self.header));
                self.stage = Stage::Parts;
            }
            Stage::Parts => {
                let part = self.part()?;
                if part.is_empty() {
                    self.stage = Stage::Done;
                    piece.extend(0u32.to_le_bytes());
                    piece.extend(self.totals.parts.to_le_bytes());
                    piece.extend(self.totals.pairs.to_le_bytes());
                    self.hash.update(&piece);
                    piece.extend(self.hash.digest128().to_le_bytes());
                    self.totals.bytes += piece.len() as u64;
                    return Ok(Some(piece.into()));
                }
                self.totals.parts += 1;
                put_block(&mut piece, &part);
            }
        }
        self.hash.update(&piece);
        self.totals.bytes += piece.len() as u64;
        Ok(Some(piece.into()))
    }

    /// Empty at the end.
    fn part(&mut self) -> Result<Vec<u8>, KvError> {
        let mut part = Vec::with_capacity(PART_BYTES);
        while part.len() < PART_BYTES {
            let Some((key, value)) = self.next_pair()? else { break };
            part.extend((key.len() as u32).to_le_bytes());
            part.extend((value.len() as u32).to_le_bytes());
            part.extend(key);
            part.extend(value);
            self.totals.pairs += 1;
        }
        Ok(part)
    }

    fn next_pair(&mut self) -> Result<Option<(Vec<u8>, Value)>, KvError> {
        while self.page.is_empty() {
            let Some((start, end)) = self.ranges.pop_front() else { return Ok(None) };
            let page = self.view.scan(&start, &end, PAGE)?;
            if let Some((last, _)) = page.last() {
                let mut after = last.clone();
                after.push(0);
                self.ranges.push_front((after, end));
            }
            self.page = page.into();
        }
        Ok(self.page.pop_front())
    }
}

fn put_block(out: &mut Vec<u8>, body: &[u8]) {
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
}

/// Bytes that are no backup that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Something else.
    #[error("is not a backup: it begins with other bytes")]
    NotABackup,
    /// By a newer release.
    #[error("has format version {0}, this release reads up to {FORMAT_VERSION}")]
    Newer(u16),
    /// Of a cluster that used more than this release reads.
    #[error("is of a cluster at feature level {0}, this release reads up to {NEWEST}")]
    NewerLevel(u32),
    /// Changed, or cut off.
    #[error("is damaged: {0}")]
    Damaged(String),
}

fn damaged(what: impl ToString) -> DecodeError {
    DecodeError::Damaged(what.to_string())
}

/// What a backup's bytes turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Comes first.
    Header(Box<Header>),
    /// One part's pairs.
    Part(Vec<(Bytes, Bytes)>),
    /// Comes last; from here on the whole file is known to be sound.
    End(Totals),
}

/// Reads a backup from bytes as they come.
#[derive(Default)]
pub struct Decoder {
    buffer: BytesMut,
    hash: Xxh3,
    parts: u64,
    pairs: u64,
    bytes: u64,
    begun: bool,
    ended: bool,
    /// Of the pair before: they come in order.
    last_key: Bytes,
}

impl Decoder {
    /// Takes more bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next item, if all of it is here.
    pub fn next_item(&mut self) -> Result<Option<Item>, DecodeError> {
        if !self.begun {
            return self.header();
        }
        if self.ended {
            return if self.buffer.is_empty() {
                Ok(None)
            } else {
                Err(damaged("bytes follow the trailer"))
            };
        }
        match self.u32_at(0) {
            Some(0) => self.trailer(),
            _ => match self.block(0)? {
                Some(body) => self.part(body).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Says whether the bytes so far were the whole file.
    pub fn finish(self) -> Result<(), DecodeError> {
        match (self.begun, self.ended) {
            (_, true) => Ok(()),
            (true, false) => Err(damaged("it is cut off")),
            (false, false) if MAGIC.starts_with(&self.buffer[..self.buffer.len().min(8)]) => {
                Err(damaged("it is cut off"))
            }
            (false, false) => Err(DecodeError::NotABackup),
        }
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        let bytes = self.buffer.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn take(&mut self, count: usize) -> Bytes {
        let taken = self.buffer.split_to(count).freeze();
        self.hash.update(&taken);
        self.bytes += count as u64;
        taken
    }

    /// The block that begins `at` bytes from here, taken with what is before.
    fn block(&mut self, at: usize) -> Result<Option<Bytes>, DecodeError> {
        let (Some(length), Some(crc)) = (self.u32_at(at), self.u32_at(at + 4)) else {
            return Ok(None);
        };
        let length = length as usize;
        if length > MAX_PART_BYTES {
            return Err(damaged(format!("a part of {length} bytes")));
        }
        if self.buffer.len() < at + 8 + length {
            return Ok(None);
        }
        let body = self.take(at + 8 + length).slice(at + 8..);
        if crc32c::crc32c(&body) != crc {
            return Err(damaged(format!("the checksum of part {} does not match", self.parts)));
        }
        Ok(Some(body))
    }

    fn header(&mut self) -> Result<Option<Item>, DecodeError> {
        const START: usize = 8 + 2;
        if self.buffer.len() < START {
            return Ok(None);
        }
        if &self.buffer[..8] != MAGIC {
            return Err(DecodeError::NotABackup);
        }
        let version = u16::from_le_bytes([self.buffer[8], self.buffer[9]]);
        if version != FORMAT_VERSION {
            return Err(DecodeError::Newer(version));
        }
        let Some(body) = self.block(START)? else { return Ok(None) };
        self.begun = true;
        // Before the rest of it, which a newer release may have added to.
        let level = codec::decode_beginning::<Header>(&body).map_err(damaged)?.feature_level;
        if level > NEWEST {
            return Err(DecodeError::NewerLevel(level));
        }
        Ok(Some(Item::Header(codec::decode(&body).map_err(damaged)?)))
    }

    fn part(&mut self, mut body: Bytes) -> Result<Item, DecodeError> {
        let mut pairs = Vec::new();
        while !body.is_empty() {
            let cut_off = || damaged("a pair is cut off");
            if body.len() < 8 {
                return Err(cut_off());
            }
            let (key, value) = (body.get_u32_le() as usize, body.get_u32_le() as usize);
            if body.len() < key.saturating_add(value) {
                return Err(cut_off());
            }
            let pair = (body.split_to(key), body.split_to(value));
            if pair.0 <= self.last_key {
                return Err(damaged("its pairs are out of order"));
            }
            self.last_key = pair.0.clone();
            pairs.push(pair);
        }
        self.parts += 1;
        self.pairs += pairs.len() as u64;
        Ok(Item::Part(pairs))
    }

    fn trailer(&mut self) -> Result<Option<Item>, DecodeError> {
        if self.buffer.len() < 4 + TRAILER {
            return Ok(None);
        }
        self.take(4);
        let mut counts = self.take(16);
        let expected = self.hash.digest128();
        let mut found = self.buffer.split_to(16);
        self.bytes += 16;
        let counts = (counts.get_u64_le(), counts.get_u64_le());
        if counts != (self.parts, self.pairs) || found.get_u128_le() != expected {
            return Err(damaged("its parts do not add up to the checksum of all"));
        }
        self.ended = true;
        let Self { parts, pairs, bytes, .. } = *self;
        Ok(Some(Item::End(Totals { parts, pairs, bytes })))
    }
}
