//! What a core makes of real records: rows of about 90 bytes, keyed, two thousand to a batch.
//!
//! `cargo bench -p streamhouse-segment`; "elem/s" are records.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flate2::read::MultiGzDecoder;
use streamhouse_segment::*;

const RECORDS: u32 = 2000;
const CODECS: [(&str, Compression); 2] = [("none", Compression::None), ("lz4", Compression::Lz4)];
/// The airline, by which flights are keyed: counting from 0.
const CARRIER: usize = 9;

/// Flights out of New York in 2013, as they are produced: airline and row.
fn flights() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/flights-sample.csv.gz");
    let file = File::open(path).expect("the sample is part of the repository");
    let lines = BufReader::new(MultiGzDecoder::new(file)).lines();
    let rows = lines.skip(1).take(RECORDS as usize).map(|row| row.expect("text"));
    rows.map(|row| (row.split(',').nth(CARRIER).unwrap_or_default().to_owned(), row)).collect()
}

fn encode(flights: &[(String, String)], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::with_capacity(compression, Limits::default(), 200_000);
    for (n, (key, value)) in (0..).zip(flights) {
        builder
            .push(1_700_000_000_000 + n, Some(key.as_bytes()), Some(value.as_bytes()), NO_HEADERS)
            .expect("the flights fit");
    }
    builder.finish(ProducerInfo::NONE).expect("there are flights")
}

fn batches(c: &mut Criterion) {
    let flights = flights();
    let limits = Limits::default();
    for (name, compression) in CODECS {
        let batch = encode(&flights, compression);
        let plain = decode(batch.clone(), &limits).expect("valid").decompressed_bytes();
        println!(
            "{name}: {} bytes a record, {} of them stored",
            plain / RECORDS as usize,
            batch.len() / RECORDS as usize
        );
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(RECORDS.into()));
        group.bench_function("decode, shared records", |b| {
            b.iter(|| {
                for record in decode(batch.clone(), &limits).expect("valid") {
                    black_box(record.expect("valid"));
                }
            });
        });
        group.bench_function("decode, borrowed records", |b| {
            b.iter(|| {
                let decoded = decode(batch.clone(), &limits).expect("valid");
                for record in &decoded {
                    black_box(record.expect("valid"));
                }
            });
        });
        group.bench_function("validate", |b| {
            b.iter(|| validate_for_produce(black_box(&batch), &limits).expect("valid"));
        });
        group.bench_function("encode", |b| b.iter(|| encode(black_box(&flights), compression)));
        group.finish();
    }
}

/// An agent's flush: 64 partitions, 2 MiB in all.
fn objects(c: &mut Criterion) {
    let batch = encode(&flights(), Compression::Lz4);
    let id = ObjectId {
        cluster: ClusterId::from_bytes([1; 16]),
        generation: Generation { counter: 1, random: 2 },
        session: SessionId(3),
        sequence: 4,
    };
    let build = || {
        let mut builder = ObjectBuilder::new(id, 64 * batch.len() + (64 << 10));
        for partition in 0..64 {
            builder
                .begin_slice(SliceStart {
                    topic: TopicId::from_bytes([5; 16]),
                    partition,
                    lease_epoch: 1,
                    epoch_start_offset: 0,
                    base_offset: 0,
                    append_time_ms: 0,
                })
                .expect("no slice is empty");
            builder.append_batch(&batch).expect("the batch is valid");
        }
        builder.finish(&[]).expect("no slice is empty")
    };
    let object = build();
    let bytes = object.to_bytes();
    let mut group = c.benchmark_group("object");
    group.throughput(Throughput::Bytes(object.size));
    group.bench_function("build", |b| b.iter_batched(|| (), |()| build(), BatchSize::PerIteration));
    group.bench_function("parse and verify", |b| {
        b.iter(|| {
            let object = Object::parse(bytes.clone()).expect("valid");
            object.verify(&Limits::default()).expect("valid");
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = batches, objects
}
criterion_main!(benches);
