//! BOUND: a hundred connections to one agent, some of which do what no client may. Each of these gets its error; all
//! others notice nothing, and the agent stays within its memory.
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::raw::{RawStream, batch, partition};
use streamhouse_proto::v1::{ErrorCode, ProduceRequest, TopicPartition};
use streamhouse_segment::Compression;
use streamhouse_tests::{LocalCluster, Setup};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// With one that is deaf, one that lies and one that speaks no HTTP: a hundred connections.
const INNOCENTS: usize = 97;
const BATCHES: usize = 30;
const CEILING_BYTES: u64 = 512 << 20;
/// Far more batches than fit into a stream's unanswered ones and into all windows for answers.
const MOST_UNHEARD: usize = 200_000;
/// A stream on which nothing can be sent for so long is paused.
const PAUSED: Duration = Duration::from_secs(5);
/// Where things stand in a record batch: KIP-98, message format version 2.
const LENGTH: usize = 8;
const CHECKSUM: usize = 17;
const CHECKED: usize = 21;
const COUNT: usize = 57;
const RECORDS: usize = 61;

/// A batch with these bytes at that place, and with the checksum that belongs to what it is now, if asked.
fn patched(value: &[u8], at: usize, bytes: &[u8], mend: bool) -> Vec<u8> {
    let mut batch = batch(value, Compression::None);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    if mend { mended(batch) } else { batch }
}

fn mended(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&batch[CHECKED..]);
    batch[CHECKSUM..CHECKED].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// A batch whose LZ4 frame declares to become 4 GiB.
fn bomb() -> Vec<u8> {
    let honest = batch(&[7; 1_000], Compression::Lz4);
    let (magic, blocks) = (&honest[RECORDS..RECORDS + 4], &honest[RECORDS + 7..]);
    // FLG: version 1, independent blocks, with content size. BD: blocks of 64 KiB. The header checksum comes last.
    let mut batch = [&honest[..RECORDS], magic, &[0x68, 0x40]].concat();
    batch.extend_from_slice(&(4_u64 << 30).to_le_bytes());
    batch.push(0);
    batch.extend_from_slice(blocks);
    let length = u32::try_from(batch.len() - 12).unwrap();
    batch[LENGTH..LENGTH + 4].copy_from_slice(&length.to_be_bytes());
    mended(batch)
}

/// Each lie, and what it is called.
fn lies() -> Vec<(&'static str, Vec<u8>, ErrorCode)> {
    let value = b"a lie";
    let count = 1_000_000_i32.to_be_bytes();
    vec![
        (
            "too long",
            patched(value, LENGTH, &i32::MAX.to_be_bytes(), true),
            ErrorCode::RecordTooLarge,
        ),
        ("too short", patched(value, LENGTH, &[0, 0, 0, 50], true), ErrorCode::CorruptBatch),
        (
            "negative",
            patched(value, LENGTH, &(-1_i32).to_be_bytes(), true),
            ErrorCode::InvalidArgument,
        ),
        ("checksum", patched(value, CHECKSUM, &[1, 2, 3, 4], false), ErrorCode::CorruptBatch),
        ("count", patched(value, COUNT, &count, true), ErrorCode::InvalidArgument),
        ("4 GiB", bomb(), ErrorCode::RecordTooLarge),
        ("nothing", Vec::new(), ErrorCode::CorruptBatch),
        ("garbage", vec![0xA5; 300], ErrorCode::CorruptBatch),
    ]
}

/// Sends batches and takes their answers; the offsets at which they are.
async fn innocent(agent: SocketAddr, partition: TopicPartition, number: usize) -> Vec<u64> {
    let mut stream = RawStream::open(agent).await;
    let mut offsets = Vec::new();
    for round in 0..BATCHES {
        let value = format!("{number}-{round}-{}", "x".repeat(10_000));
        stream.send(&partition, batch(value.as_bytes(), Compression::Lz4)).await.unwrap();
        let answer = stream.answers(1).await.pop().expect("an answer");
        assert_eq!(answer.error, None, "innocent {number}, batch {round}");
        offsets.push(answer.base_offset);
    }
    offsets
}

/// Sends until the agent pauses it, and reads no answer; how many it has sent.
async fn deaf(agent: SocketAddr, partition: TopicPartition) -> (RawStream, usize) {
    let mut stream = RawStream::open(agent).await;
    let batch = batch(b"unheard", Compression::None);
    for sent in 0..MOST_UNHEARD {
        match tokio::time::timeout(PAUSED, stream.send(&partition, batch.clone())).await {
            Ok(sent) => assert!(sent.is_some(), "it is paused, not hung up on"),
            Err(_) => return (stream, sent),
        }
    }
    panic!("somebody who reads no answers is never paused");
}

/// Bytes that are no HTTP: it is hung up on. (HTTP/2 has an error for it, but whether that gets through before the
/// reset is up to TCP.)
fn garbage(agent: SocketAddr) {
    let mut stream = TcpStream::connect(agent).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _ = stream.write_all(&[0xFF; 4_096]);
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "hung up on: {error}");
        }
    }
}

/// Sends each lie; a good batch behind it is taken all the same.
async fn liar(agent: SocketAddr, partition: TopicPartition) {
    let mut stream = RawStream::open(agent).await;
    for (what, lie, expected) in lies() {
        stream.send(&partition, lie).await.unwrap();
        let answer = stream.answers(1).await.pop().expect("an answer");
        let error = answer.error.unwrap_or_else(|| panic!("'{what}' was taken"));
        assert_eq!(error.code(), expected, "{what}: {}", error.message);
        stream.send(&partition, batch(b"the truth", Compression::Lz4)).await.unwrap();
        let answer = stream.answers(1).await.pop().expect("an answer");
        assert_eq!(answer.error, None, "after {what}");
    }
    // And a message without a single batch in it is no offence.
    stream.requests.send(ProduceRequest { batches: Vec::new() }).await.unwrap();
    stream.send(&partition, batch(b"the end", Compression::None)).await.unwrap();
    assert_eq!(stream.answers(1).await.pop().expect("an answer").error, None);
}

#[test]
fn each_gets_its_error_and_the_others_notice_nothing() {
    let setup = Setup { agent_flags: &["--buffer-bytes", "33554432"], ..Setup::default() };
    let cluster = LocalCluster::start_as(1, 1, &setup);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    cluster.run(&["topic", "create", "other", "--partitions", "1"]).ok();
    let (agent, all, other) =
        (cluster.agent_address(1), partition(&cluster, "t"), partition(&cluster, "other"));
    let runtime = Runtime::new().unwrap();
    let (offsets, deaf) = runtime.block_on(async {
        let mut innocents = JoinSet::new();
        for number in 0..INNOCENTS {
            innocents.spawn(innocent(agent, all.clone(), number));
        }
        let mut offenders = JoinSet::new();
        offenders.spawn(liar(agent, other.clone()));
        offenders.spawn_blocking(move || garbage(agent));
        let (deaf, offsets) = tokio::join!(deaf(agent, other.clone()), innocents.join_all());
        offenders.join_all().await;
        (offsets, deaf)
    });
    // Every batch of the innocent is in the log, each at an offset of its own.
    let mut offsets: Vec<u64> = offsets.into_iter().flatten().collect();
    offsets.sort_unstable();
    let expected: Vec<u64> = (0..(INNOCENTS * BATCHES) as u64).collect();
    assert_eq!(offsets, expected);
    assert_eq!(cluster.records("t"), expected.len() as u64);
    let peak = cluster.peak_agent_memory(1);
    println!("the agent had {} MiB at the most", peak >> 20);
    assert!(peak < CEILING_BYTES, "the agent had {peak} bytes");
    // Once it listens, the deaf one hears of everything that it has sent.
    let (mut deaf, sent) = deaf;
    let heard = runtime.block_on(deaf.answers(sent));
    assert_eq!(heard.len(), sent);
    assert!(heard.iter().all(|answer| answer.error.is_none()));
    drop(deaf);
    // It goes on as if nothing had been.
    cluster.run_with_input(&["produce", "t"], b"after\n").ok();
    runtime.shutdown_background();
}
