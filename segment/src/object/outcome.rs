//! What became of a session's earlier slices, as its next object reports it.

use super::ObjectError;
use super::wire::Reader;

/// How long an outcome is in the footer.
pub(super) const OUTCOME_BYTES: usize = 13;

/// What became of a slice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Its commit applied: the slice is in the index.
    Accepted,
    /// Its commit was refused: the slice is not in the index and never will be.
    Refused,
    /// Its object was given up before any commit; perhaps it was never stored.
    Abandoned,
}

/// The outcome of one slice of an earlier object of the same session.
///
/// Each object carries those that became known since the one before: whoever rebuilds the index from the bucket can
/// tell slices that were acknowledged from slices that were not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SliceOutcome {
    /// The earlier object's sequence number.
    pub sequence: u64,
    /// The slice's index in it.
    pub slice: u32,
    /// What became of it.
    pub outcome: Outcome,
}

impl SliceOutcome {
    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.sequence.to_le_bytes());
        buffer.extend_from_slice(&self.slice.to_le_bytes());
        buffer.push(match self.outcome {
            Outcome::Accepted => 0,
            Outcome::Refused => 1,
            Outcome::Abandoned => 2,
        });
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, ObjectError> {
        Ok(Self {
            sequence: reader.u64()?,
            slice: reader.u32()?,
            outcome: match reader.u8()? {
                0 => Outcome::Accepted,
                1 => Outcome::Refused,
                2 => Outcome::Abandoned,
                found => {
                    return Err(ObjectError::Unknown {
                        field: "slice outcome",
                        found: found.into(),
                    });
                }
            },
        })
    }
}
