//! What can be wrong with an object, or with what should go into one.

use thiserror::Error;

use crate::batch::BatchError;

/// Why an object was refused, or could not be built. Nothing here can be helped by trying the same bytes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ObjectError {
    /// The bytes end early.
    #[error("{what} needs {needed} bytes, {available} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// How many bytes it takes.
        needed: u64,
        /// How many there are.
        available: u64,
    },
    /// These bytes are something else.
    #[error("{what} does not begin with its magic bytes")]
    WrongMagic {
        /// What was expected here.
        what: &'static str,
    },
    /// A format from the future.
    #[error("object format version {found} is not supported, only {supported} is")]
    UnsupportedVersion {
        /// The version found.
        found: u16,
        /// The version we know.
        supported: u16,
    },
    /// The bytes were damaged, or are not those that the index means.
    #[error("checksum of {what} is {found:#010x}, expected {expected:#010x}")]
    WrongChecksum {
        /// What was checked.
        what: &'static str,
        /// The recorded checksum.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// A field that does not say what it must.
    #[error("{field} is {found}, expected {expected}")]
    Mismatch {
        /// The field's name.
        field: &'static str,
        /// What it must say.
        expected: i128,
        /// What it says.
        found: i128,
    },
    /// A field of one slice that does not say what the slice's bytes say.
    #[error("{field} of slice {slice} is {found}, expected {expected}")]
    SliceMismatch {
        /// The slice's index.
        slice: u32,
        /// The field's name.
        field: &'static str,
        /// What the bytes say.
        expected: i128,
        /// What the field says.
        found: i128,
    },
    /// A list of one slice, its producers or its sparse index, that does not describe the slice's bytes.
    #[error("{list} of slice {slice} does not describe its batches")]
    WrongList {
        /// The slice's index.
        slice: u32,
        /// Which list.
        list: &'static str,
    },
    /// Header and footer do not belong together.
    #[error("footer names another object than the header")]
    ForeignFooter,
    /// A number with no meaning in this format.
    #[error("{field} is {found}, which has no meaning")]
    Unknown {
        /// The field's name.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// The object needs a reader that knows more.
    #[error("required extension {tag} is not known")]
    RequiredExtension {
        /// The extension's tag.
        tag: u16,
    },
    /// Over a limit.
    #[error("{what} of {size} is over the limit of {limit}")]
    OverLimit {
        /// What is too large or too many.
        what: &'static str,
        /// What it would be.
        size: u64,
        /// What it may be.
        limit: u64,
    },
    /// A slice was begun and got no batch.
    #[error("slice {slice} is empty")]
    EmptySlice {
        /// The slice's index.
        slice: u32,
    },
    /// A batch was appended before any slice was begun.
    #[error("no slice was begun")]
    NoSlice,
    /// The bytes to verify hold no batch.
    #[error("slice has no batch, expected offsets {base_offset} to {last_offset}")]
    NoBatch {
        /// The first offset expected.
        base_offset: u64,
        /// The last offset expected.
        last_offset: u64,
    },
    /// A batch in a slice is broken.
    #[error("batch at byte {position} of the slice: {error}")]
    Batch {
        /// Where in the slice the batch begins.
        position: u64,
        /// What is wrong with it.
        #[source]
        error: BatchError,
    },
}

/// `found` where `expected` must stand.
pub(super) fn expect_equal(
    field: &'static str,
    found: impl Into<i128>,
    expected: impl Into<i128>,
) -> Result<(), ObjectError> {
    let (found, expected) = (found.into(), expected.into());
    if found == expected { Ok(()) } else { Err(ObjectError::Mismatch { field, expected, found }) }
}

/// The checksum of `bytes` where `expected` was recorded.
pub(super) fn expect_checksum(
    what: &'static str,
    bytes: &[u8],
    expected: u32,
) -> Result<(), ObjectError> {
    let found = crc32c::crc32c(bytes);
    if found == expected {
        Ok(())
    } else {
        Err(ObjectError::WrongChecksum { what, expected, found })
    }
}
