//! The object's first 64 bytes: whose it is. The layout is in the [module's documentation](super).

use super::ObjectError;
use super::error::{expect_checksum, expect_equal};
use super::wire::{Reader, put_object_id};
use crate::ids::ObjectId;

/// How long an object's header is; the first slice begins behind it.
pub const OBJECT_HEADER_BYTES: usize = 64;

pub(super) const MAGIC: [u8; 8] = *b"SHOBJECT";
const VERSION: u16 = 1;
/// Where the header's own checksum stands, behind all that it covers.
const CHECKSUM_AT: usize = 60;

/// An object's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectHeader {
    /// The format version, 1.
    pub version: u16,
    /// Which object it is.
    pub id: ObjectId,
}

impl ObjectHeader {
    pub(super) fn new(id: ObjectId) -> Self {
        Self { version: VERSION, id }
    }

    /// Reads the header that `bytes` begin with.
    pub fn parse(bytes: &[u8]) -> Result<ObjectHeader, ObjectError> {
        let mut reader = Reader::new("object header", bytes);
        let head: [u8; OBJECT_HEADER_BYTES] = reader.array()?;
        let mut reader = Reader::new("object header", &head);
        if reader.array()? != MAGIC {
            return Err(ObjectError::WrongMagic { what: "object header" });
        }
        // The version comes before the checksum: another version may keep it elsewhere.
        let version = reader.u16()?;
        if version != VERSION {
            return Err(ObjectError::UnsupportedVersion { found: version, supported: VERSION });
        }
        let length = reader.u16()?;
        let id = reader.object_id()?;
        let reserved = reader.u32()?;
        expect_checksum("object header", &head[..CHECKSUM_AT], reader.u32()?)?;
        expect_equal("object header length", length, OBJECT_HEADER_BYTES as u16)?;
        expect_equal("reserved field of the object header", reserved, 0)?;
        Ok(Self { version, id })
    }

    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        buffer.extend_from_slice(&MAGIC);
        buffer.extend_from_slice(&self.version.to_le_bytes());
        buffer.extend_from_slice(&(OBJECT_HEADER_BYTES as u16).to_le_bytes());
        put_object_id(buffer, &self.id);
        buffer.extend_from_slice(&0_u32.to_le_bytes());
        let checksum = crc32c::crc32c(&buffer[start..]);
        buffer.extend_from_slice(&checksum.to_le_bytes());
    }
}
