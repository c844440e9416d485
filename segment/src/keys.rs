//! Object keys. Both sides compute them from the same numbers; they are never sent.
//!
//! ```text
//! <cluster>/l0/<spread>/<generation>-<session>/<sequence>
//! ```
//!
//! * `cluster`: hyphenated UUID
//! * `spread`: the top 16 bits of SipHash-1-3 (zero key) over the generation's counter and random half and the
//!   session, each little-endian, as four hexadecimal digits. Object stores split their key space by prefix: the hash
//!   spreads sessions over it, while one session's objects stay together and can be listed in order.
//! * `generation`: 8 and 16 hexadecimal digits, see [`Generation`]
//! * `session`, `sequence`: decimal, zero-padded to 20 digits, so that the text order is the numeric order

use std::fmt::Write as _;

use siphasher::sip::SipHasher13;
use thiserror::Error;

use crate::ids::{ClusterId, Generation, ObjectId, SessionId};

/// The folder of the objects that agents write, as opposed to merged ones.
const L0: &str = "l0";

/// A key that no [`ObjectId`] has.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum KeyError {
    /// The text does not have the shape of a key.
    #[error("malformed {part} in object key \"{key}\"")]
    Malformed {
        /// The part that is missing or wrong.
        part: &'static str,
        /// The whole key.
        key: String,
    },
    /// The spread does not belong to the generation and session that follow it.
    #[error("object key \"{key}\" has spread \"{found}\", its session's is \"{expected}\"")]
    WrongSpread {
        /// The whole key.
        key: String,
        /// What the session's spread is.
        expected: String,
        /// What stands in the key.
        found: String,
    },
}

impl ObjectId {
    /// The key under which the object is stored.
    pub fn key(&self) -> String {
        let mut key = self.session_prefix();
        write!(key, "{:020}", self.sequence).expect("writing to a String succeeds");
        key
    }

    /// What the keys of all objects of this object's session begin with, up to and including the last slash: the
    /// prefix by which they are listed.
    pub fn session_prefix(&self) -> String {
        format!(
            "{}/{L0}/{}/{}-{:020}/",
            self.cluster,
            spread(self.generation, self.session),
            self.generation,
            self.session.0
        )
    }

    /// The object that has this key; the inverse of [`ObjectId::key`].
    pub fn parse_key(key: &str) -> Result<ObjectId, KeyError> {
        let malformed = |part| KeyError::Malformed { part, key: key.to_owned() };
        let mut parts = key.split('/');
        let mut next = |part| parts.next().ok_or_else(|| malformed(part));

        let cluster: ClusterId = next("cluster")?.parse().map_err(|_| malformed("cluster"))?;
        if next("level")? != L0 {
            return Err(malformed("level"));
        }
        let found = next("spread")?;
        let (generation, session) = next("generation and session")?
            .rsplit_once('-')
            .ok_or_else(|| malformed("generation and session"))?;
        let generation: Generation = generation.parse().map_err(|_| malformed("generation"))?;
        let session = SessionId(padded_decimal(session).ok_or_else(|| malformed("session"))?);
        let sequence = padded_decimal(next("sequence")?).ok_or_else(|| malformed("sequence"))?;
        if parts.next().is_some() {
            return Err(malformed("end"));
        }

        let expected = spread(generation, session);
        if found != expected {
            return Err(KeyError::WrongSpread {
                key: key.to_owned(),
                expected,
                found: found.to_owned(),
            });
        }
        Ok(ObjectId { cluster, generation, session, sequence })
    }
}

/// The four hexadecimal digits that spread sessions over the key space.
fn spread(generation: Generation, session: SessionId) -> String {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&generation.counter.to_le_bytes());
    bytes[4..12].copy_from_slice(&generation.random.to_le_bytes());
    bytes[12..].copy_from_slice(&session.0.to_le_bytes());
    let hash = SipHasher13::new_with_keys(0, 0).hash(&bytes);
    format!("{:04x}", hash >> 48)
}

/// A number of exactly 20 decimal digits.
fn padded_decimal(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|digit| digit.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id() -> ObjectId {
        ObjectId {
            cluster: ClusterId(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)),
            generation: Generation { counter: 1, random: 0xfeed_face_cafe_beef },
            session: SessionId(42),
            sequence: 7,
        }
    }

    #[test]
    fn a_key_reads_back_as_its_object() {
        assert_eq!(ObjectId::parse_key(&id().key()), Ok(id()));
    }

    #[test]
    fn a_session_s_keys_sort_by_sequence() {
        let key = |sequence| ObjectId { sequence, ..id() }.key();
        assert!(key(9) < key(10));
        assert!(key(u64::MAX - 1) < key(u64::MAX));
        assert!(key(3).starts_with(&id().session_prefix()));
    }

    #[test]
    fn a_key_with_another_session_s_spread_is_refused() {
        let key = id().key();
        let spread = key.split('/').nth(2).unwrap();
        let other = if spread == "0000" { "0001" } else { "0000" };
        let forged = key.replacen(spread, other, 1);
        assert!(matches!(ObjectId::parse_key(&forged), Err(KeyError::WrongSpread { .. })));
    }

    #[test]
    fn whatever_differs_from_the_one_form_is_refused() {
        let key = id().key();
        for wrong in [
            String::new(),
            "/".to_owned(),
            format!("{key}/"),
            format!("/{key}"),
            key.replace("/l0/", "/l1/"),
            key.replace("00000000000000000007", "7"),
            key.replace("00000000000000000007", "+0000000000000000007"),
            key.replace("00000000000000000007", "99999999999999999999"),
            key.to_uppercase(),
        ] {
            assert!(ObjectId::parse_key(&wrong).is_err(), "{wrong}");
        }
    }
}
