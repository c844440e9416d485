//! How far the log on the disk had got, beside the database: `data/synced`.
//!
//! RocksDB recovers its write-ahead log up to the first record that does not
//! hold, as it must: a power cut may leave anything behind the last sync. But
//! a bit that flipped *before* the last sync would cut the log off there, too,
//! and nobody would know. So whoever syncs notes here what was synced, and
//! whoever opens compares: less than that is damage.
//!
//! The note itself is not synced. One that a power cut loses, or leaves torn,
//! proves less; none proves too much, because it is written after the sync,
//! and taken back, that synced, before anything is cut off rightly.
//!
//! ```text
//! term u64 LE, index + 1 u64 LE of the last entry | term of the vote u64 LE | CRC-32C u32 LE
//! ```

use super::types::LogId;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) const NAME: &str = "synced";
const LENGTH: usize = 8 + 8 + 8;

/// What was synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    /// The last entry.
    pub(crate) last: Option<LogId>,
    /// The term of the vote, 0 before the first.
    pub(crate) vote_term: u64,
}

/// The file; tests see what was written to it, and what of that was synced.
pub(crate) struct SyncedFile(File, #[cfg(test)] pub(super) Trace);

#[cfg(test)]
pub(super) type Trace = std::sync::Arc<parking_lot::Mutex<Vec<(Synced, bool)>>>;

impl SyncedFile {
    /// Opens it, or makes it; what it says, if that holds.
    pub(crate) fn open(data: &Path) -> io::Result<(Self, Option<Synced>)> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).open(data.join(NAME))?;
        let mut bytes = [0; LENGTH + 4];
        let read = file.read_exact_at(&mut bytes, 0);
        let synced = read.ok().and_then(|()| decode(&bytes));
        let file = Self(
            file,
            #[cfg(test)]
            Trace::default(),
        );
        Ok((file, synced))
    }

    pub(crate) fn note(&self, synced: &Synced) -> io::Result<()> {
        self.write(synced, false)
    }

    /// Notes less than before, and returns once that is on the disk: what it
    /// said must not come back after a power cut, when the log is shorter.
    pub(crate) fn take_back(&self, synced: &Synced) -> io::Result<()> {
        self.write(synced, true)
    }

    fn write(&self, synced: &Synced, sync: bool) -> io::Result<()> {
        self.0.write_all_at(&encode(synced), 0)?;
        if sync {
            self.0.sync_data()?;
        }
        #[cfg(test)]
        self.1.lock().push((*synced, sync));
        Ok(())
    }
}

fn encode(synced: &Synced) -> [u8; LENGTH + 4] {
    let (term, next) = synced.last.map_or((0, 0), |id| (id.leader_id.term, id.index + 1));
    let mut bytes = [0; LENGTH + 4];
    bytes[..8].copy_from_slice(&term.to_le_bytes());
    bytes[8..16].copy_from_slice(&next.to_le_bytes());
    bytes[16..24].copy_from_slice(&synced.vote_term.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..LENGTH]);
    bytes[LENGTH..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; LENGTH + 4]) -> Option<Synced> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let number = |at: usize| body[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    let (term, next, vote_term) = (number(0)?, number(8)?, number(16)?);
    let last = next.checked_sub(1).map(|index| LogId::new_term_index(term, index));
    Some(Synced { last, vote_term })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (file, none) = SyncedFile::open(dir.path()).unwrap();
        assert_eq!(none, None);
        let synced = Synced { last: Some(LogId::new_term_index(3, 0)), vote_term: 4 };
        for synced in [Synced::default(), synced] {
            file.note(&synced).unwrap();
            assert_eq!(SyncedFile::open(dir.path()).unwrap().1, Some(synced));
        }
        file.0.write_all_at(&[9], 3).unwrap();
        assert_eq!(SyncedFile::open(dir.path()).unwrap().1, None);
    }
}
