//! What is sent. A record borrows or owns its parts; `send` encodes them at once, so that nothing is copied twice.

use std::borrow::Cow;

use bytes::Bytes;

/// A key, a value or a header's value: bytes, borrowed or owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Borrowed until the record is sent.
    Borrowed(&'a [u8]),
    /// Owned.
    Owned(Bytes),
}

impl AsRef<[u8]> for Payload<'_> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a str> for Payload<'a> {
    fn from(text: &'a str) -> Self {
        Self::Borrowed(text.as_bytes())
    }
}

impl<'a> From<&'a String> for Payload<'a> {
    fn from(text: &'a String) -> Self {
        Self::Borrowed(text.as_bytes())
    }
}

impl<'a> From<&'a Vec<u8>> for Payload<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Borrowed(bytes)
    }
}

impl From<String> for Payload<'_> {
    fn from(text: String) -> Self {
        Self::Owned(text.into())
    }
}

impl From<Vec<u8>> for Payload<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes.into())
    }
}

impl From<Bytes> for Payload<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::Owned(bytes)
    }
}

/// A record to be sent. Without a value it is a tombstone; without a timestamp it gets the time of `send`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub(super) topic: Cow<'a, str>,
    pub(super) partition: Option<u32>,
    pub(super) timestamp: Option<i64>,
    pub(super) key: Option<Payload<'a>>,
    pub(super) value: Option<Payload<'a>>,
    pub(super) headers: Vec<(Cow<'a, str>, Option<Payload<'a>>)>,
}

impl<'a> Record<'a> {
    /// An empty record to that topic.
    #[inline]
    pub fn to(topic: impl Into<Cow<'a, str>>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            timestamp: None,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

    /// Records of one key go to one partition and keep their order.
    #[inline]
    pub fn key(mut self, key: impl Into<Payload<'a>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// What the record says.
    #[inline]
    pub fn value(mut self, value: impl Into<Payload<'a>>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// This partition, whatever the partitioner would say.
    #[inline]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Milliseconds since 1970.
    #[inline]
    pub fn timestamp(mut self, milliseconds: i64) -> Self {
        self.timestamp = Some(milliseconds);
        self
    }

    /// One more header; names may repeat.
    pub fn header(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Payload<'a>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// One more header, without a value.
    pub fn null_header(mut self, name: impl Into<Cow<'a, str>>) -> Self {
        self.headers.push((name.into(), None));
        self
    }

    /// About how much memory the record takes in a batch: its bytes and the most that framing adds.
    pub(super) fn weight(&self) -> usize {
        const FRAMING: usize = 32;
        let part = |part: &Option<Payload<'_>>| part.as_ref().map_or(0, |p| p.as_ref().len());
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + part(value) + 10).sum();
        part(&self.key) + part(&self.value) + headers + FRAMING
    }
}
