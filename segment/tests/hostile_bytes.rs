//! Whatever the bytes, the answer is a value or an error: no panic, no skipped check, no memory beyond the limit.

mod common;

use bytes::Bytes;
use common::{Plain, compression, encode, plain_record, read, small_object};
use proptest::prelude::*;
use streamhouse_segment::*;

/// Gives the batch a checksum that holds, as a hostile producer would.
fn reseal(batch: &mut [u8]) {
    if batch.len() >= 21 {
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

/// Reads to the end, whatever there is.
fn exhaust(bytes: &[u8]) {
    let limits = Limits { max_decompressed_bytes: 1 << 20, ..Limits::default() };
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = BatchHeader::parse(&bytes);
    let _ = validate_for_produce(&bytes, &limits);
    split(bytes.clone()).for_each(drop);
    if let Ok(decoded) = decode(bytes.clone(), &limits) {
        let results: Vec<_> = decoded.records().collect();
        for record in results.iter().flatten() {
            record.headers.iter().for_each(drop);
            assert!(record.offset >= decoded.header.base_offset);
            assert!(record.offset <= decoded.header.last_offset());
        }
        let good = results.iter().flatten().count();
        assert!(good == decoded.record_count() as usize || results.last().unwrap().is_err());
        assert_eq!(good, decoded.record_refs().flatten().count());
    }
    let _ = ObjectHeader::parse(&bytes);
    let _ = Trailer::parse(&bytes);
    let _ = verify_slice(&bytes, crc32c::crc32c(&bytes), 0, 0);
    if let Ok(object) = Object::parse(bytes) {
        let _ = object.verify(&limits);
    }
}

proptest! {
    #![proptest_config(common::cases(256))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        exhaust(&bytes);
        // Again as the records of a batch that is otherwise in order, and as a footer.
        for compression in [Compression::None, Compression::Lz4] {
            let batch = encode(&[Plain::new(0, "", "")], compression, ProducerInfo::NONE);
            let mut batch = [&batch[..61], &bytes].concat();
            let length = batch.len() as i32 - 12;
            batch[8..12].copy_from_slice(&length.to_be_bytes());
            reseal(&mut batch);
            exhaust(&batch);
        }
        let trailer = Trailer { footer_length: bytes.len() as u32, footer_crc: crc32c::crc32c(&bytes) };
        let _ = Footer::parse(&bytes, &trailer);
    }

    #[test]
    fn a_flipped_bit_in_a_batch_is_detected(
        records in proptest::collection::vec(plain_record(), 1..5),
        compression in compression(),
        place: prop::sample::Index,
        bit in 0..8_u8,
    ) {
        let batch = encode(&records, compression, ProducerInfo::NONE);
        let mut flipped = batch.to_vec();
        let at = place.index(flipped.len());
        flipped[at] ^= 1 << bit;
        exhaust(&flipped);
        // Base offset and leader epoch are the agent's to write: all else is covered.
        if !(0..8).contains(&at) && !(12..16).contains(&at) {
            prop_assert!(validate(&flipped, &Limits::default()).is_err());
            prop_assert!(read(flipped.into()).is_err());
        }
    }

    #[test]
    fn a_damaged_batch_with_a_checksum_that_holds_never_panics(
        records in proptest::collection::vec(plain_record(), 1..5),
        compression in compression(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut batch = encode(&records, compression, ProducerInfo::NONE).to_vec();
        for (place, byte) in damage {
            // Behind the length, which would only make the batch incomplete.
            let at = 21 + place.index(batch.len() - 21);
            batch[at] = byte;
        }
        reseal(&mut batch);
        exhaust(&batch);
    }

    #[test]
    fn a_damaged_footer_with_a_checksum_that_holds_never_panics(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let object = small_object().to_bytes();
        let trailer = Trailer::parse(&object[object.len() - 16..]).unwrap();
        let end = object.len() - 16;
        let start = end - trailer.footer_length as usize;
        let mut bytes = object.to_vec();
        for (place, byte) in damage {
            bytes[start + place.index(end - start)] = byte;
        }
        let crc = crc32c::crc32c(&bytes[start..end]);
        bytes[end + 4..end + 8].copy_from_slice(&crc.to_le_bytes());
        exhaust(&bytes);
    }
}

#[test]
fn any_flipped_bit_in_an_object_is_detected() {
    let object = small_object().to_bytes();
    let intact = Object::parse(object.clone()).unwrap();
    intact.verify(&Limits::default()).unwrap();
    for at in 0..object.len() {
        for bit in 0..8 {
            let mut flipped = object.to_vec();
            flipped[at] ^= 1 << bit;
            let verdict =
                Object::parse(flipped.into()).and_then(|object| object.verify(&Limits::default()));
            assert!(verdict.is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn an_object_cut_or_continued_anywhere_is_refused() {
    let object = small_object().to_bytes();
    for len in 0..object.len() {
        assert!(Object::parse(object.slice(..len)).is_err(), "{len}");
    }
    let mut longer = object.to_vec();
    longer.push(0);
    assert!(Object::parse(longer.into()).is_err());
}

#[test]
fn an_lz4_bomb_is_refused() {
    // 64 MiB and one byte of zeros: a quarter of a megabyte when compressed.
    let limits = Limits::default();
    let zeros = vec![0; limits.max_decompressed_bytes + 1];
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    let frame = encoder.finish().unwrap();
    assert!(frame.len() < 1 << 20);

    let batch = encode(&[Plain::new(0, "", "")], Compression::Lz4, ProducerInfo::NONE);
    let mut bomb = [&batch[..61], &frame].concat();
    let length = bomb.len() as i32 - 12;
    bomb[8..12].copy_from_slice(&length.to_be_bytes());
    reseal(&mut bomb);
    assert!(validate(&bomb, &limits).is_ok(), "it looks like any other batch");
    let too_large =
        BatchError::DecompressedTooLarge { limit: limits.max_decompressed_bytes as u64 };
    // No agent takes what no consumer could read.
    assert_eq!(validate_for_produce(&bomb, &limits), Err(too_large));
    assert_eq!(decode(bomb.into(), &limits).unwrap_err(), too_large);
}

#[test]
fn more_records_promised_than_there_can_be_are_refused_at_once() {
    let mut batch =
        encode(&[Plain::new(0, "", "")], Compression::None, ProducerInfo::NONE).to_vec();
    batch[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    reseal(&mut batch);
    assert!(matches!(decode(batch.into(), &Limits::default()), Err(BatchError::Truncated { .. })));
}

#[test]
fn bytes_behind_the_last_record_are_refused() {
    let batch = encode(&[Plain::new(0, "k", "v")], Compression::None, ProducerInfo::NONE);
    let mut longer = [&batch[..], &[0; 3]].concat();
    let length = longer.len() as i32 - 12;
    longer[8..12].copy_from_slice(&length.to_be_bytes());
    reseal(&mut longer);
    assert_eq!(read(longer.into()), Err(BatchError::TrailingBytes { found: 3 }));
}

#[test]
fn offsets_that_do_not_rise_are_refused() {
    let batch = encode(
        &[Plain::new(0, "k", "v"), Plain::new(0, "k", "v")],
        Compression::None,
        ProducerInfo::NONE,
    );
    let mut batch = batch.to_vec();
    // Both records are nine bytes long; the offset delta follows length, attributes and timestamp delta.
    assert_eq!((batch.len(), batch[61 + 9 + 3]), (61 + 18, 2));
    batch[61 + 9 + 3] = 0;
    reseal(&mut batch);
    assert!(matches!(read(batch.into()), Err(BatchError::MalformedRecord { index: 1, .. })));
}
