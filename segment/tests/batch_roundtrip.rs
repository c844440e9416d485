//! What goes into a batch comes out of it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use common::{Plain, compression, encode, plain_record, read};
use proptest::prelude::*;
use streamhouse_segment::*;

proptest! {
    #![proptest_config(common::cases(128))]

    #[test]
    fn records_come_out_of_a_batch_as_they_went_in(
        records in proptest::collection::vec(plain_record(), 1..30),
        compression in compression(),
        base_offset in 0..i64::MAX / 2,
        epoch: i32,
    ) {
        let batch = encode(&records, compression, ProducerInfo::NONE);
        let header = validate_for_produce(&batch, &Limits::default()).unwrap();
        prop_assert_eq!(header.records_count as usize, records.len());
        prop_assert_eq!(header.base_timestamp, records[0].timestamp);
        prop_assert_eq!(header.max_timestamp, records.iter().map(|r| r.timestamp).max().unwrap());

        // Stamped by the agent, it is still valid: offset and epoch lie outside the checksum.
        let mut stamped = batch.to_vec();
        assign(&mut stamped, base_offset, epoch);
        let header = validate(&stamped, &Limits::default()).unwrap();
        prop_assert_eq!((header.base_offset, header.partition_leader_epoch), (base_offset, epoch));
        let expected: Vec<_> = (base_offset..).zip(records).collect();
        prop_assert_eq!(read(stamped.into()).unwrap(), expected);
    }

    #[test]
    fn batches_back_to_back_are_split_without_a_copy(
        batches in proptest::collection::vec(
            (proptest::collection::vec(plain_record(), 1..4), compression()), 1..6),
    ) {
        let batches: Vec<Bytes> = batches.iter()
            .map(|(records, compression)| encode(records, *compression, ProducerInfo::NONE))
            .collect();
        let joined: Bytes = batches.iter().flatten().copied().collect();
        let split: Vec<Bytes> = split(joined.clone()).map(Result::unwrap).collect();
        prop_assert_eq!(&split, &batches);
        for part in split {
            prop_assert!(joined.as_ptr_range().contains(&part.as_ptr()));
        }
    }
}

#[test]
fn splitting_ends_with_an_error_where_a_batch_is_cut() {
    let batch = encode(&[Plain::new(1, "k", "v")], Compression::None, ProducerInfo::NONE);
    let mut joined = BytesMut::from(&batch[..]);
    joined.extend_from_slice(&batch[..batch.len() - 1]);
    let mut parts = split(joined.freeze());
    assert_eq!(parts.next(), Some(Ok(batch)));
    assert!(matches!(parts.next(), Some(Err(BatchError::Truncated { .. }))));
    assert_eq!(parts.next(), None);
}

#[test]
fn keys_and_values_share_the_batch_s_buffer() {
    let batch = encode(&[Plain::new(1, "key", "value")], Compression::None, ProducerInfo::NONE);
    let decoded = decode(batch.clone(), &Limits::default()).unwrap();
    let record = decoded.records().next().unwrap().unwrap();
    for part in [record.key.unwrap(), record.value.unwrap()] {
        assert!(batch.as_ptr_range().contains(&part.as_ptr()));
    }
}

#[test]
fn repeated_headers_keep_their_order_and_the_last_one_counts() {
    let mut builder = BatchBuilder::new(Compression::None, Limits::default());
    let headers = [("trace", Some("a")), ("other", None), ("trace", Some("b"))];
    builder.push(1, None, None, &headers).unwrap();
    let batch = builder.finish(ProducerInfo::NONE).unwrap();
    let record = decode(batch, &Limits::default()).unwrap().records().next().unwrap().unwrap();
    let names: Vec<_> = record.headers.iter().map(|(name, _)| name.into_owned()).collect();
    assert_eq!(names, ["trace", "other", "trace"]);
    assert_eq!(record.headers.last("trace"), Some(&b"b"[..]));
    assert_eq!(record.headers.last("other"), None);
}

#[test]
fn records_of_a_batch_stamped_by_the_log_have_the_log_s_time() {
    let batch = encode(
        &[Plain::new(1, "k", "v"), Plain::new(9, "k", "v")],
        Compression::None,
        ProducerInfo::NONE,
    );
    let mut bytes = batch.to_vec();
    let mut header = BatchHeader::parse(&bytes).unwrap();
    header.attributes |= 1 << 3;
    bytes[..61].copy_from_slice(&header.to_bytes());
    header.crc = crc32c::crc32c(&bytes[21..]);
    bytes[..61].copy_from_slice(&header.to_bytes());
    let times: Vec<_> =
        read(bytes.into()).unwrap().into_iter().map(|(_, record)| record.timestamp).collect();
    assert_eq!(times, [9, 9]);
}

/// A buffer that tells when it is dropped.
struct Lent(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_lent_buffer_is_held_by_records_that_fill_it_and_not_by_a_few() {
    for (value, held) in [("v".to_owned(), false), ("v".repeat(50_000), true)] {
        let records = [Plain::new(1, "k", &value)];
        let batch = encode(&records, Compression::Lz4, ProducerInfo::NONE);
        let returned = Arc::new(AtomicBool::new(false));
        let buffer = Lent(vec![0; 64 << 10], returned.clone());
        let decoded = batch::decode_into(batch, buffer, &Limits::default()).unwrap();
        assert_eq!(returned.load(Ordering::Relaxed), !held);
        assert_eq!(decoded.buffer_bytes() == 64 << 10, held);
        let read: Vec<_> = decoded.into_iter().map(Result::unwrap).collect();
        assert_eq!(read[0].value.as_deref(), Some(value.as_bytes()));
        drop(read);
        assert!(returned.load(Ordering::Relaxed));
    }
}
