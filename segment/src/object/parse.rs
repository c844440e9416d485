//! Taking a whole object apart.

use bytes::Bytes;

use super::error::expect_equal;
use super::{Footer, OBJECT_HEADER_BYTES, ObjectError, ObjectHeader, TRAILER_BYTES, Trailer};

/// A whole object, taken apart; slices are not looked into before [`Object::verify`].
#[derive(Clone, Debug)]
pub struct Object {
    /// Its header.
    pub header: ObjectHeader,
    /// Its footer.
    pub footer: Footer,
    /// All of it.
    pub bytes: Bytes,
}

impl Object {
    /// Reads an object's header, trailer and footer.
    ///
    /// Checked here: their checksums, that header and footer name the same object, and that the slices lie back to
    /// back between them.
    pub fn parse(bytes: Bytes) -> Result<Object, ObjectError> {
        let header = ObjectHeader::parse(&bytes)?;
        let too_short = |what, needed: usize| ObjectError::Truncated {
            what,
            needed: needed as u64,
            available: bytes.len() as u64,
        };
        let trailer_at = bytes
            .len()
            .checked_sub(TRAILER_BYTES)
            .filter(|at| *at >= OBJECT_HEADER_BYTES)
            .ok_or_else(|| too_short("object", OBJECT_HEADER_BYTES + TRAILER_BYTES))?;
        let trailer = Trailer::parse(&bytes[trailer_at..])?;
        let footer_length = trailer.footer_length as usize;
        let footer_at = trailer_at
            .checked_sub(footer_length)
            .filter(|at| *at >= OBJECT_HEADER_BYTES)
            .ok_or_else(|| {
                too_short("object", OBJECT_HEADER_BYTES + footer_length + TRAILER_BYTES)
            })?;
        let footer = Footer::parse(&bytes[footer_at..trailer_at], &trailer)?;
        if footer.id != header.id {
            return Err(ObjectError::ForeignFooter);
        }
        let object = Self { header, footer, bytes };
        object.check_positions(footer_at)?;
        Ok(object)
    }

    /// Slices begin behind the header, follow each other without a gap and end at the footer.
    fn check_positions(&self, footer_at: usize) -> Result<(), ObjectError> {
        let mut position = OBJECT_HEADER_BYTES as u64;
        for (index, slice) in self.footer.slices.iter().enumerate() {
            if slice.position != position {
                return Err(ObjectError::SliceMismatch {
                    slice: index as u32,
                    field: "position",
                    expected: position.into(),
                    found: slice.position.into(),
                });
            }
            // No overflow: a position is at most 4096 lengths of 32 bits each.
            position += u64::from(slice.length);
        }
        expect_equal("end of the last slice", position, footer_at as u64)
    }

    /// The bytes of slice `index`: record batches back to back.
    ///
    /// # Panics
    ///
    /// If there is no such slice.
    pub fn slice_bytes(&self, index: usize) -> Bytes {
        let slice = &self.footer.slices[index];
        let start = slice.position as usize;
        self.bytes.slice(start..start + slice.length as usize)
    }
}
