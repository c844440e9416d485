//! Bytes that must never change: what released versions wrote, later ones read, and what they compute stays put.

mod common;

use common::{Plain, encode, hex, object_id, read, small_object, unhex};
use streamhouse_segment::*;

fn records() -> Vec<Plain> {
    vec![
        Plain::new(1_700_000_000_000, "AF1", "CDG JFK CDG JFK CDG JFK CDG JFK"),
        Plain {
            key: None,
            headers: vec![("trace".to_owned(), Some(vec![1, 2])), ("null".to_owned(), None)],
            ..Plain::new(1_700_000_000_300, "", "")
        },
        Plain { value: None, ..Plain::new(1_699_999_999_999, "AF1", "") },
    ]
}

const PRODUCER: ProducerInfo = ProducerInfo { id: 4660, epoch: 7, base_sequence: 100 };

#[test]
fn object_keys_stay_where_they_are() {
    let key = "01234567-89ab-cdef-0123-456789abcdef/l0/7f46/00000001-feedfacecafebeef-00000000000000000042/00000000000000000007";
    assert_eq!(object_id().key(), key);
    assert_eq!(ObjectId::parse_key(key), Ok(object_id()));
}

const PLAIN_BATCH: &str = "\
    00000000000000000000007bffffffff026402c69c0000000000020000018bcfe568000000018bcfe5692c0000000000\
    0012340007000000640000000350000000064146313e434447204a464b20434447204a464b20434447204a464b204344\
    47204a464b002c00d804020100040a7472616365040102086e756c6c0112000104064146310100\
";

#[test]
fn a_plain_batch_is_written_and_read_as_ever() {
    assert_eq!(hex(&encode(&records(), Compression::None, PRODUCER)), PLAIN_BATCH);
    let expected: Vec<_> = (0..).zip(records()).collect();
    assert_eq!(read(unhex(PLAIN_BATCH).into()), Ok(expected));
}

/// Written by the reference liblz4 through the kafka-protocol crate: what is compressed may differ from one version of
/// a compressor to the next, so only reading is pinned.
const LZ4_BATCH: &str = "\
    000000000000000000000082ffffffff025441926f0003000000020000018bcfe567ff0000018bcfe5692c0000000000\
    0012340007000000640000000304224d187440bd3a000000ff0250000200064146313e434447204a464b20080004f013\
    002c00da04020100040a7472616365040102086e756c6c0112000004064146310100af1c1d5d00000000eb6b0edc\
";

#[test]
fn an_lz4_batch_is_read_as_ever() {
    let expected: Vec<_> = (0..).zip(records()).collect();
    let batch = unhex(LZ4_BATCH);
    assert_eq!(BatchHeader::parse(&batch).unwrap().compression(), Ok(Compression::Lz4));
    assert_eq!(read(batch.into()), Ok(expected));
}

const OBJECT: &str = "\
    53484f424a454354010040000123456789abcdef0123456789abcdef01000000efbefecacefaedfe2a00000000000000\
    0700000000000000000000006f640b3500000000000003e800000053000000030212634ede0000000000010000018bcf\
    e568000000018bcfe56807ffffffffffffffffffffffffffff0000000220000000064146310e434447204a464b002000\
    0e02064c48320e465241204e52540000000000000003ea000000530000000302c3c3548a0000000000010000018bcfe5\
    68000000018bcfe56807000000000000000500017fffffff0000000220000000064146310e434447204a464b0020000e\
    02064c48320e465241204e525400000000000000000000000053000000030212634ede0000000000010000018bcfe568\
    000000018bcfe56807ffffffffffffffffffffffffffff0000000220000000064146310e434447204a464b0020000e02\
    064c48320e465241204e5254000123456789abcdef0123456789abcdef01000000efbefecacefaedfe2a000000000000\
    0007000000000000000200000003000000abababababababababababababababab0000000003000000f4010000000000\
    00e803000000000000eb03000000000000040000004000000000000000be000000a5f1c85d7b68e5cf8b0100000068e5\
    cf8b0100000768e5cf8b0100000000010000000000000005000000000000000100ffffff7f00000000ea030000000000\
    00eb03000000000000abababababababababababababababab0900000003000000000000000000000000000000000000\
    00010000000000000002000000fe000000000000005f000000054c23ae7b68e5cf8b0100000068e5cf8b0100000768e5\
    cf8b01000000000000000000000000040000000000000001000000000500000000000000010000000106000000000000\
    000100000002000000004d01000075ed2aea5348464f4f544552\
";

#[test]
fn an_object_is_written_and_read_as_ever() {
    let written = small_object();
    assert_eq!(hex(&written.to_bytes()), OBJECT);
    let read = Object::parse(unhex(OBJECT).into()).unwrap();
    read.verify(&Limits::default()).unwrap();
    assert_eq!(read.header.id, object_id());
    assert_eq!(read.footer.slices, written.slices);
    assert_eq!(read.footer.outcomes.len(), 3);
}
