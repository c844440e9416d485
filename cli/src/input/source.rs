//! Where the bytes come from: stdin or a file, gzip undone where its magic bytes say so.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use flate2::read::MultiGzDecoder;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// An open source, and how far it was read.
pub(crate) struct Source {
    pub(crate) reader: Box<dyn Read + Send>,
    /// Bytes read of the file as it lies on the disk.
    pub(crate) position: Arc<AtomicU64>,
    /// How many there are, where that is known.
    pub(crate) size: Option<u64>,
}

impl Source {
    /// Opens `path`, or stdin if there is none.
    pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let position = Arc::new(AtomicU64::new(0));
        let Some(path) = path else {
            let reader = Box::new(Counted { inner: io::stdin(), position: position.clone() });
            return Ok(Self { reader, position, size: None });
        };
        let naming = || format!("file {}", path.display());
        let file = File::open(path).with_context(naming)?;
        let metadata = file.metadata().with_context(naming)?;
        anyhow::ensure!(!metadata.is_dir(), "file {}: is a directory", path.display());
        let size = metadata.is_file().then_some(metadata.len());
        let counted = Counted { inner: file, position: position.clone() };
        let reader = undo_gzip(counted).with_context(naming)?;
        Ok(Self { reader, position, size })
    }
}

/// The reader itself, or one that decompresses it if it begins like gzip.
fn undo_gzip(mut reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = Vec::with_capacity(GZIP_MAGIC.len());
    reader.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
    let compressed = magic == GZIP_MAGIC;
    let whole = Cursor::new(magic).chain(reader);
    if compressed {
        // A gzip file may be several, one behind the other.
        Ok(Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(256 << 10, whole))))
    } else {
        Ok(Box::new(whole))
    }
}

struct Counted<R> {
    inner: R,
    position: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.position.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(bytes: &[u8]) -> Vec<u8> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut source = Source::open(Some(file.path())).unwrap();
        let mut read = Vec::new();
        source.reader.read_to_end(&mut read).unwrap();
        assert_eq!(source.position.load(Ordering::Relaxed), bytes.len() as u64);
        assert_eq!(source.size, Some(bytes.len() as u64));
        read
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_bytes_come_as_they_are() {
        for bytes in [&b""[..], b"\x1f", b"a\nb\n"] {
            assert_eq!(read(bytes), bytes);
        }
    }

    #[test]
    fn gzip_is_undone_whatever_the_file_is_called() {
        let both = [gzip(b"one\n"), gzip(b"two\n")].concat();
        assert_eq!(read(&both), b"one\ntwo\n");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Source::open(Some(Path::new("/nowhere/x.csv"))).err().unwrap();
        assert!(format!("{error:#}").contains("file /nowhere/x.csv: "), "{error:#}");
    }
}
