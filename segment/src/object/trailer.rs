//! The object's last 16 bytes: where its footer is. The layout is in the [module's documentation](super).

use super::wire::Reader;
use super::{MAX_FOOTER_BYTES, ObjectError};

/// How long an object's trailer is.
pub const TRAILER_BYTES: usize = 16;

const MAGIC: [u8; 8] = *b"SHFOOTER";

/// An object's trailer. With the object's size, it tells two uploads under one key apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// How long the footer is, which ends where the trailer begins.
    pub footer_length: u32,
    /// The footer's CRC-32C.
    pub footer_crc: u32,
}

impl Trailer {
    /// Reads a trailer; `bytes` are the object's last [`TRAILER_BYTES`].
    pub fn parse(bytes: &[u8]) -> Result<Trailer, ObjectError> {
        let mut reader = Reader::new("object trailer", bytes);
        let footer_length = reader.u32()?;
        let footer_crc = reader.u32()?;
        if reader.array()? != MAGIC {
            return Err(ObjectError::WrongMagic { what: "object trailer" });
        }
        if !reader.is_empty() {
            return Err(ObjectError::OverLimit {
                what: "object trailer",
                size: bytes.len() as u64,
                limit: TRAILER_BYTES as u64,
            });
        }
        // BOUND: before anybody fetches or allocates it.
        if footer_length as usize > MAX_FOOTER_BYTES {
            return Err(ObjectError::OverLimit {
                what: "object footer",
                size: footer_length.into(),
                limit: MAX_FOOTER_BYTES as u64,
            });
        }
        Ok(Self { footer_length, footer_crc })
    }

    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.footer_length.to_le_bytes());
        buffer.extend_from_slice(&self.footer_crc.to_le_bytes());
        buffer.extend_from_slice(&MAGIC);
    }
}
