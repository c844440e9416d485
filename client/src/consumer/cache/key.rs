//! What a slice goes by in the cache.

use std::io::{Read, Write};

use foyer::Code;

use crate::consumer::plan::Slice;

const BYTES: usize = 60;

/// Cluster, generation, session, sequence, start and end, all as fixed numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SliceKey([u8; BYTES]);

impl SliceKey {
    pub(super) fn of(slice: &Slice) -> Self {
        let object = &slice.object;
        let mut key = [0; BYTES];
        key[..16].copy_from_slice(&object.cluster.to_bytes());
        key[16..20].copy_from_slice(&object.generation.counter.to_le_bytes());
        let numbers =
            [object.generation.random, object.session.0, object.sequence, slice.start, slice.end];
        for (place, number) in key[20..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        Self(key)
    }
}

impl Code for SliceKey {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer.write_all(&self.0).map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut key = [0; BYTES];
        reader.read_exact(&mut key).map_err(foyer::Error::io_error)?;
        Ok(Self(key))
    }

    fn estimated_size(&self) -> usize {
        BYTES
    }
}
