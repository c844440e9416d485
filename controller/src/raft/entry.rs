//! Log entries as bytes, the same on disk and between controllers:
//!
//! ```text
//! codec version u8 | kind u8 | term u64 LE | index u64 LE | payload | CRC-32C u32 LE
//! ```
//!
//! Kind 0 is blank, 1 a command (payload: its bytes as proposed), 2 a
//! membership (payload: [`codec::encode_serde`]). The checksum covers all
//! before it, so an entry is protected from the proposer's memory to the disk
//! of every replica.

use super::types::{EncodedCommand, Entry, LogId, Payload};
use crate::codec;
use bytes::{Buf, BufMut, Bytes};
use openraft::EntryPayload;

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;
const HEADER: usize = 1 + 1 + 8 + 8;
const CHECKSUM: usize = 4;

/// A stored or received entry that is not what was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    /// Shorter than its fixed fields.
    #[error("log entry of {0} bytes is too short")]
    Short(usize),
    /// The checksum does not match.
    #[error("log entry's checksum is {found:#010x}, its bytes have {computed:#010x}")]
    Checksum {
        /// What stands behind the entry.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Written by a newer release.
    #[error("log entry's encoding version {0} or kind {1} is unknown")]
    Unknown(u8, u8),
    /// Its membership is malformed.
    #[error(transparent)]
    Membership(#[from] codec::CodecError),
}

/// About what `entry` takes encoded.
pub(crate) fn size(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(command) => command.0.len(),
        EntryPayload::Blank => 0,
        EntryPayload::Membership(_) => 512,
    };
    HEADER + payload + CHECKSUM
}

/// Appends `entry` to `out`.
pub(crate) fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(size(entry));
    out.put_u8(codec::VERSION);
    out.put_u8(match &entry.payload {
        EntryPayload::Blank => BLANK,
        EntryPayload::Normal(_) => COMMAND,
        EntryPayload::Membership(_) => MEMBERSHIP,
    });
    out.put_u64_le(entry.log_id.leader_id.term);
    out.put_u64_le(entry.log_id.index);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(command) => out.extend_from_slice(&command.0),
        EntryPayload::Membership(m) => out.extend_from_slice(&codec::encode_serde(m)),
    }
    let checksum = crc32c::crc32c(&out[start..]);
    out.put_u32_le(checksum);
}

/// The entry in `bytes`; its command shares them.
pub(crate) fn decode(mut bytes: Bytes) -> Result<Entry, EntryError> {
    if bytes.len() < HEADER + CHECKSUM {
        return Err(EntryError::Short(bytes.len()));
    }
    let mut checksum = bytes.split_off(bytes.len() - CHECKSUM);
    let (found, computed) = (checksum.get_u32_le(), crc32c::crc32c(&bytes));
    if found != computed {
        return Err(EntryError::Checksum { found, computed });
    }
    let (version, kind) = (bytes.get_u8(), bytes.get_u8());
    let (term, index) = (bytes.get_u64_le(), bytes.get_u64_le());
    let payload: Payload = match (version, kind) {
        (codec::VERSION, BLANK) => EntryPayload::Blank,
        (codec::VERSION, COMMAND) => EntryPayload::Normal(EncodedCommand(bytes)),
        (codec::VERSION, MEMBERSHIP) => EntryPayload::Membership(codec::decode_serde(&bytes)?),
        (version, kind) => return Err(EntryError::Unknown(version, kind)),
    };
    Ok(Entry { log_id: LogId::new_term_index(term, index), payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::ControllerNode;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn encoded(entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(entry, &mut bytes);
        bytes
    }

    fn command(term: u64, index: u64, bytes: Vec<u8>) -> Entry {
        let payload = EntryPayload::Normal(EncodedCommand(bytes.into()));
        Entry { log_id: LogId::new_term_index(term, index), payload }
    }

    proptest! {
        #[test]
        fn a_command_survives(term: u64, index: u64, bytes: Vec<u8>) {
            let entry = command(term, index, bytes);
            prop_assert_eq!(decode(encoded(&entry).into()).unwrap(), entry);
        }

        #[test]
        fn a_flipped_bit_is_detected(bytes: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let mut encoded = encoded(&command(3, 9, bytes));
            let at = at.index(encoded.len());
            encoded[at] ^= 1 << bit;
            prop_assert!(decode(encoded.into()).is_err());
        }

        #[test]
        fn garbage_is_an_error(bytes: Vec<u8>) {
            prop_assert!(decode(bytes.into()).is_err());
        }
    }

    #[test]
    fn a_membership_survives() {
        let node = ControllerNode { address: "a:1".into(), disk: [7; 16], replaces: 0 };
        let nodes = BTreeMap::from([(1, node)]);
        let members = openraft::Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        let payload = EntryPayload::Membership(members);
        let entry = Entry { log_id: LogId::new_term_index(1, 0), payload };
        assert_eq!(decode(encoded(&entry).into()).unwrap(), entry);
    }

    /// Released bytes: a change of this test is a change of the format.
    #[test]
    fn golden_bytes() {
        let bytes = encoded(&command(2, 5, b"abc".to_vec()));
        let mut expected = vec![1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        expected.extend(b"abc");
        let crc = crc32c::crc32c(&expected);
        expected.extend(crc.to_le_bytes());
        assert_eq!(bytes, expected);
    }
}
