//! What the integration tests share: records, batches and objects to try things on.
#![allow(dead_code, reason = "each test binary uses some of it")]

use bytes::Bytes;
use proptest::prelude::*;
use streamhouse_segment::*;

/// So many cases, and no file of failures: what fails becomes a test of its own.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// A record as an application has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plain {
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Plain {
    pub fn new(timestamp: i64, key: &str, value: &str) -> Self {
        Self {
            timestamp,
            key: Some(key.as_bytes().to_vec()),
            value: Some(value.as_bytes().to_vec()),
            headers: Vec::new(),
        }
    }
}

pub fn plain_record() -> impl Strategy<Value = Plain> {
    let bytes = |max| proptest::option::of(proptest::collection::vec(any::<u8>(), 0..max));
    let header = ("\\PC{0,12}", bytes(20));
    (
        any::<i64>(),
        bytes(40),
        // Some long and repetitive, so that there is something to compress.
        prop_oneof![
            bytes(300),
            (any::<u8>(), 0..20_000_usize).prop_map(|(byte, len)| Some(vec![byte; len]))
        ],
        proptest::collection::vec(header, 0..4),
    )
        .prop_map(|(timestamp, key, value, headers)| Plain { timestamp, key, value, headers })
}

pub fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::None), Just(Compression::Lz4)]
}

pub fn encode(records: &[Plain], compression: Compression, producer: ProducerInfo) -> Bytes {
    let mut builder = BatchBuilder::new(compression, Limits::default());
    for (index, record) in records.iter().enumerate() {
        let offset = builder
            .push(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers)
            .unwrap();
        assert_eq!(offset as usize, index);
    }
    builder.finish(producer).unwrap()
}

/// The records of a batch, as an application would have given them, with their offsets.
pub fn read(batch: Bytes) -> Result<Vec<(i64, Plain)>, BatchError> {
    let decoded = decode(batch, &Limits::default())?;
    let records: Vec<_> = decoded
        .records()
        .map(|record| record.map(|record| owned(&record)))
        .collect::<Result<_, _>>()?;
    let borrowed: Vec<_> = decoded
        .record_refs()
        .map(|record| record.map(|record| owned_ref(&record)))
        .collect::<Result<_, _>>()?;
    assert_eq!(records, borrowed, "both iterators say the same");
    Ok(records)
}

fn owned(record: &Record) -> (i64, Plain) {
    let plain = Plain {
        timestamp: record.timestamp,
        key: record.key.as_deref().map(<[u8]>::to_vec),
        value: record.value.as_deref().map(<[u8]>::to_vec),
        headers: (record.headers.iter())
            .map(|(name, value)| (name.into_owned(), value.map(<[u8]>::to_vec)))
            .collect(),
    };
    (record.offset, plain)
}

fn owned_ref(record: &RecordRef<'_>) -> (i64, Plain) {
    let plain = Plain {
        timestamp: record.timestamp,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: (record.headers.iter())
            .map(|(name, value)| (name.into_owned(), value.map(<[u8]>::to_vec)))
            .collect(),
    };
    (record.offset, plain)
}

pub fn object_id() -> ObjectId {
    ObjectId {
        cluster: "01234567-89ab-cdef-0123-456789abcdef".parse().unwrap(),
        generation: Generation { counter: 1, random: 0xfeed_face_cafe_beef },
        session: SessionId(42),
        sequence: 7,
    }
}

pub fn slice_start(partition: u32, base_offset: u64) -> SliceStart {
    SliceStart {
        topic: TopicId::from_bytes([0xab; 16]),
        partition,
        lease_epoch: 3,
        epoch_start_offset: base_offset / 2,
        base_offset,
        append_time_ms: 1_700_000_000_123,
    }
}

/// Two slices, three batches, all that a footer can hold.
pub fn small_object() -> EncodedObject {
    let producer = ProducerInfo { id: 5, epoch: 1, base_sequence: i32::MAX };
    let records = [
        Plain::new(1_700_000_000_000, "AF1", "CDG JFK"),
        Plain::new(1_700_000_000_007, "LH2", "FRA NRT"),
    ];
    let mut builder = ObjectBuilder::new(object_id(), 1000);
    builder.begin_slice(slice_start(0, 1000)).unwrap();
    let first = encode(&records, Compression::None, ProducerInfo::NONE);
    assert_eq!(builder.append_batch(&first), Ok((1000, 1001)));
    let second = encode(&records, Compression::None, producer);
    assert_eq!(builder.append_batch(&second), Ok((1002, 1003)));
    builder.begin_slice(slice_start(9, 0)).unwrap();
    assert_eq!(builder.append_batch(&first), Ok((0, 1)));
    let outcome = |sequence, outcome| SliceOutcome { sequence, slice: 1, outcome };
    builder
        .finish(&[
            outcome(4, Outcome::Accepted),
            outcome(5, Outcome::Refused),
            outcome(6, Outcome::Abandoned),
        ])
        .unwrap()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = (text.chars())
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
