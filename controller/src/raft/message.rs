//! What controllers say to each other: the bodies of `Payload`.
//!
//! Every body begins with an envelope that binds the message to two disks:
//!
//! ```text
//! sender's node id u64 LE | sender's disk id | addressed disk's id | the message
//! ```
//!
//! A controller whose disk was replaced is another one, whatever its number:
//! it does not answer for the old disk, and the old disk's word is not taken
//! from it. Entries keep the bytes and checksums of [`super::entry`]; all else
//! is [`codec::encode_serde`].

use super::entry::{self, EntryError};
use super::types::{AppendRequest, DiskId, LogId, Vote};
use crate::codec::{self, CodecError};
use crate::state::command::{CommandBody, RequestKey};
use crate::state::reply::Reply;
use bincode::{Decode, Encode};
use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

const ENVELOPE: usize = 8 + 16 + 16;

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("message is cut off")]
    Short,
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Entry(#[from] EntryError),
}

/// Who speaks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) from: u64,
    pub(crate) from_disk: DiskId,
    pub(crate) to_disk: DiskId,
}

impl Envelope {
    /// The body of a message that `write` adds to.
    pub(crate) fn seal(&self, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut body = Vec::with_capacity(ENVELOPE + 256);
        body.put_u64_le(self.from);
        body.put_slice(&self.from_disk);
        body.put_slice(&self.to_disk);
        write(&mut body);
        body.into()
    }

    /// [`Envelope::seal`] around a value.
    pub(crate) fn seal_serde<T: Serialize>(&self, value: &T) -> Bytes {
        self.seal(|body| body.extend(codec::encode_serde(value)))
    }

    /// The envelope of `body`, and the message in it.
    pub(crate) fn open(mut body: Bytes) -> Result<(Self, Bytes), MessageError> {
        if body.len() < ENVELOPE {
            return Err(MessageError::Short);
        }
        let from = body.get_u64_le();
        let (mut from_disk, mut to_disk) = ([0; 16], [0; 16]);
        body.copy_to_slice(&mut from_disk);
        body.copy_to_slice(&mut to_disk);
        Ok((Self { from, from_disk, to_disk }, body))
    }
}

/// An append request without its entries.
#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev: Option<LogId>,
    commit: Option<LogId>,
    entries: u32,
}

/// Appends `request` to `body`: head length u32 LE, head, then each entry
/// behind its length u32 LE.
pub(crate) fn encode_append(request: &AppendRequest, body: &mut Vec<u8>) {
    let head = codec::encode_serde(&AppendHead {
        vote: request.vote,
        prev: request.prev_log_id,
        commit: request.leader_commit,
        entries: request.entries.len() as u32,
    });
    body.reserve(request.entries.iter().map(|e| entry::size(e) + 4).sum::<usize>());
    body.put_u32_le(head.len() as u32);
    body.extend(head);
    for entry in &request.entries {
        let at = body.len();
        body.put_u32_le(0);
        entry::encode(entry, body);
        let length = (body.len() - at - 4) as u32;
        body[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// The request in `body`; its commands share the bytes.
pub(crate) fn decode_append(mut body: Bytes) -> Result<AppendRequest, MessageError> {
    let head: AppendHead = codec::decode_serde(&take_sized(&mut body)?)?;
    let mut entries = Vec::new();
    for _ in 0..head.entries {
        entries.push(entry::decode(take_sized(&mut body)?)?);
    }
    Ok(AppendRequest {
        vote: head.vote,
        prev_log_id: head.prev,
        leader_commit: head.commit,
        entries,
    })
}

/// Appends messages to `body`, each behind its length u32 LE.
pub(crate) fn encode_many<'a>(messages: impl Iterator<Item = &'a [u8]>, body: &mut Vec<u8>) {
    for message in messages {
        body.put_u32_le(message.len() as u32);
        body.put_slice(message);
    }
}

/// The messages that [`encode_many`] wrote; they share the bytes.
pub(crate) fn decode_many(mut body: Bytes) -> Result<Vec<Bytes>, MessageError> {
    let mut messages = Vec::new();
    while !body.is_empty() {
        messages.push(take_sized(&mut body)?);
    }
    Ok(messages)
}

fn take_sized(body: &mut Bytes) -> Result<Bytes, MessageError> {
    let length = body.try_get_u32_le().map_err(|_| MessageError::Short)? as usize;
    if body.len() < length {
        return Err(MessageError::Short);
    }
    Ok(body.split_to(length))
}

/// A proposal passed on to the leader, which adds the time; several go in one
/// message.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) struct Forwarded {
    pub(crate) request: Option<RequestKey>,
    pub(crate) body: CommandBody,
}

/// The leader's answer to a [`Forwarded`]; in the order of these.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) enum ForwardAnswer {
    Applied(u64, Reply),
    NotLeader,
    TooLarge {
        bytes: u64,
        limit: u64,
    },
    Overloaded,
    Indeterminate(String),
    ShuttingDown,
    /// As `Overloaded`, saying of what.
    Shed(String),
    /// Only ever sent to one that knows of feature levels: it has gated the
    /// command itself.
    FeatureLevel {
        needs: u32,
        level: u32,
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{EncodedCommand, Entry, Payload};
    use proptest::prelude::*;

    fn request(commands: Vec<Vec<u8>>) -> AppendRequest {
        let entry = |(i, bytes): (usize, Vec<u8>)| Entry {
            log_id: LogId::new_term_index(4, 11 + i as u64),
            payload: Payload::Normal(EncodedCommand(bytes.into())),
        };
        AppendRequest {
            vote: Vote::new_committed(4, 2),
            prev_log_id: Some(LogId::new_term_index(3, 10)),
            leader_commit: None,
            entries: commands.into_iter().enumerate().map(entry).collect(),
        }
    }

    proptest! {
        #[test]
        fn an_append_request_survives(commands: Vec<Vec<u8>>) {
            let request = request(commands);
            let envelope = Envelope { from: 9, from_disk: [1; 16], to_disk: [2; 16] };
            let body = envelope.seal(|body| encode_append(&request, body));
            let (opened, message) = Envelope::open(body).unwrap();
            prop_assert_eq!(opened, envelope);
            let decoded = decode_append(message).unwrap();
            prop_assert_eq!(decoded.entries, request.entries);
            prop_assert_eq!(decoded.vote, request.vote);
            prop_assert_eq!(decoded.prev_log_id, request.prev_log_id);
            prop_assert_eq!(decoded.leader_commit, request.leader_commit);
        }

        #[test]
        fn garbage_is_an_error(bytes: Vec<u8>) {
            prop_assert!(decode_append(bytes.into()).is_err());
        }
    }
}
