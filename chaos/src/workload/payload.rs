//! What a record's bytes are: who sent it and as which of its records, filler that follows from both, a checksum.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::history::Value;
use crate::random::Random;

const HEAD_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

/// A payload with so much filler.
pub(super) fn encode(value: Value, filler_bytes: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + filler_bytes + CHECKSUM_BYTES);
    bytes.put_u32(value.process);
    bytes.put_u64(value.counter);
    bytes.put_u32(u32::try_from(filler_bytes).expect("payloads are small"));
    bytes.extend(filler(value).take(filler_bytes));
    let checksum = crc32c::crc32c(&bytes);
    bytes.put_u32(checksum);
    bytes.freeze()
}

/// Whose payload it is; nothing if it is no process's.
pub(crate) fn decode(bytes: &[u8]) -> Option<Value> {
    let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    if crc32c::crc32c(body) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let (process, rest) = body.split_first_chunk()?;
    let (counter, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let value =
        Value { process: u32::from_be_bytes(*process), counter: u64::from_be_bytes(*counter) };
    let whole = u32::from_be_bytes(*length) as usize == rest.len();
    (whole && filler(value).zip(rest).all(|(expected, byte)| expected == *byte)).then_some(value)
}

fn filler(value: Value) -> impl Iterator<Item = u8> {
    let mut random = Random::new(value.counter).fork(value.process.into());
    std::iter::from_fn(move || Some(random.number().to_be_bytes())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_whose_it_is_and_any_other_bit_is_noticed() {
        let value = Value { process: 7, counter: 1 << 40 };
        for filler_bytes in [0, 1, 100] {
            let bytes = encode(value, filler_bytes);
            assert_eq!(decode(&bytes), Some(value));
            for bit in 0..bytes.len() * 8 {
                let mut other = bytes.to_vec();
                other[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(&other), None);
            }
            assert_eq!(decode(&bytes[1..]), None);
        }
        assert_eq!(decode(b""), None);
    }
}
