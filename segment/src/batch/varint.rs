//! Zigzag varints, as Kafka's records use them for lengths, counts and deltas, and the cursors that write and read them.
//!
//! Source: the Kafka protocol documentation, "VARINT" and "VARLONG" (Protocol Buffers' signed encoding).

/// Why a record could not be read further; the caller adds which record it was.
pub(super) type Problem = &'static str;

#[inline(always)]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// How many bytes `value` takes.
#[inline(always)]
pub(super) fn len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Fills room that was made for what is written: a record's length is known before its first byte.
pub(super) struct Writer<'a> {
    room: &'a mut [u8],
    position: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self { room, position: 0 }
    }

    /// Whether all room was used.
    pub(super) fn is_full(&self) -> bool {
        self.position == self.room.len()
    }

    #[inline(always)]
    pub(super) fn byte(&mut self, byte: u8) {
        self.room[self.position] = byte;
        self.position += 1;
    }

    #[inline(always)]
    pub(super) fn varint(&mut self, value: i64) {
        let mut rest = zigzag(value);
        while rest >= 0x80 {
            self.byte(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    /// A field behind its length; -1 for null.
    #[inline(always)]
    pub(super) fn field(&mut self, field: Option<&[u8]>) {
        let Some(bytes) = field else { return self.varint(-1) };
        self.varint(bytes.len() as i64);
        let end = self.position + bytes.len();
        self.room[self.position..end].copy_from_slice(bytes);
        self.position = end;
    }
}

/// Reads on from `position`, never past the end of `bytes`.
///
/// Everything here is inlined into the one loop over a batch's records: called instead, the steps cost more than what
/// they do.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    #[inline(always)]
    pub(super) fn byte(&mut self) -> Result<u8, Problem> {
        let byte = *self.bytes.get(self.position).ok_or("it ends early")?;
        self.position += 1;
        Ok(byte)
    }

    #[inline(always)]
    pub(super) fn varlong(&mut self) -> Result<i64, Problem> {
        let first = self.byte()?;
        let mut value = u64::from(first & 0x7f);
        if first >= 0x80 {
            // Lengths of keys and values rarely need a third byte.
            let second = self.byte()?;
            value |= u64::from(second & 0x7f) << 7;
            if second >= 0x80 {
                value |= self.varint_tail()?;
            }
        }
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// The bits that follow the first fourteen.
    #[inline(never)]
    fn varint_tail(&mut self) -> Result<u64, Problem> {
        let mut value = 0;
        for shift in (14..64).step_by(7) {
            let byte = self.byte()?;
            // The tenth byte has room for the 64th bit only.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a varint is longer than 64 bits")
    }

    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<i32, Problem> {
        i32::try_from(self.varlong()?).map_err(|_| "a varint is longer than 32 bits")
    }

    /// A count or length that must not be negative and whose subject must still fit into what is left.
    #[inline(always)]
    pub(super) fn length(&mut self) -> Result<usize, Problem> {
        let length = usize::try_from(self.varint()?).map_err(|_| "a length is negative")?;
        if length > self.remaining() {
            return Err("a length points past the end");
        }
        Ok(length)
    }

    /// The position of a length-prefixed field, `None` for null (length -1).
    #[inline(always)]
    pub(super) fn nullable(&mut self) -> Result<Option<Span>, Problem> {
        let length = self.varint()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| "a length is negative")?;
        self.take(length).map(Some)
    }

    /// The position of the next `length` bytes, which are skipped.
    #[inline(always)]
    pub(super) fn take(&mut self, length: usize) -> Result<Span, Problem> {
        if length > self.remaining() {
            return Err("a length points past the end");
        }
        let start = self.position;
        self.position += length;
        Ok(Span { start, end: self.position })
    }
}

/// A range of the buffer under the cursor; always within it.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    #[inline(always)]
    pub(super) fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(value: i64) -> Vec<u8> {
        let mut buffer = vec![0; len(value)];
        let mut writer = Writer::new(&mut buffer);
        writer.varint(value);
        assert!(writer.is_full(), "its length is known beforehand");
        buffer
    }

    #[test]
    fn varints_are_the_ones_of_the_protocol_documentation() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (300, &[0xd8, 0x04]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ] {
            assert_eq!(put(value), bytes, "{value}");
        }
    }

    #[test]
    fn a_varint_that_never_ends_is_refused() {
        assert!(Cursor::new(&[0xff; 11], 0).varlong().is_err());
        assert!(Cursor::new(&[0xff; 3], 0).varlong().is_err());
        let mut too_wide = [0xff; 10];
        too_wide[9] = 0x02;
        assert!(Cursor::new(&too_wide, 0).varlong().is_err());
    }

    #[test]
    fn a_varint_over_32_bits_is_no_length() {
        let buffer = put(i64::from(i32::MAX) + 1);
        assert!(Cursor::new(&buffer, 0).varint().is_err());
    }

    proptest! {
        #[test]
        fn a_varint_reads_back_and_its_length_is_known(value: i64) {
            let buffer = put(value);
            let mut cursor = Cursor::new(&buffer, 0);
            prop_assert_eq!(cursor.varlong(), Ok(value));
            prop_assert_eq!(cursor.remaining(), 0);
        }
    }
}
