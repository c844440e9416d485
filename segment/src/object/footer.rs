//! The footer: all that the object's commit will say, and what became of the ones before.

use super::error::expect_checksum;
use super::extension::{self, Extension};
use super::outcome::{OUTCOME_BYTES, SliceOutcome};
use super::slice::{SLICE_BYTES, SliceMeta};
use super::wire::{OBJECT_ID_BYTES, Reader, put_object_id};
use super::{MAX_SLICES, ObjectError, Trailer};
use crate::ids::ObjectId;

/// Object id, two counts and the extension area's length.
pub(super) const FIXED_BYTES: usize = OBJECT_ID_BYTES + 4 + 4 + 4;

/// An object's footer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Which object it belongs to, so that the tail of an object says so by itself.
    pub id: ObjectId,
    /// The slices, in the order in which they lie in the object.
    pub slices: Vec<SliceMeta>,
    /// Outcomes of the session's earlier slices that became known since its last object.
    pub outcomes: Vec<SliceOutcome>,
    /// What a later version added and this one may skip.
    pub extensions: Vec<Extension>,
}

impl Footer {
    /// Reads a footer; `bytes` are the [`Trailer::footer_length`] bytes in front of the trailer.
    ///
    /// Checked here: length, checksum and form. Whether it describes the object's slices, only
    /// [`Object::verify`](super::Object::verify) can tell.
    pub fn parse(bytes: &[u8], trailer: &Trailer) -> Result<Footer, ObjectError> {
        super::error::expect_equal("footer length", bytes.len() as u64, trailer.footer_length)?;
        expect_checksum("object footer", bytes, trailer.footer_crc)?;
        let mut reader = Reader::new("object footer", bytes);
        let id = reader.object_id()?;
        let slice_count = reader.u32()?;
        let outcome_count = reader.u32()?;
        if slice_count as usize > MAX_SLICES {
            return Err(ObjectError::OverLimit {
                what: "slice count",
                size: slice_count.into(),
                limit: MAX_SLICES as u64,
            });
        }
        let slices = reader.list(slice_count, SLICE_BYTES, SliceMeta::decode)?;
        let outcomes = reader.list(outcome_count, OUTCOME_BYTES, SliceOutcome::decode)?;
        let extensions = extension::decode_area(&mut reader)?;
        if !reader.is_empty() {
            return Err(ObjectError::Mismatch {
                field: "footer length",
                expected: footer_bytes(&slices, &outcomes, &extensions) as i128,
                found: bytes.len() as i128,
            });
        }
        Ok(Self { id, slices, outcomes, extensions })
    }

    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        put_object_id(buffer, &self.id);
        buffer.extend_from_slice(&(self.slices.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&(self.outcomes.len() as u32).to_le_bytes());
        for slice in &self.slices {
            slice.encode(buffer);
        }
        for outcome in &self.outcomes {
            outcome.encode(buffer);
        }
        extension::encode_area(&self.extensions, buffer);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        footer_bytes(&self.slices, &self.outcomes, &self.extensions)
    }
}

fn footer_bytes(
    slices: &[SliceMeta],
    outcomes: &[SliceOutcome],
    extensions: &[Extension],
) -> usize {
    FIXED_BYTES
        + slices.iter().map(SliceMeta::encoded_bytes).sum::<usize>()
        + outcomes.len() * OUTCOME_BYTES
        + extension::area_bytes(extensions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, Generation, SessionId};

    fn footer(extensions: Vec<Extension>) -> Footer {
        Footer {
            id: ObjectId {
                cluster: ClusterId::from_bytes([1; 16]),
                generation: Generation { counter: 1, random: 2 },
                session: SessionId(3),
                sequence: 4,
            },
            slices: Vec::new(),
            outcomes: Vec::new(),
            extensions,
        }
    }

    fn parse(bytes: &[u8]) -> Result<Footer, ObjectError> {
        let trailer =
            Trailer { footer_length: bytes.len() as u32, footer_crc: crc32c::crc32c(bytes) };
        Footer::parse(bytes, &trailer)
    }

    fn extension(tag: u16, required: bool) -> Extension {
        Extension { tag, required, bytes: b"from the future".to_vec() }
    }

    #[test]
    fn an_unknown_extension_is_skipped_unless_it_is_required() {
        let optional = footer(vec![extension(7, false), extension(8, false)]);
        let mut bytes = Vec::new();
        optional.encode(&mut bytes);
        assert_eq!(bytes.len(), optional.encoded_bytes());
        assert_eq!(parse(&bytes), Ok(optional));

        let mut bytes = Vec::new();
        footer(vec![extension(7, false), extension(8, true)]).encode(&mut bytes);
        assert_eq!(parse(&bytes), Err(ObjectError::RequiredExtension { tag: 8 }));
    }

    #[test]
    fn a_count_that_cannot_fit_is_refused_before_there_is_room_made_for_it() {
        let mut bytes = Vec::new();
        footer(Vec::new()).encode(&mut bytes);
        for (at, count) in
            [(44, 4096_u32), (44, 4097), (44, u32::MAX), (48, u32::MAX), (52, u32::MAX)]
        {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
            assert!(parse(&bytes).is_err(), "{count} at {at}");
        }
    }

    #[test]
    fn bytes_behind_the_extensions_are_refused() {
        let mut bytes = Vec::new();
        footer(Vec::new()).encode(&mut bytes);
        bytes.push(0);
        assert!(matches!(parse(&bytes), Err(ObjectError::Mismatch { .. })));
    }
}
