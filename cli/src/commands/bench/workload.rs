//! What a benchmark sends: the lines of a file, over and over, or pseudo-random text. All of it is in memory before the
//! clock runs, so that reading is not what is measured.

use std::path::Path;

use anyhow::Context as _;

use crate::exit::Failure;
use crate::input::key::KeyField;
use crate::input::lines::Blocks;
use crate::input::source::Source;

/// BOUND: the most that is read of a file, decompressed.
const MAX_FILE_BYTES: usize = 1 << 30;
/// Random records are cut out of that many bytes, each from another place. LZ4 looks back 64 KiB at the most, so it
/// finds no repetition.
const POOL_BYTES: usize = 8 << 20;

/// How a file becomes records.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineRules {
    pub(super) skip_header: bool,
    /// Counting from 1.
    pub(super) key_field: Option<u32>,
    pub(super) delimiter: u8,
}

/// A record's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: &'a [u8],
}

/// See the module.
#[derive(Debug)]
pub(super) enum Workload {
    Lines(Lines),
    Random { pool: Vec<u8>, size: usize },
}

impl Workload {
    pub(super) fn of_file(path: &Path, rules: LineRules) -> anyhow::Result<Self> {
        Ok(Self::Lines(Lines::read(Source::open(Some(path))?, rules)?))
    }

    /// Records of `size` printable bytes.
    pub(super) fn random(size: usize) -> Self {
        // SplitMix64 (G. Steele et al., 2014) from a fixed seed: every run sends the same.
        let mut state = 0x5354_5245_414D_u64;
        let mut next = move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        };
        let printable = u64::from(b'~' - b'!') + 1;
        let pool = (0..POOL_BYTES + size).map(|_| b'!' + (next() % printable) as u8).collect();
        Self::Random { pool, size }
    }

    /// The `n`-th record.
    #[inline]
    pub(super) fn item(&self, n: u64) -> Item<'_> {
        match self {
            Self::Lines(lines) => lines.item((n % lines.rows.len() as u64) as usize),
            Self::Random { pool, size } => {
                // An odd factor: all places are visited before one comes again.
                let start = (n.wrapping_mul(0x9E37_79B9) % POOL_BYTES as u64) as usize;
                Item { key: None, value: &pool[start..start + size] }
            }
        }
    }
}

/// A file's lines and their keys.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    keys: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    line: (usize, usize),
    key: Option<(usize, usize)>,
}

impl Lines {
    fn read(source: Source, rules: LineRules) -> anyhow::Result<Self> {
        let mut lines = Self::default();
        let mut key = rules.key_field.map(|n| KeyField::new(n as usize, rules.delimiter));
        let mut skip = rules.skip_header;
        let mut blocks = Blocks::new(source.reader);
        while let Some(block) = blocks.next()? {
            for line in block.lines() {
                if !std::mem::take(&mut skip) {
                    lines.push(line, key.as_mut())?;
                }
            }
        }
        if lines.rows.is_empty() {
            return Err(Failure::usage("the file has no records").into());
        }
        Ok(lines)
    }

    fn push(&mut self, line: &[u8], key: Option<&mut KeyField>) -> anyhow::Result<()> {
        if self.bytes.len() + line.len() > MAX_FILE_BYTES {
            let message = format!("the file has more than {MAX_FILE_BYTES} bytes, the limit here");
            return Err(Failure::usage(message).into());
        }
        let number = self.rows.len() + 1;
        let key = match key {
            Some(field) => Some(field.of(line).with_context(|| format!("record {number}"))?),
            None => None,
        };
        let key = key.map(|key| append(&mut self.keys, key));
        self.rows.push(Row { line: append(&mut self.bytes, line), key });
        Ok(())
    }

    #[inline]
    fn item(&self, n: usize) -> Item<'_> {
        let row = &self.rows[n];
        let key = row.key.map(|(start, end)| &self.keys[start..end]);
        Item { key, value: &self.bytes[row.line.0..row.line.1] }
    }
}

fn append(buffer: &mut Vec<u8>, bytes: &[u8]) -> (usize, usize) {
    let start = buffer.len();
    buffer.extend_from_slice(bytes);
    (start, buffer.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn lines(text: &str, rules: LineRules) -> anyhow::Result<Workload> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Workload::of_file(file.path(), rules)
    }

    const RULES: LineRules = LineRules { skip_header: true, key_field: Some(2), delimiter: b',' };

    #[test]
    fn a_file_s_records_come_again_behind_its_last() {
        let workload = lines("head,k\na,1\nb,\"2\"\n", RULES).unwrap();
        let expected: [(&[u8], &[u8]); 3] = [(b"a,1", b"1"), (b"b,\"2\"", b"2"), (b"a,1", b"1")];
        for (n, (value, key)) in (0..).zip(expected) {
            assert_eq!(workload.item(n), Item { key: Some(key), value });
        }
    }

    #[test]
    fn a_file_without_records_is_refused_and_a_line_without_its_key_is_named() {
        assert!(lines("head,k\n", RULES).unwrap_err().to_string().contains("no records"));
        let error = lines("head,k\na,1\nb\n", RULES).unwrap_err();
        assert_eq!(format!("{error:#}"), "record 2: has no field 2, only 1");
    }

    #[test]
    fn random_records_are_printable_and_have_nothing_to_compress() {
        let workload = Workload::random(1024);
        let mut all = Vec::new();
        for n in 0..64 {
            let item = workload.item(n);
            assert_eq!((item.key, item.value.len()), (None, 1024));
            all.extend_from_slice(item.value);
        }
        assert!(all.iter().all(u8::is_ascii_graphic));
        let limits = streamhouse_segment::Limits::default();
        let codec = streamhouse_segment::Compression::Lz4;
        let mut batch = streamhouse_segment::BatchBuilder::new(codec, limits);
        batch.push(0, None, Some(&all), streamhouse_segment::NO_HEADERS).unwrap();
        let batch = batch.finish(streamhouse_segment::ProducerInfo::NONE).unwrap();
        assert!(batch.len() * 100 > all.len() * 98, "{} of {}", batch.len(), all.len());
    }
}
