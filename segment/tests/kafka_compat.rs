//! Our batches are Kafka's: another implementation, around the reference liblz4, reads ours, and we read its.

mod common;

use bytes::{Bytes, BytesMut};
use common::{Plain, encode, read};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression as KafkaCompression, Record as KafkaRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use streamhouse_segment::*;

const CODECS: [(Compression, KafkaCompression); 2] =
    [(Compression::None, KafkaCompression::None), (Compression::Lz4, KafkaCompression::Lz4)];

/// All shapes of a record, and enough of them for several LZ4 blocks.
fn records() -> Vec<Plain> {
    let mut records = vec![
        Plain::new(1_700_000_000_000, "key", "value"),
        Plain { key: None, ..Plain::new(1_700_000_000_010, "", "no key") },
        Plain { value: None, ..Plain::new(1_700_000_000_010, "tombstone", "") },
        Plain::new(1_700_000_000_011, "", ""),
        Plain {
            headers: vec![
                ("trace".to_owned(), Some(b"abc".to_vec())),
                ("null".to_owned(), None),
                ("flüge".to_owned(), Some(Vec::new())),
            ],
            ..Plain::new(1_700_000_000_500, "headers", "value")
        },
    ];
    records.extend((0..3000_u32).map(|n| {
        let hash = crc32c::crc32c(&n.to_le_bytes());
        Plain::new(
            1_700_000_001_000 + i64::from(n),
            &format!("AF{n}"),
            &format!("flight {n} from CDG to JFK, status {hash:x}, altitude {}", hash % 40_000),
        )
    }));
    records
}

fn to_kafka(offset: i64, sequence: i32, plain: &Plain, producer: ProducerInfo) -> KafkaRecord {
    let mut record = KafkaRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 4,
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence,
        timestamp: plain.timestamp,
        key: plain.key.clone().map(Bytes::from),
        value: plain.value.clone().map(Bytes::from),
        headers: Default::default(),
    };
    for (name, value) in &plain.headers {
        let name = StrBytes::from_string(name.clone());
        record.headers.insert(name, value.clone().map(Bytes::from));
    }
    record
}

const PRODUCER: ProducerInfo = ProducerInfo { id: 77, epoch: 3, base_sequence: 1000 };

#[test]
fn kafka_s_decoder_reads_our_batches() {
    for (ours, theirs) in CODECS {
        let records = records();
        let mut batch = encode(&records, ours, PRODUCER).to_vec();
        assign(&mut batch, 5000, 4);
        let set = RecordBatchDecoder::decode(&mut Bytes::from(batch)).unwrap();
        assert_eq!((set.compression, set.version), (theirs, 2));
        let expected: Vec<_> = (0..)
            .zip(&records)
            .map(|(n, plain)| to_kafka(5000 + n, 1000 + n as i32, plain, PRODUCER))
            .collect();
        assert_eq!(set.records, expected);
    }
}

#[test]
fn we_read_the_batches_of_kafka_s_encoder() {
    for (ours, theirs) in CODECS {
        let records = records();
        let kafka: Vec<_> = (0..)
            .zip(&records)
            .map(|(n, plain)| to_kafka(5000 + n, 1000 + n as i32, plain, PRODUCER))
            .collect();
        let mut buffer = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: theirs };
        RecordBatchEncoder::encode(&mut buffer, &kafka, &options).unwrap();
        let batch = buffer.freeze();

        let header = validate_for_produce(&batch, &Limits::default()).unwrap();
        assert_eq!(header.compression(), Ok(ours));
        assert_eq!((header.producer_id, header.base_sequence), (77, 1000));
        assert_eq!(header.last_sequence(), 1000 + records.len() as i32 - 1);
        let expected: Vec<_> = (5000..).zip(records).collect();
        assert_eq!(read(batch).unwrap(), expected);
    }
}

#[test]
fn without_compression_both_encoders_write_the_same_bytes() {
    let records = records();
    let ours = encode(&records, Compression::None, PRODUCER);
    let kafka: Vec<_> = (0..)
        .zip(&records)
        .map(|(n, plain)| KafkaRecord {
            partition_leader_epoch: -1,
            ..to_kafka(n, 1000 + n as i32, plain, PRODUCER)
        })
        .collect();
    let mut theirs = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: KafkaCompression::None };
    RecordBatchEncoder::encode(&mut theirs, &kafka, &options).unwrap();
    assert_eq!(ours, theirs);
}
