//! LZ4 frames, written and read around lz4_flex's blocks.
//!
//! Source: the LZ4 frame format description, version 1.6.4 (`doc/lz4_Frame_format.md` of the reference
//! implementation), and KIP-57 on how Kafka uses it. Kafka's Java client reads only frames with independent blocks,
//! so that is what we write; librdkafka and others may write linked ones, so those are read too.
//!
//! ```text
//! frame   magic 0x184D2204 (LE), FLG, BD, [content size u64], [dictionary id u32], header checksum u8,
//!         blocks, end mark (u32 0), [content checksum u32]
//! block   size u32 (top bit: stored, not compressed), bytes, [block checksum u32]
//! ```
//!
//! We handle frames ourselves for two reasons: a block is decompressed straight into its place in the one buffer that
//! consumers slice, and sizes are known from the block headers before that buffer is allocated (invariant BOUND). The
//! frame's own xxHash checksums are not checked: every byte of it is under the batch's CRC-32C.

use std::cell::RefCell;

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, decompress_into_with_dict,
    get_maximum_output_size,
};

use super::{BatchError, Limits};

const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// FLG: version 1, independent blocks, no checksums, no content size. BD: blocks of at most 64 KiB. Then the second
/// byte of the xxHash-32 of these two.
const DESCRIPTOR: [u8; 3] = [0x60, 0x40, 0x82];
const BLOCK_BYTES: usize = 64 << 10;
const END_MARK: [u8; 4] = [0; 4];
/// In a block's size: the block is stored as it is.
const STORED: u32 = 1 << 31;
/// How far back a match may reach.
const WINDOW_BYTES: usize = 64 << 10;
/// No input byte of a compressed block yields more output than this.
const MAX_RATIO: usize = 255;

/// The most that `len` bytes can become: all blocks stored.
pub(super) const fn worst_case_bytes(len: usize) -> usize {
    MAGIC.len() + DESCRIPTOR.len() + len.div_ceil(BLOCK_BYTES) * 4 + len + END_MARK.len()
}

/// What compressing needs besides input and output, kept by each thread from one batch to the next: allocated anew, its
/// pages would cost as much as what is written to them.
struct Scratch {
    table: CompressTable,
    /// The compressed blocks, one after the other, and room for the worst case of one more.
    blocks: Vec<u8>,
    /// How long each block of the input is in there; `None` for one that is stored.
    sizes: Vec<Option<usize>>,
}

/// BOUND: a thread keeps no more than this, whatever it has compressed.
const MAX_SCRATCH_BYTES: usize = 2 << 20;
/// A block, or a whole frame, that LZ4 makes shorter by less than one part in so many is not worth what it costs to read it
/// back.
const LEAST_GAIN: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        table: CompressTable::large(),
        blocks: Vec::new(),
        sizes: Vec::new(),
    });
}

/// One frame with all of `input`, behind `room` zero bytes. `None` if that would be to copy a block or more for next to
/// nothing.
pub(super) fn compress(room: usize, input: &[u8]) -> Option<Vec<u8>> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.fill(input);
        let frame = scratch.frame(room, input);
        scratch.trim();
        frame
    })
}

impl Scratch {
    /// Compresses the blocks that are worth it.
    fn fill(&mut self, input: &[u8]) {
        self.sizes.clear();
        let mut at = 0;
        for block in input.chunks(BLOCK_BYTES) {
            let end = at + get_maximum_output_size(block.len());
            if self.blocks.len() < end {
                self.blocks.resize(end, 0);
            }
            let room = &mut self.blocks[at..end];
            let most = block.len() - block.len().div_ceil(LEAST_GAIN);
            let size = compress_into_with_table(block, room, &mut self.table).ok();
            let size = size.filter(|size| *size <= most);
            self.sizes.push(size);
            at += size.unwrap_or(0);
        }
    }

    /// The frame of these blocks; those that are stored are copied this once.
    fn frame(&self, room: usize, input: &[u8]) -> Option<Vec<u8>> {
        let blocks = || self.sizes.iter().zip(input.chunks(BLOCK_BYTES));
        let bodies: usize = blocks().map(|(size, block)| 4 + size.unwrap_or(block.len())).sum();
        if input.len() >= BLOCK_BYTES && bodies > input.len() - input.len() / LEAST_GAIN {
            return None;
        }
        let around = MAGIC.len() + DESCRIPTOR.len() + END_MARK.len();
        let mut output = Vec::with_capacity(room + around + bodies);
        output.resize(room, 0);
        output.extend_from_slice(&MAGIC);
        output.extend_from_slice(&DESCRIPTOR);
        let mut at = 0;
        for (size, block) in blocks() {
            let (mark, body) = match *size {
                Some(size) => (size as u32, &self.blocks[at..at + size]),
                None => (block.len() as u32 | STORED, block),
            };
            output.extend_from_slice(&mark.to_le_bytes());
            output.extend_from_slice(body);
            at += size.unwrap_or(0);
        }
        output.extend_from_slice(&END_MARK);
        Some(output)
    }

    fn trim(&mut self) {
        if self.blocks.len() > MAX_SCRATCH_BYTES {
            self.blocks = Vec::new();
        }
    }
}

/// What a frame's descriptor says.
struct Frame {
    independent: bool,
    block_checksums: bool,
    content_checksum: bool,
    content_size: Option<u64>,
    /// The most that one block may decompress to.
    block_limit: usize,
}

/// Reads on in a frame.
struct Reader<'a> {
    input: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BatchError> {
        let rest = &self.input[self.position..];
        let taken = rest.get(..len).ok_or_else(|| self.problem("the frame ends early"))?;
        self.position += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let bytes = self.take(N)?;
        Ok(*bytes.first_chunk().expect("take returns what was asked for"))
    }

    fn problem(&self, problem: &'static str) -> BatchError {
        BatchError::MalformedLz4 { position: self.position as u64, problem }
    }

    fn descriptor(&mut self) -> Result<Frame, BatchError> {
        if self.array()? != MAGIC {
            return Err(self.problem("the magic number is not that of a frame"));
        }
        let [flags, sizes] = self.array()?;
        if flags >> 6 != 1 || flags & 0b10 != 0 || sizes & 0b1000_1111 != 0 {
            return Err(self.problem("unknown version or reserved bits set"));
        }
        if flags & 1 != 0 {
            return Err(self.problem("it needs a dictionary"));
        }
        let block_limit = match sizes >> 4 {
            code @ 4..=7 => 1 << (2 * usize::from(code) + 8),
            _ => return Err(self.problem("unknown block size")),
        };
        let content_size =
            if flags & (1 << 3) == 0 { None } else { Some(u64::from_le_bytes(self.array()?)) };
        self.take(1)?; // header checksum
        Ok(Frame {
            independent: flags & (1 << 5) != 0,
            block_checksums: flags & (1 << 4) != 0,
            content_checksum: flags & (1 << 2) != 0,
            content_size,
            block_limit,
        })
    }

    /// The next block, `None` at the end mark.
    fn block(&mut self, frame: &Frame) -> Result<Option<Block<'a>>, BatchError> {
        let size = u32::from_le_bytes(self.array()?);
        if size == 0 {
            return Ok(None);
        }
        let len = (size & !STORED) as usize;
        if len > frame.block_limit {
            return Err(self.problem("a block is larger than the frame allows"));
        }
        let bytes = self.take(len)?;
        if frame.block_checksums {
            self.take(4)?;
        }
        Ok(Some(Block { bytes, stored: size & STORED != 0 }))
    }
}

struct Block<'a> {
    bytes: &'a [u8],
    stored: bool,
}

impl Block<'_> {
    /// The most this block can decompress to.
    fn bound(&self, frame: &Frame) -> usize {
        if self.stored {
            self.bytes.len()
        } else {
            (self.bytes.len() * MAX_RATIO).min(frame.block_limit)
        }
    }
}

/// The content of the one frame that `input` is.
pub(super) fn decompress(input: &[u8], limits: &Limits) -> Result<Vec<u8>, BatchError> {
    let capacity = capacity(input, limits)?;
    let mut output = vec![0; capacity];
    let filled = fill(input, &mut output, limits)?;
    output.truncate(filled);
    if filled < capacity / 2 {
        output.shrink_to_fit();
    }
    Ok(output)
}

/// The same into the beginning of `output`; returns how much of it that took. Refused is what may not fit there.
pub(super) fn decompress_to(
    input: &[u8],
    output: &mut [u8],
    limits: &Limits,
) -> Result<usize, BatchError> {
    let capacity = capacity(input, limits)?;
    let limit = output.len() as u64;
    let output = output.get_mut(..capacity).ok_or(BatchError::DecompressedTooLarge { limit })?;
    fill(input, output, limits)
}

/// BOUND: how much room decompressing takes: never more than the limit, and never more than the frame can fill.
fn capacity(input: &[u8], limits: &Limits) -> Result<usize, BatchError> {
    let limit = limits.max_decompressed_bytes;
    let mut reader = Reader { input, position: 0 };
    let frame = reader.descriptor()?;
    let bound = content_bound(&mut reader, &frame)?;
    match frame.content_size {
        Some(size) if size > limit as u64 => {
            Err(BatchError::DecompressedTooLarge { limit: limit as u64 })
        }
        Some(size) => Ok(bound.min(size as usize)),
        None => Ok(bound.min(limit)),
    }
}

/// Decompresses a frame that is whole into as much as it may take.
fn fill(input: &[u8], output: &mut [u8], limits: &Limits) -> Result<usize, BatchError> {
    let limit = limits.max_decompressed_bytes;
    let capacity = output.len();
    let mut reader = Reader { input, position: 0 };
    let frame = reader.descriptor()?;
    let mut filled = 0;
    while let Some(block) = reader.block(&frame)? {
        let end = capacity.min(filled + frame.block_limit);
        match decompress_block(&block, output, filled, end, &frame) {
            Some(len) => filled += len,
            None if end == capacity && capacity == limit => {
                return Err(BatchError::DecompressedTooLarge { limit: limit as u64 });
            }
            None => return Err(reader.problem("a block does not decompress")),
        }
    }
    if frame.content_size.is_some_and(|size| size != filled as u64) {
        return Err(reader.problem("the content is not as long as the frame says"));
    }
    Ok(filled)
}

/// The most that the one frame which `input` is can decompress to, by its block headers alone: nothing is decompressed.
///
/// Refused is a frame that is not whole, and one that could decompress to more than the limit. A frame's last block
/// need not be full, so that an honest one may seem up to a block larger than it is: it has that much grace.
pub(super) fn decompressed_bound(input: &[u8], limits: &Limits) -> Result<usize, BatchError> {
    let limit = limits.max_decompressed_bytes;
    let mut reader = Reader { input, position: 0 };
    let frame = reader.descriptor()?;
    let bound = content_bound(&mut reader, &frame)?;
    let (bound, claimed, most) = match frame.content_size.map(usize::try_from) {
        None => (bound, bound, limit.checked_next_multiple_of(frame.block_limit).unwrap_or(limit)),
        Some(size) => {
            let size = size.unwrap_or(usize::MAX);
            (bound.min(size), size, limit)
        }
    };
    if claimed > most {
        return Err(BatchError::DecompressedTooLarge { limit: limit as u64 });
    }
    Ok(bound.min(limit))
}

/// Walks over all blocks without decompressing them, checks that the frame is whole and nothing follows, and returns
/// the most it can decompress to.
fn content_bound(reader: &mut Reader<'_>, frame: &Frame) -> Result<usize, BatchError> {
    let mut bound = 0_usize;
    while let Some(block) = reader.block(frame)? {
        bound = bound.saturating_add(block.bound(frame));
    }
    if frame.content_checksum {
        reader.take(4)?;
    }
    if reader.position != reader.input.len() {
        return Err(reader.problem("bytes follow the frame"));
    }
    Ok(bound)
}

/// Decompresses a block into `output[start..end]` and returns how much that was, `None` if it is broken or too long.
fn decompress_block(
    block: &Block<'_>,
    output: &mut [u8],
    start: usize,
    end: usize,
    frame: &Frame,
) -> Option<usize> {
    if block.stored {
        let target = output[start..end].get_mut(..block.bytes.len())?;
        target.copy_from_slice(block.bytes);
        return Some(block.bytes.len());
    }
    let (before, rest) = output.split_at_mut(start);
    let target = &mut rest[..end - start];
    if frame.independent || before.is_empty() {
        decompress_into(block.bytes, target).ok()
    } else {
        let window = &before[before.len().saturating_sub(WINDOW_BYTES)..];
        decompress_into_with_dict(block.bytes, target, window).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
    use std::io::{Read, Write};

    /// Compressible, yet not the same everywhere.
    fn text(len: usize) -> Vec<u8> {
        (0..)
            .flat_map(|n: u32| format!("{} flights, ", n * n % 1013).into_bytes())
            .take(len)
            .collect()
    }

    #[test]
    fn another_decoder_reads_our_frames_and_checks_their_header() {
        for len in [1, 12, 13, 1000, 65_534, 65_535, 65_536, 65_537, 300_000] {
            let input = text(len);
            let frame = compress(3, &input).unwrap();
            assert!(frame.len() <= 3 + worst_case_bytes(len));
            let mut output = Vec::new();
            FrameDecoder::new(&frame[3..]).read_to_end(&mut output).unwrap();
            assert_eq!(output, input, "{len}");
            assert_eq!(decompress(&frame[3..], &Limits::default()).unwrap(), input);
        }
    }

    /// Bytes that no compression makes fewer (xorshift: G. Marsaglia, *Xorshift RNGs*, 2003).
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn what_does_not_shrink_is_stored_and_makes_no_frame_of_its_own() {
        // One part in sixteen is the least that counts.
        let mixed = |repeated: usize| [noise(BLOCK_BYTES - repeated), vec![7; repeated]].concat();
        assert_eq!(compress(0, &noise(300_000)), None);
        assert_eq!(compress(0, &mixed(BLOCK_BYTES / 17)), None);
        assert_eq!(compress(0, &[mixed(BLOCK_BYTES / 2), noise(15 * BLOCK_BYTES)].concat()), None);
        let gained = compress(0, &mixed(BLOCK_BYTES / 12)).unwrap();
        assert!(gained.len() < BLOCK_BYTES - BLOCK_BYTES / 16);
        // Below a block there is nothing to save, and a frame is what was asked for.
        assert!(
            compress(0, &noise(BLOCK_BYTES - 1)).is_some_and(|frame| frame.len() > BLOCK_BYTES)
        );
        let input = [noise(2 * BLOCK_BYTES), text(BLOCK_BYTES), noise(1_000)].concat();
        let frame = compress(0, &input).unwrap();
        assert!((2 * BLOCK_BYTES + 1_000..3 * BLOCK_BYTES).contains(&frame.len()));
        let at = MAGIC.len() + DESCRIPTOR.len() + 4;
        assert_eq!(frame[at..at + BLOCK_BYTES], input[..BLOCK_BYTES]);
        let mut output = Vec::new();
        FrameDecoder::new(&frame[..]).read_to_end(&mut output).unwrap();
        assert_eq!(output, input);
        assert_eq!(decompress(&frame, &Limits::default()).unwrap(), input);
    }

    #[test]
    fn frames_of_every_kind_are_read() {
        let input = text(700_000);
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for size in
                [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB]
            {
                for extras in [false, true] {
                    let info = FrameInfo::new()
                        .block_mode(mode)
                        .block_size(size)
                        .block_checksums(extras)
                        .content_checksum(extras)
                        .content_size(extras.then_some(input.len() as u64));
                    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                    encoder.write_all(&input).unwrap();
                    let frame = encoder.finish().unwrap();
                    assert_eq!(decompress(&frame, &Limits::default()).unwrap(), input);
                }
            }
        }
    }

    #[test]
    fn content_over_the_limit_is_refused_and_at_the_limit_is_not() {
        let input = text(200_000);
        let frame = compress(0, &input).unwrap();
        let limits =
            |max_decompressed_bytes| Limits { max_decompressed_bytes, ..Limits::default() };
        assert_eq!(decompress(&frame, &limits(200_000)).unwrap(), input);
        assert_eq!(
            decompress(&frame, &limits(199_999)),
            Err(BatchError::DecompressedTooLarge { limit: 199_999 })
        );
    }

    #[test]
    fn a_buffer_that_was_used_before_takes_what_fits_and_nothing_more() {
        let input = text(200_000);
        let frame = compress(0, &input).unwrap();
        let limits = Limits::default();
        let bound = decompressed_bound(&frame, &limits).unwrap();
        let mut buffer = vec![7; bound + 1_000];
        let filled = decompress_to(&frame, &mut buffer, &limits).unwrap();
        assert_eq!(buffer[..filled], input);
        let limit = bound as u64 - 1;
        assert_eq!(
            decompress_to(&frame, &mut buffer[..bound - 1], &limits),
            Err(BatchError::DecompressedTooLarge { limit })
        );
    }

    #[test]
    fn a_claimed_content_size_allocates_nothing_and_must_be_true() {
        for claimed in [u64::MAX, 64 << 20, 999, 0] {
            let info = FrameInfo::new().content_size(Some(1000));
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&text(1000)).unwrap();
            let mut frame = encoder.finish().unwrap();
            assert!(decompress(&frame, &Limits::default()).is_ok());
            frame[6..14].copy_from_slice(&claimed.to_le_bytes());
            assert!(decompress(&frame, &Limits::default()).is_err(), "{claimed}");
        }
    }

    #[test]
    fn a_frame_cut_anywhere_or_followed_by_anything_is_refused() {
        let mut frame = compress(0, &text(500)).unwrap();
        for len in 0..frame.len() {
            assert!(decompress(&frame[..len], &Limits::default()).is_err(), "{len}");
        }
        frame.push(0);
        assert!(decompress(&frame, &Limits::default()).is_err());
    }
}
