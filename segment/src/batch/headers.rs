//! Record headers (KIP-82), left encoded until somebody asks for them: a record without any costs nothing.

use std::borrow::Cow;

use bytes::Bytes;

use super::varint::{Cursor, Problem};

/// A record's headers, in the order in which the producer gave them; names may repeat.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Headers {
    count: u32,
    /// The encoded headers, already found well-formed.
    bytes: Bytes,
}

impl Headers {
    pub(super) fn new(count: u32, bytes: Bytes) -> Self {
        Self { count, bytes }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All headers, by name and value; a value may be null. A name that is not UTF-8 has its wrong bytes replaced, as
    /// Kafka's own clients do.
    pub fn iter(&self) -> HeadersIter<'_> {
        self.as_ref().iter()
    }

    /// The value of the last header with this name, the one that counts by Kafka's convention. `None` if there is no
    /// such header or its value is null.
    pub fn last(&self, name: &str) -> Option<&[u8]> {
        self.as_ref().last(name)
    }

    /// The same headers, borrowed.
    pub fn as_ref(&self) -> HeadersRef<'_> {
        HeadersRef { count: self.count, bytes: &self.bytes }
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// A record's headers, borrowed from the batch.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct HeadersRef<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> HeadersRef<'a> {
    pub(super) fn new(count: u32, bytes: &'a [u8]) -> Self {
        Self { count, bytes }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// See [`Headers::iter`].
    pub fn iter(&self) -> HeadersIter<'a> {
        HeadersIter { bytes: self.bytes, remaining: self.count }
    }

    /// See [`Headers::last`].
    pub fn last(&self, name: &str) -> Option<&'a [u8]> {
        let (_, value) = self.iter().filter(|(found, _)| found == name).last()?;
        value
    }
}

impl std::fmt::Debug for HeadersRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// See [`Headers::iter`].
#[derive(Clone)]
pub struct HeadersIter<'a> {
    bytes: &'a [u8],
    remaining: u32,
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (Cow<'a, str>, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        let mut cursor = Cursor::new(self.bytes, 0);
        let (name, value) =
            read(&mut cursor).expect("headers were found well-formed with their record");
        let item =
            (String::from_utf8_lossy(name.of(self.bytes)), value.map(|value| value.of(self.bytes)));
        self.bytes = &self.bytes[cursor.position()..];
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl ExactSizeIterator for HeadersIter<'_> {}

/// Walks over `count` headers; after that they can be iterated without an error.
pub(super) fn check(cursor: &mut Cursor<'_>, count: usize) -> Result<(), Problem> {
    for _ in 0..count {
        read(cursor)?;
    }
    Ok(())
}

fn read(
    cursor: &mut Cursor<'_>,
) -> Result<(super::varint::Span, Option<super::varint::Span>), Problem> {
    let len = cursor.length()?;
    let name = cursor.take(len)?;
    Ok((name, cursor.nullable()?))
}
