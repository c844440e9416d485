//! The one module through which anything persisted or replicated is encoded:
//! a version byte, then bincode's standard configuration (little-endian,
//! variable-length integers).
//!
//! Variants and fields are only ever appended, and golden-byte tests pin what
//! was released; see docs/decisions for why bincode 2.0.1.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};

/// Version byte before every value written by this release.
pub const VERSION: u8 = 1;

/// No persisted value is larger: BOUND for a damaged length prefix.
const MAX_VALUE_BYTES: usize = 64 << 20;

const CONFIG: Configuration<LittleEndian, Varint, Limit<MAX_VALUE_BYTES>> =
    bincode::config::standard().with_limit::<MAX_VALUE_BYTES>();

/// Bytes that are not what this release, or an older one, wrote.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Written by a release that this one does not know.
    #[error("encoding version {0} is unknown, this release knows {VERSION}")]
    Version(u8),
    /// Too short, too long or malformed.
    #[error("malformed value: {0}")]
    Malformed(String),
}

/// Encodes with the version byte first.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bincode::encode_into_std_write(value, &mut bytes, CONFIG)
        .expect("a value in memory encodes into a vector");
    bytes
}

/// Decodes a whole value; trailing bytes are refused.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let body = body(bytes)?;
    let decoded: Result<(T, usize), _> = bincode::decode_from_slice(body, CONFIG);
    whole(decoded, body.len())
}

/// Decodes a value whose end a newer release may have added to. For what must
/// be readable whatever the release: what was appended is passed over.
pub fn decode_beginning<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let decoded = bincode::decode_from_slice(body(bytes)?, CONFIG);
    let (value, _) = decoded.map_err(|e| CodecError::Malformed(e.to_string()))?;
    Ok(value)
}

/// [`encode`] for types that only implement serde (openraft's own).
pub fn encode_serde<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(value, &mut bytes, CONFIG)
        .expect("a value in memory encodes into a vector");
    bytes
}

/// [`decode`] for types that only implement serde.
pub fn decode_serde<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let body = body(bytes)?;
    let decoded: Result<(T, usize), _> = bincode::serde::decode_from_slice(body, CONFIG);
    whole(decoded, body.len())
}

fn body(bytes: &[u8]) -> Result<&[u8], CodecError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((&version, _)) => Err(CodecError::Version(version)),
        None => Err(CodecError::Malformed("empty".into())),
    }
}

fn whole<T>(
    decoded: Result<(T, usize), bincode::error::DecodeError>,
    len: usize,
) -> Result<T, CodecError> {
    let (value, used) = decoded.map_err(|e| CodecError::Malformed(e.to_string()))?;
    if used != len {
        return Err(CodecError::Malformed(format!("{} trailing bytes", len - used)));
    }
    Ok(value)
}
