//! Taking back-to-back batches apart, without copying or checking what is in them.

use bytes::Bytes;

use super::BatchError;
use super::header::{BatchHeader, HEADER_BYTES};

/// The batches that lie back to back in `bytes`, each a slice of it. The iterator ends after the first error.
///
/// Only lengths and header ranges are checked here; see [`validate`](super::validate) for the rest.
pub fn split(bytes: Bytes) -> Split {
    Split { rest: bytes }
}

/// See [`split`].
#[derive(Clone, Debug)]
pub struct Split {
    rest: Bytes,
}

impl Iterator for Split {
    type Item = Result<Bytes, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match whole_batch(&self.rest) {
            Ok(header) => Some(Ok(self.rest.split_to(header.total_bytes()))),
            Err(error) => {
                self.rest = Bytes::new();
                Some(Err(error))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(!self.rest.is_empty()), Some(self.rest.len().div_ceil(HEADER_BYTES)))
    }
}

impl std::iter::FusedIterator for Split {}

/// The header of the batch that `bytes` begin with, all of which is there.
pub(crate) fn whole_batch(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    if header.total_bytes() > bytes.len() {
        return Err(BatchError::Truncated {
            what: "record batch",
            needed: header.total_bytes() as u64,
            available: bytes.len() as u64,
        });
    }
    Ok(header)
}
