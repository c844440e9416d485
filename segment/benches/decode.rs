//! What a core makes of records like those of a flight tracker: about 90 bytes, a thousand or more to a batch.
//!
//! `cargo bench -p streamhouse-segment`; "elem/s" are records.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use streamhouse_segment::*;

const RECORDS: u32 = 2000;
const CODECS: [(&str, Compression); 2] = [("none", Compression::None), ("lz4", Compression::Lz4)];

/// Call sign and position report: repetitive text around numbers that are not.
fn flights() -> Vec<(String, String)> {
    (0..RECORDS)
        .map(|n| {
            let noise = crc32c::crc32c(&n.to_le_bytes());
            let value = format!(
                "{{\"lat\":{}.{:04},\"lon\":-{}.{:04},\"alt\":{},\"speed\":{},\"heading\":{}}}",
                40 + noise % 9,
                noise % 9973,
                60 + noise % 17,
                noise % 9949,
                20_000 + noise % 19_001,
                380 + noise % 97,
                noise % 360
            );
            (format!("AF{:05}", noise % 2003), value)
        })
        .collect()
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
    let mut group = c.benchmark_group("object");
    group.throughput(Throughput::Bytes(object.size));
    group.bench_function("build", |b| b.iter_batched(|| (), |()| build(), BatchSize::PerIteration));
    group.bench_function("parse and verify", |b| {
        b.iter(|| {
            let object = Object::parse(object.bytes.clone()).expect("valid");
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
