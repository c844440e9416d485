//! How long RocksDB's record of its tables, the MANIFEST, was: `data/manifest`.
//!
//! RocksDB takes a MANIFEST that ends early for one whose last records were
//! never written, as after a crash; the tables that these name it then deletes,
//! and nobody would know. So whoever syncs the log notes here how long the
//! MANIFEST was, and whoever opens compares: shorter than that is damage.
//!
//! The note itself is not synced. One that a power cut loses, or leaves torn,
//! proves less; none proves too much, because the MANIFEST is synced before.
//!
//! ```text
//! number of the MANIFEST u64 LE | its length u64 LE | CRC-32C u32 LE
//! ```

use super::db::{DATABASE, ReadError};
use parking_lot::Mutex;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(crate) const NAME: &str = "manifest";
/// RocksDB's file that names the MANIFEST in use.
const CURRENT: &str = "CURRENT";
const PREFIX: &str = "MANIFEST-";
const LENGTH: usize = 8 + 8;

/// One MANIFEST, as long as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manifest {
    number: u64,
    bytes: u64,
}

/// The note of one data directory.
#[derive(Debug)]
pub(crate) struct ManifestNote {
    data: PathBuf,
    file: File,
    noted: Mutex<Option<Manifest>>,
}

impl ManifestNote {
    /// Compares what is there with what was noted, before the database is
    /// opened.
    pub(crate) fn check(data: &Path) -> Result<Self, ReadError> {
        let failed = |name: &str, error: io::Error| ReadError::Failed(format!("{name}: {error}"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(data.join(NAME)).map_err(|error| failed(NAME, error))?;
        let mut bytes = [0; LENGTH + 4];
        let noted = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| decode(&bytes));
        let now = in_use(data).map_err(|error| failed(CURRENT, error))?;
        if let (Some(noted), Some(now)) = (noted, now)
            && (now.number < noted.number
                || (now.number == noted.number && now.bytes < noted.bytes))
        {
            return Err(ReadError::Damaged(format!(
                "{PREFIX}{:06} has {} bytes, {PREFIX}{:06} had {}",
                now.number, now.bytes, noted.number, noted.bytes
            )));
        }
        Ok(Self { data: data.to_owned(), file, noted: Mutex::new(noted) })
    }

    /// Notes how long it is now, if it has grown. Blocks.
    pub(crate) fn note(&self) -> io::Result<()> {
        let mut noted = self.noted.lock();
        if let Some(before) = *noted
            && length(&self.data, before.number)? == Some(before.bytes)
        {
            return Ok(());
        }
        let Some(now) = in_use(&self.data)? else { return Ok(()) };
        match File::open(path(&self.data, now.number)) {
            Ok(manifest) => manifest.sync_data()?,
            // Another one has taken its place meanwhile; the next note is of that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        self.file.write_all_at(&encode(now), 0)?;
        *noted = Some(now);
        Ok(())
    }
}

fn path(data: &Path, number: u64) -> PathBuf {
    data.join(DATABASE).join(format!("{PREFIX}{number:06}"))
}

fn length(data: &Path, number: u64) -> io::Result<Option<u64>> {
    match fs::metadata(path(data, number)) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The MANIFEST in use; none if the database says of none, which RocksDB
/// judges itself.
fn in_use(data: &Path) -> io::Result<Option<Manifest>> {
    let named = match fs::read(data.join(DATABASE).join(CURRENT)) {
        Ok(named) => named,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let named = String::from_utf8_lossy(&named);
    let number = named.trim_end().strip_prefix(PREFIX).and_then(|number| number.parse().ok());
    let Some(number) = number else { return Ok(None) };
    Ok(length(data, number)?.map(|bytes| Manifest { number, bytes }))
}

fn encode(manifest: Manifest) -> [u8; LENGTH + 4] {
    let mut bytes = [0; LENGTH + 4];
    bytes[..8].copy_from_slice(&manifest.number.to_le_bytes());
    bytes[8..LENGTH].copy_from_slice(&manifest.bytes.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..LENGTH]);
    bytes[LENGTH..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; LENGTH + 4]) -> Option<Manifest> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (number, bytes) = body.split_first_chunk::<8>()?;
    let bytes = u64::from_le_bytes(bytes.try_into().ok()?);
    Some(Manifest { number: u64::from_le_bytes(*number), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(data: &Path, number: u64, bytes: usize) {
        fs::create_dir_all(data.join(DATABASE)).unwrap();
        fs::write(data.join(DATABASE).join(CURRENT), format!("{PREFIX}{number:06}\n")).unwrap();
        fs::write(path(data, number), vec![0; bytes]).unwrap();
    }

    #[test]
    fn a_manifest_that_is_shorter_or_older_than_it_was_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        let check = || match ManifestNote::check(data) {
            Ok(_) => Ok(()),
            Err(ReadError::Damaged(what)) => Err(what),
            Err(ReadError::Failed(what)) => panic!("{what}"),
        };
        // There is no database yet.
        ManifestNote::check(data).unwrap().note().unwrap();
        assert_eq!(fs::metadata(data.join(NAME)).unwrap().len(), 0);
        set(data, 5, 100);
        ManifestNote::check(data).unwrap().note().unwrap();
        assert_eq!(check(), Ok(()));
        set(data, 5, 99);
        assert_eq!(
            check(),
            Err("MANIFEST-000005 has 99 bytes, MANIFEST-000005 had 100".to_owned())
        );
        set(data, 4, 100);
        assert!(check().is_err());
        // One that has grown, and another one after it.
        for (number, bytes) in [(5, 101), (6, 10)] {
            set(data, number, bytes);
            let note = ManifestNote::check(data).unwrap();
            note.note().unwrap();
            note.note().unwrap();
            set(data, number, bytes - 1);
            assert!(check().is_err());
        }
        // A torn note proves nothing.
        fs::write(data.join(NAME), [1; 7]).unwrap();
        assert_eq!(check(), Ok(()));
        // Neither does what cannot be read: it may be as it was.
        fs::remove_file(data.join(DATABASE).join(CURRENT)).unwrap();
        fs::create_dir(data.join(DATABASE).join(CURRENT)).unwrap();
        assert!(matches!(ManifestNote::check(data), Err(ReadError::Failed(_))));
    }

    #[test]
    fn its_bytes_are_as_they_were_released() {
        let released = [3, 2, 1, 0, 0, 0, 0, 0, 9, 8, 0, 0, 0, 0, 0, 0];
        let manifest = Manifest { number: 0x01_02_03, bytes: 0x0809 };
        let bytes = encode(manifest);
        assert_eq!(bytes[..LENGTH], released);
        assert_eq!(bytes[LENGTH..], 0x8fb8_d1f3_u32.to_le_bytes());
        assert_eq!(decode(&bytes), Some(manifest));
    }
}
