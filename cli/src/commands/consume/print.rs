//! Records as bytes on stdout.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;

use clap::ValueEnum;
use serde::Serialize;
use serde::ser::{SerializeMap as _, SerializeSeq as _, Serializer};
use streamhouse_client::consumer::{Headers, Record};

use crate::exit;

/// To be written out at the latest when it is this full.
const BUFFER_BYTES: usize = 256 << 10;

/// How a record is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RecordFormat {
    /// The value and a newline.
    Value,
    /// One JSON object a line. Bytes are text where they are UTF-8, else {"base64": "…"}.
    Json,
}

/// Prints records and counts them. Not through Rust's stdout, which looks for line ends in all it is given.
#[derive(Debug)]
pub(super) struct Printer {
    stdout: File,
    buffer: Vec<u8>,
    format: RecordFormat,
    pub(super) records: u64,
    /// Of values.
    pub(super) bytes: u64,
}

impl Printer {
    pub(super) fn new(format: RecordFormat) -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?.into();
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Ok(Self { stdout, buffer, format, records: 0, bytes: 0 })
    }

    pub(super) fn print(&mut self, record: &Record) -> anyhow::Result<()> {
        let value = record.value.as_deref().unwrap_or_default();
        match self.format {
            RecordFormat::Value => self.buffer.extend_from_slice(value),
            RecordFormat::Json => serde_json::to_writer(&mut self.buffer, &Line::from(record))?,
        }
        self.buffer.push(b'\n');
        self.records += 1;
        self.bytes += value.len() as u64;
        Ok(())
    }

    /// It should be flushed before more is printed.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER_BYTES
    }

    /// Hands everything printed to the system.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        let written = self.stdout.write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(exit::stdout_error)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    timestamp: i64,
    key: Option<Payload<'a>>,
    value: Option<Payload<'a>>,
    headers: HeaderList<'a>,
}

impl<'a> From<&'a Record> for Line<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            topic: &record.topic,
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.as_deref().map(Payload),
            value: record.value.as_deref().map(Payload),
            headers: HeaderList(&record.headers),
        }
    }
}

/// Names may repeat, so headers are a list of `{"name": …, "value": …}`.
struct HeaderList<'a>(&'a Headers);

impl Serialize for HeaderList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Header<'a> {
            name: &'a str,
            value: Option<Payload<'a>>,
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (name, value) in self.0.iter() {
            list.serialize_element(&Header { name: &name, value: value.map(Payload) })?;
        }
        list.end()
    }
}

/// Bytes: text where they are UTF-8.
struct Payload<'a>(&'a [u8]);

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &base64(self.0))?;
        map.end()
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) & 0x3f;
            text.push(if place <= chunk.len() { ALPHABET[sextet as usize].into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(bytes: &[u8]) -> String {
        serde_json::to_string(&Payload(bytes)).unwrap()
    }

    #[test]
    fn bytes_are_text_where_they_can_be() {
        assert_eq!(json("a\"ü\n".as_bytes()), r#""a\"ü\n""#);
        assert_eq!(json(b""), r#""""#);
        assert_eq!(json(&[0xff, 0x00]), r#"{"base64":"/wA="}"#);
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        // The test vectors of RFC 4648, section 10.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_record_is_one_line_with_all_its_parts() {
        let record = Record {
            topic: "orders".into(),
            partition: 2,
            offset: 7,
            timestamp: 1_700_000_000_000,
            key: Some("k".into()),
            value: None,
            headers: Headers::default(),
        };
        assert_eq!(
            serde_json::to_string(&Line::from(&record)).unwrap(),
            r#"{"topic":"orders","partition":2,"offset":7,"timestamp":1700000000000,"key":"k","value":null,"headers":[]}"#
        );
    }
}
