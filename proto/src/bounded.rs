//! The codec of all services: prost's, which first counts what it is about to allocate.
//!
//! BOUND: an entry of a repeated field takes two bytes on the wire and a hundred in memory, so that a limit on bytes
//! alone is none. Messages that anybody may send get a limit on their entries, too.

use crate::to_status;
use crate::v1::{ErrorCode, ErrorInfo, ProduceRequest};
use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use std::any::TypeId;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// The most batches in one [`ProduceRequest`].
pub const MAX_MESSAGE_BATCHES: usize = 65_536;

/// No batch with its partition is shorter on the wire. Besides a few that may be wrong, a message has no more entries
/// than its length allows at this size, so that it takes but a few times its length in memory.
const MIN_BATCH_BYTES: usize = 64;
const FEW: usize = 64;

/// How many fields a message of type `T` and of this length may have, if that is limited.
fn most_fields<T: 'static>(length: usize) -> Option<usize> {
    let most = (FEW + length / MIN_BATCH_BYTES).min(MAX_MESSAGE_BATCHES);
    (TypeId::of::<T>() == TypeId::of::<ProduceRequest>()).then_some(most)
}

/// Whether the encoded message has more fields at its top level than `most`. Looks at tags and lengths alone; what is
/// malformed is left to the decoder.
fn has_more_fields(mut message: &[u8], most: usize) -> bool {
    let mut fields = 0;
    while message.has_remaining() && fields <= most {
        let Ok((tag, wire_type)) = decode_key(&mut message) else { return false };
        if skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_err() {
            return false;
        }
        fields += 1;
    }
    fields > most
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::default())
    }
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U> Default for BoundedDecoder<U> {
    fn default() -> Self {
        Self(ProstDecoder::default())
    }
}

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The message lies in one piece.
        if let Some(most) = most_fields::<U>(buf.remaining())
            && has_more_fields(buf.chunk(), most)
        {
            let message = format!("a message of its length has more than {most} batches");
            return Err(to_status(ErrorInfo::new(ErrorCode::InvalidArgument, message)));
        }
        self.0.decode(buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::ProduceBatch;

    #[test]
    fn entries_are_counted_without_decoding_them() {
        let batch =
            ProduceBatch { correlation: 1, batch: vec![0; 300].into(), ..Default::default() };
        let message = ProduceRequest { batches: vec![batch; 3] }.encode_to_vec();
        assert!(!has_more_fields(&message, 3));
        assert!(has_more_fields(&message, 2));
        // As small as an entry can be: two bytes.
        assert!(has_more_fields(&[10, 0].repeat(MAX_MESSAGE_BATCHES + 1), MAX_MESSAGE_BATCHES));
        assert!(!has_more_fields(&message[..message.len() - 1], 2), "for the decoder to refuse");
    }

    #[test]
    fn only_what_anybody_may_send_is_limited() {
        assert_eq!(most_fields::<ProduceRequest>(6_400), Some(FEW + 100));
        assert_eq!(most_fields::<ProduceRequest>(1 << 30), Some(MAX_MESSAGE_BATCHES));
        assert_eq!(most_fields::<crate::v1::AttachResponse>(6_400), None);
    }
}
