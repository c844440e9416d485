//! Fixed-width little-endian integers: writing into a `Vec`, and a reader that never runs past the end.

use super::ObjectError;
use crate::ids::{ClusterId, Generation, ObjectId, SessionId};

/// How long an object id is, as it stands in header and footer.
pub(super) const OBJECT_ID_BYTES: usize = 44;

pub(super) fn put_object_id(buffer: &mut Vec<u8>, id: &ObjectId) {
    buffer.extend_from_slice(&id.cluster.to_bytes());
    buffer.extend_from_slice(&id.generation.counter.to_le_bytes());
    buffer.extend_from_slice(&id.generation.random.to_le_bytes());
    buffer.extend_from_slice(&id.session.0.to_le_bytes());
    buffer.extend_from_slice(&id.sequence.to_le_bytes());
}

/// Reads on in `bytes`; `what` names them in errors.
pub(super) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

macro_rules! integers {
    ($($name:ident),*) => {
        $(pub(super) fn $name(&mut self) -> Result<$name, ObjectError> {
            Ok($name::from_le_bytes(self.array()?))
        })*
    };
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes }
    }

    integers!(u8, u16, u32, u64, i16, i32, i64);

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], ObjectError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(len) else {
            return Err(self.truncated(len as u64));
        };
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ObjectError> {
        let taken = self.take(N)?;
        Ok(*taken.first_chunk().expect("take returns what was asked for"))
    }

    pub(super) fn object_id(&mut self) -> Result<ObjectId, ObjectError> {
        Ok(ObjectId {
            cluster: ClusterId::from_bytes(self.array()?),
            generation: Generation { counter: self.u32()?, random: self.u64()? },
            session: SessionId(self.u64()?),
            sequence: self.u64()?,
        })
    }

    /// A list of `count` items of at least `min_bytes` each. BOUND: that they fit into what is left is checked before
    /// there is room made for them.
    pub(super) fn list<T>(
        &mut self,
        count: u32,
        min_bytes: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, ObjectError>,
    ) -> Result<Vec<T>, ObjectError> {
        let needed = u64::from(count) * min_bytes as u64;
        if needed > self.bytes.len() as u64 {
            return Err(self.truncated(needed));
        }
        let mut items = Vec::with_capacity(count as usize);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn truncated(&self, needed: u64) -> ObjectError {
        ObjectError::Truncated { what: self.what, needed, available: self.bytes.len() as u64 }
    }
}
