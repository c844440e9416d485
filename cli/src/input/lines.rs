//! Cutting a source into lines without copying them: a block of bytes is read, and its lines are slices of it.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use memchr::{memchr_iter, memrchr};

/// How much is asked for at once.
const READ_BYTES: usize = 256 << 10;

/// BOUND: the longest line that is held in memory. Far above what any cluster takes as a record; there the answer
/// is the cluster's, here it is ours.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 20;

/// Reads a source block by block.
pub(crate) struct Blocks<R> {
    reader: R,
    /// The beginning of a line whose end was not read yet.
    rest: BytesMut,
    ended: bool,
}

/// Whole lines, back to back, each with its newline; the last of a source may be without.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block(pub(crate) Bytes);

/// Why no further block could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("reading the input: {0}")]
    Io(#[from] io::Error),
    #[error("a line is longer than {MAX_LINE_BYTES} bytes")]
    LongLine,
}

impl<R: Read> Blocks<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, rest: BytesMut::new(), ended: false }
    }

    /// The next block, as soon as a whole line was read; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Block>, ReadError> {
        while !self.ended {
            let filled = self.rest.len();
            self.rest.resize(filled + READ_BYTES, 0);
            let read = read_some(&mut self.reader, &mut self.rest[filled..]);
            self.rest.truncate(filled + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                self.ended = true;
                break;
            }
            if let Some(last) = memrchr(b'\n', &self.rest[filled..]) {
                return Ok(Some(Block(self.rest.split_to(filled + last + 1).freeze())));
            }
            if self.rest.len() > MAX_LINE_BYTES {
                return Err(ReadError::LongLine);
            }
        }
        let last = self.rest.split().freeze();
        Ok((!last.is_empty()).then_some(Block(last)))
    }
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Block {
    /// The lines without their newlines; nothing else is taken off.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let ended = self.0.last() != Some(&b'\n');
        let ends = memchr_iter(b'\n', &self.0).chain(ended.then_some(self.0.len()));
        let mut start = 0;
        ends.map(move |end| {
            let line = &self.0[start..end];
            start = end + 1;
            line
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hands out a few bytes at a time, as a pipe may.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.1.min(buffer.len());
            self.0.take(step as u64).read(buffer).inspect(|read| self.0 = &self.0[*read..])
        }
    }

    fn lines(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut blocks = Blocks::new(Dribble(bytes, step));
        let mut lines = Vec::new();
        while let Some(block) = blocks.next().unwrap() {
            lines.extend(block.lines().map(<[u8]>::to_vec));
        }
        lines
    }

    #[test]
    fn only_the_newline_is_taken_off() {
        assert_eq!(lines(b"a\r\n\n b \nlast", 3), [&b"a\r"[..], b"", b" b ", b"last"]);
    }

    #[test]
    fn a_final_newline_begins_no_line() {
        assert_eq!(lines(b"a\n", 100), [&b"a"[..]]);
        assert_eq!(lines(b"\n", 100), [&b""[..]]);
        assert!(lines(b"", 100).is_empty());
    }

    #[test]
    fn a_line_is_given_out_before_the_next_is_complete() {
        let mut blocks = Blocks::new(Dribble(b"typed\nbeing typ", 7));
        let block = blocks.next().unwrap().unwrap();
        assert_eq!(block.lines().collect::<Vec<_>>(), [&b"typed"[..]]);
    }

    #[test]
    fn a_line_longer_than_a_read_is_put_together() {
        let long = vec![b'x'; READ_BYTES * 2 + 7];
        let bytes = [&long[..], b"\nend"].concat();
        assert_eq!(lines(&bytes, usize::MAX), [&long[..], b"end"]);
    }

    proptest! {
        #[test]
        fn lines_joined_are_the_input(bytes in "[ab\r\n]{0,40}", step in 1usize..10) {
            let lines = lines(bytes.as_bytes(), step);
            let mut joined = lines.join(&b'\n');
            if bytes.ends_with('\n') {
                joined.push(b'\n');
            }
            prop_assert_eq!(joined, bytes.as_bytes());
        }
    }
}
