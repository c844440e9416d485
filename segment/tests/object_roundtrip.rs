//! What goes into an object comes out of it, and what should not go in is refused.

mod common;

use bytes::Bytes;
use common::{
    Plain, compression, encode, object_id, plain_record, read, slice_start, small_object,
};
use proptest::prelude::*;
use streamhouse_segment::object::SPARSE_INTERVAL_BYTES;
use streamhouse_segment::*;

fn producer() -> impl Strategy<Value = ProducerInfo> {
    prop_oneof![
        Just(ProducerInfo::NONE),
        (0..i64::MAX, 0..i16::MAX, 0..=i32::MAX)
            .prop_map(|(id, epoch, base_sequence)| { ProducerInfo { id, epoch, base_sequence } })
    ]
}

fn outcome() -> impl Strategy<Value = SliceOutcome> {
    let outcome =
        prop_oneof![Just(Outcome::Accepted), Just(Outcome::Refused), Just(Outcome::Abandoned)];
    (any::<u64>(), any::<u32>(), outcome).prop_map(|(sequence, slice, outcome)| SliceOutcome {
        sequence,
        slice,
        outcome,
    })
}

type Batch = (Vec<Plain>, Compression, ProducerInfo);

fn slices() -> impl Strategy<Value = Vec<(u64, Vec<Batch>)>> {
    let records = proptest::collection::vec(plain_record(), 1..6);
    let batch = (records, compression(), producer());
    let slice = (0..u64::MAX / 4, proptest::collection::vec(batch, 1..6));
    proptest::collection::vec(slice, 0..5)
}

proptest! {
    #![proptest_config(common::cases(64))]

    #[test]
    fn an_object_holds_what_was_put_into_it(
        slices in slices(),
        outcomes in proptest::collection::vec(outcome(), 0..10),
    ) {
        let mut builder = ObjectBuilder::new(object_id(), 0);
        for (partition, (base_offset, batches)) in slices.iter().enumerate() {
            builder.begin_slice(slice_start(partition as u32, *base_offset)).unwrap();
            let mut next = *base_offset;
            for (records, compression, producer) in batches {
                let batch = encode(records, *compression, *producer);
                let last = next + records.len() as u64 - 1;
                prop_assert_eq!(builder.append_batch(&batch), Ok((next, last)));
                next = last + 1;
            }
        }
        let size = builder.size();
        let encoded = builder.finish(&outcomes).unwrap();
        prop_assert_eq!(encoded.size, encoded.to_bytes().len() as u64);
        prop_assert_eq!(encoded.size, size + 13 * outcomes.len() as u64);

        let object = Object::parse(encoded.to_bytes()).unwrap();
        object.verify(&Limits::default()).unwrap();
        prop_assert_eq!(object.header.id, object_id());
        prop_assert_eq!(&object.footer.slices, &encoded.slices);
        prop_assert_eq!(&object.footer.outcomes, &outcomes);
        for (index, (base_offset, batches)) in slices.iter().enumerate() {
            check_slice(&object, index, *base_offset, batches);
        }
    }
}

fn check_slice(object: &Object, index: usize, base_offset: u64, batches: &[Batch]) {
    let meta = &object.footer.slices[index];
    let bytes = object.slice_bytes(index);
    verify_slice(&bytes, meta.crc32c, base_offset, meta.last_offset).unwrap();
    let expected: Vec<_> = batches.iter().flat_map(|(records, ..)| records.clone()).collect();
    assert_eq!(meta.record_count as usize, expected.len());
    let idempotent = batches.iter().filter(|(.., producer)| producer.id >= 0).count();
    assert_eq!(meta.producers.len(), idempotent);
    let found: Vec<_> = split(bytes).flat_map(|batch| read(batch.unwrap()).unwrap()).collect();
    let expected: Vec<_> = (base_offset as i64..).zip(expected).collect();
    assert_eq!(found, expected);
}

fn batch() -> Bytes {
    encode(&[Plain::new(1, "k", "v")], Compression::None, ProducerInfo::NONE)
}

#[test]
fn the_tail_alone_says_whose_object_it_is_and_where_its_slices_are() {
    let object = small_object();
    let bytes = object.to_bytes();
    let end = bytes.len() - TRAILER_BYTES;
    let trailer = Trailer::parse(&bytes[end..]).unwrap();
    assert_eq!(trailer.footer_crc, object.footer_crc);
    let start = end - trailer.footer_length as usize;
    let footer = Footer::parse(&bytes[start..end], &trailer).unwrap();
    assert_eq!(footer.id, object.id);
    assert_eq!(footer.slices, object.slices);
}

#[test]
fn a_slice_fetched_for_another_range_is_refused() {
    let object = small_object();
    let meta = &object.slices[0];
    let slice = Object::parse(object.to_bytes()).unwrap().slice_bytes(0);
    let verify = |bytes: &Bytes, base, last| verify_slice(bytes, crc32c::crc32c(bytes), base, last);
    assert_eq!(verify(&slice, 1000, 1003), Ok(()));
    assert!(matches!(
        verify_slice(&slice, meta.crc32c ^ 1, 1000, 1003),
        Err(ObjectError::WrongChecksum { .. })
    ));
    assert!(verify(&slice, 999, 1003).is_err());
    assert!(verify(&slice, 1000, 1004).is_err());
    assert!(verify(&slice.slice(1..), 1000, 1003).is_err());
    assert!(verify(&slice.slice(..slice.len() - 1), 1000, 1003).is_err());
    assert_eq!(
        verify(&Bytes::new(), 1000, 1003),
        Err(ObjectError::NoBatch { base_offset: 1000, last_offset: 1003 })
    );
    // The same batches in the wrong order.
    let half = slice.len() / 2;
    let swapped = [&slice[half..], &slice[..half]].concat().into();
    assert!(verify(&swapped, 1002, 1001).is_err());
}

#[test]
fn a_slice_without_a_batch_is_refused() {
    let mut builder = ObjectBuilder::new(object_id(), 0);
    assert_eq!(builder.append_batch(&batch()), Err(ObjectError::NoSlice));
    builder.begin_slice(slice_start(0, 0)).unwrap();
    let empty = ObjectError::EmptySlice { slice: 0 };
    assert_eq!(builder.begin_slice(slice_start(1, 0)), Err(empty));
    assert_eq!(builder.finish(&[]).unwrap_err(), empty);
}

#[test]
fn a_slice_too_many_is_refused_and_the_object_can_be_finished() {
    let mut builder = ObjectBuilder::new(object_id(), 0);
    for partition in 0..MAX_SLICES as u32 {
        builder.begin_slice(slice_start(partition, 0)).unwrap();
        builder.append_batch(&batch()).unwrap();
    }
    assert!(matches!(
        builder.begin_slice(slice_start(0, 0)),
        Err(ObjectError::OverLimit { limit: 4096, .. })
    ));
    assert_eq!(builder.append_batch(&batch()), Ok((1, 1)), "the last slice goes on");
    let object = Object::parse(builder.finish(&[]).unwrap().to_bytes()).unwrap();
    assert_eq!(object.footer.slices.len(), MAX_SLICES);
    object.verify(&Limits::default()).unwrap();
}

#[test]
fn an_offset_past_the_last_possible_one_is_refused() {
    let mut builder = ObjectBuilder::new(object_id(), 0);
    assert!(builder.begin_slice(slice_start(0, u64::MAX)).is_err());
    let last = i64::MAX as u64;
    builder.begin_slice(slice_start(0, last)).unwrap();
    assert_eq!(builder.append_batch(&batch()), Ok((last, last)));
    let size = builder.size();
    assert!(matches!(builder.append_batch(&batch()), Err(ObjectError::OverLimit { .. })));
    assert_eq!(builder.size(), size);
    assert_eq!(builder.finish(&[]).unwrap().slices[0].last_offset, last);
}

#[test]
fn something_that_is_no_batch_is_refused_and_leaves_the_slice_as_it_was() {
    let mut builder = ObjectBuilder::new(object_id(), 0);
    builder.begin_slice(slice_start(0, 0)).unwrap();
    let batch = batch();
    for wrong in [&batch[..60], &batch[..batch.len() - 1], &[&batch[..], &[0]].concat(), b""] {
        let wrong = Bytes::copy_from_slice(wrong);
        assert!(matches!(
            builder.append_batch(&wrong),
            Err(ObjectError::Batch { position: 0, .. })
        ));
    }
    assert_eq!(builder.append_batch(&batch), Ok((0, 0)));
}

#[test]
fn large_batches_are_shared_but_for_their_headers() {
    let sized = |bytes: usize| {
        let value = "x".repeat(bytes);
        encode(&[Plain::new(1, "k", &value)], Compression::None, ProducerInfo::NONE)
    };
    let batches = [10, 100_000, 40_000, 20, 30, 50_000].map(sized);
    let mut builder = ObjectBuilder::new(object_id(), 0);
    for (slice, pair) in batches.chunks(2).enumerate() {
        builder.begin_slice(slice_start(slice as u32, 7)).unwrap();
        assert_eq!(builder.append_batch(&pair[0]), Ok((7, 7)));
        assert_eq!(builder.append_batch(&pair[1]), Ok((8, 8)));
    }
    let size = builder.size();
    let encoded = builder.finish(&[]).unwrap();
    let shared = |batch: &Bytes| {
        let body = batch[61..].as_ptr();
        encoded.chunks.iter().any(|chunk| chunk.as_ptr() == body)
    };
    assert_eq!(batches.each_ref().map(shared), [false, true, true, false, false, true]);
    assert_eq!(encoded.chunks.len(), 7, "and what lies between them is gathered");
    let bytes = encoded.to_bytes();
    assert_eq!((size, encoded.size), (bytes.len() as u64, bytes.len() as u64));
    let object = Object::parse(bytes).unwrap();
    object.verify(&Limits::default()).unwrap();
    for (index, pair) in batches.chunks(2).enumerate() {
        let (meta, found) = (&object.footer.slices[index], object.slice_bytes(index));
        verify_slice(&found, meta.crc32c, 7, 8).unwrap();
        for (offset, (found, batch)) in (7..).zip(split(found).zip(pair)) {
            let header = BatchHeader::parse(found.as_ref().unwrap()).unwrap();
            assert_eq!(header.base_offset, offset);
            assert_eq!(found.unwrap()[61..], batch[61..]);
        }
    }
}

#[test]
fn the_sparse_index_leads_to_the_batch_that_holds_an_offset() {
    let value = "x".repeat(5000);
    let batch = encode(
        &[Plain::new(1, "a", &value), Plain::new(2, "b", &value)],
        Compression::None,
        ProducerInfo::NONE,
    );
    let mut builder = ObjectBuilder::new(object_id(), 0);
    builder.begin_slice(slice_start(0, 100)).unwrap();
    let mut batches = Vec::new();
    for _ in 0..60 {
        batches.push(builder.append_batch(&batch).unwrap());
    }
    let object = Object::parse(builder.finish(&[]).unwrap().to_bytes()).unwrap();
    object.verify(&Limits::default()).unwrap();
    let meta = &object.footer.slices[0];
    assert_eq!(meta.sparse_index.len(), 8, "600 kB, one point every 64 KiB or a batch more");

    let slice = object.slice_bytes(0);
    for (base, last) in batches {
        for offset in [base, last] {
            let start = meta.seek_position(offset) as usize;
            let (at, found) = (0..)
                .zip(split(slice.slice(start..)))
                .find(|(_, batch)| {
                    let header = BatchHeader::parse(batch.as_ref().unwrap()).unwrap();
                    header.last_offset() as u64 >= offset
                })
                .unwrap();
            let header = BatchHeader::parse(&found.unwrap()).unwrap();
            assert_eq!(header.base_offset as u64, base);
            assert!(at * batch.len() <= SPARSE_INTERVAL_BYTES as usize + batch.len());
        }
    }
}

#[test]
fn an_object_with_all_that_is_allowed_can_be_built() {
    let producer = ProducerInfo { id: 5, epoch: 1, base_sequence: 0 };
    let batch = encode(&[Plain::new(0, "", "")], Compression::None, producer);
    let mut builder = ObjectBuilder::new(object_id(), 8 << 20);
    for slice in 0..MAX_SLICES {
        builder.begin_slice(slice_start(slice as u32, 0)).unwrap();
        for _ in 0..MAX_BATCHES / MAX_SLICES {
            builder.append_batch(&batch).unwrap();
        }
    }
    let outcome = SliceOutcome { sequence: 1, slice: 0, outcome: Outcome::Accepted };
    assert!(builder.finish(&vec![outcome; MAX_OUTCOMES]).is_ok());
}

#[test]
fn an_object_without_slices_still_carries_outcomes() {
    let outcome = SliceOutcome { sequence: 6, slice: 0, outcome: Outcome::Abandoned };
    let encoded = ObjectBuilder::new(object_id(), 0).finish(&[outcome]).unwrap();
    let object = Object::parse(encoded.to_bytes()).unwrap();
    object.verify(&Limits::default()).unwrap();
    assert_eq!(object.footer.outcomes, [outcome]);
}

/// An object whose footer was changed and sealed again, as a bug in a writer would leave it.
fn verify_with(change: impl FnOnce(&mut Vec<u8>)) -> Result<(), ObjectError> {
    let object = small_object().to_bytes();
    let end = object.len() - TRAILER_BYTES;
    let length = Trailer::parse(&object[end..]).unwrap().footer_length as usize;
    let mut footer = object[end - length..end].to_vec();
    change(&mut footer);
    let mut bytes = object[..end - length].to_vec();
    bytes.extend_from_slice(&footer);
    bytes.extend_from_slice(&(footer.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&footer).to_le_bytes());
    bytes.extend_from_slice(&object[object.len() - 8..]);
    Object::parse(bytes.into())?.verify(&Limits::default())
}

#[test]
fn a_footer_that_does_not_describe_its_slices_is_refused() {
    assert_eq!(verify_with(|_| ()), Ok(()));
    // Places in the footer, by the layout in the module's documentation; the first slice begins at 52.
    let slice = 52;
    for (field, at) in [
        ("cluster", 0),
        ("sequence", 36),
        ("lease epoch", slice + 20),
        ("base offset", slice + 32),
        ("last offset", slice + 40),
        ("record count", slice + 48),
        ("position", slice + 52),
        ("length", slice + 60),
        ("checksum", slice + 64),
        ("min timestamp", slice + 76),
        ("max timestamp", slice + 84),
        ("flags", slice + 92),
        ("producer count", slice + 94),
        ("sparse point count", slice + 98),
        ("producer", slice + 102),
        ("last sequence", slice + 102 + 14),
    ] {
        assert!(verify_with(|footer| footer[at] ^= 1).is_err(), "{field}");
    }
}
