//! The identities that stand in keys, headers and commits.
//!
//! All of them are plain numbers: `Copy`, ordered, hashable. Names of topics never take part, so that a topic
//! deleted and created again is another one.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use uuid::Uuid;

/// A cluster's identity, minted when it is created and kept for good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterId(pub Uuid);

/// A topic's identity, minted when the topic is created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicId(pub Uuid);

impl ClusterId {
    /// Key of the object by which a store is known to be the cluster's: its first agent puts it there, and no cluster
    /// has a store without it.
    pub fn marker_key(self) -> String {
        format!("{self}/marker")
    }
}

macro_rules! uuid_id {
    ($id:ident) => {
        impl $id {
            /// The sixteen bytes, in the order in which RFC 9562 writes them.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// The id made of these sixteen bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl From<[u8; 16]> for $id {
            fn from(bytes: [u8; 16]) -> Self {
                Self::from_bytes(bytes)
            }
        }

        impl From<$id> for [u8; 16] {
            fn from(id: $id) -> Self {
                id.to_bytes()
            }
        }

        impl FromStr for $id {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hyphenated(text)
                    .map(Self)
                    .ok_or_else(|| IdError { what: stringify!($id), found: text.to_owned() })
            }
        }
    };
}

uuid_id!(ClusterId);
uuid_id!(TopicId);

/// Only the one canonical spelling counts, so that an id has exactly one text and a key exactly one form.
fn parse_hyphenated(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    let mut canonical = Uuid::encode_buffer();
    (*uuid.as_hyphenated().encode_lower(&mut canonical) == *text).then_some(uuid)
}

/// One life of a cluster's metadata: minted when the cluster is created, restored from a backup or rebuilt.
///
/// Ordered by the counter first; the random half tells two restores of the same backup apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation {
    /// Counts the lives of this cluster, from 1.
    pub counter: u32,
    /// Drawn at random when the generation is minted.
    pub random: u64,
}

impl fmt::Display for Generation {
    /// Both halves in lower-case hexadecimal, zero-padded: `00000001-00000000000000ff`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:016x}", self.counter, self.random)
    }
}

impl FromStr for Generation {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let parse = || {
            let (counter, random) = text.split_once('-')?;
            let generation = Self {
                counter: u32::from_str_radix(counter, 16).ok()?,
                random: u64::from_str_radix(random, 16).ok()?,
            };
            (generation.to_string() == text).then_some(generation)
        };
        parse().ok_or_else(|| IdError { what: "Generation", found: text.to_owned() })
    }
}

/// An agent's session: the Raft index of its registration, so it is unique and ordered within a generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one PUT writes: the n-th object of one session. Its key in the bucket follows from it, see
/// [`ObjectId::key`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId {
    /// The cluster that owns the object.
    pub cluster: ClusterId,
    /// The life of the cluster in which it was written.
    pub generation: Generation,
    /// The session that wrote it.
    pub session: SessionId,
    /// Its number within the session.
    pub sequence: u64,
}

/// A text that is not the canonical form of an id.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("malformed {what}: \"{found}\"")]
pub struct IdError {
    /// Which kind of id was expected.
    pub what: &'static str,
    /// What stood there instead.
    pub found: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_hyphenated_and_read_back() {
        let bytes = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 1, 2, 3, 4, 5, 6, 7];
        let topic = TopicId::from(bytes);
        assert_eq!(topic.to_string(), "01234567-89ab-cdef-0001-020304050607");
        assert_eq!(topic.to_string().parse(), Ok(topic));
        assert_eq!(<[u8; 16]>::from(topic), bytes);
    }

    #[test]
    fn a_uuid_in_another_spelling_is_refused() {
        for text in [
            "0123456789abcdef0001020304050607",
            "01234567-89AB-cdef-0001-020304050607",
            "{01234567-89ab-cdef-0001-020304050607}",
            "",
        ] {
            assert!(text.parse::<ClusterId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_generation_is_ordered_by_its_counter_first() {
        let earlier = Generation { counter: 1, random: u64::MAX };
        let later = Generation { counter: 2, random: 0 };
        assert!(earlier < later);
        assert!(later < Generation { random: 1, ..later });
    }

    #[test]
    fn a_generation_has_one_text() {
        let generation = Generation { counter: 1, random: 0xff };
        assert_eq!(generation.to_string(), "00000001-00000000000000ff");
        assert_eq!("00000001-00000000000000ff".parse(), Ok(generation));
        for text in ["1-ff", "00000001", "+0000001-00000000000000ff", "00000001-00000000000000FF"] {
            assert!(text.parse::<Generation>().is_err(), "{text}");
        }
    }
}
