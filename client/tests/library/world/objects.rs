//! What lies in the fake cluster's store, and how it gets into the index.

use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use streamhouse_proto::v1;
use streamhouse_segment::batch::{self, BatchBuilder, BatchHeader, Compression, Limits};
use streamhouse_segment::batch::{NO_HEADERS, ProducerInfo};
use streamhouse_segment::ids::{ClusterId, Generation, ObjectId, SessionId};

use super::{CLUSTER, GENERATION, World};

/// A batch of records without keys, one for each value.
pub fn batch(compression: Compression, values: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, Limits::default());
    for value in values {
        builder.push(1, None, Some(&value), NO_HEADERS).unwrap();
    }
    builder.finish(ProducerInfo::NONE).unwrap().to_vec()
}

/// Bytes that no compression makes fewer, the same for the same seed (xorshift: G. Marsaglia, *Xorshift RNGs*, 2003).
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

impl World {
    /// Writes the batch as an object of its own and commits it, as an agent does for a producer.
    pub async fn append(
        &self,
        topic: &[u8],
        partition: u32,
        bytes: &[u8],
    ) -> Result<(u64, u64), v1::ErrorInfo> {
        let header = batch::validate_for_produce(bytes, &Limits::default()).unwrap();
        let mut bytes = bytes.to_vec();
        let (base, sequence) = {
            let mut state = self.state.lock();
            if let Some(before) = state.producers.judge((topic, partition), &header)? {
                return Ok((before, state.applied));
            }
            state.sequence += 1;
            let sequence = state.sequence;
            let log = state.log(topic, partition)?;
            let base = log.next_offset;
            log.next_offset += u64::try_from(header.records_count).unwrap();
            state.producers.append((topic, partition), &header, base);
            batch::assign(&mut bytes, base as i64, 1);
            (base, sequence)
        };
        let segment = segment(&bytes, 0, sequence);
        let applied = self.commit(topic, sequence, bytes, vec![(partition, segment)]).await?;
        Ok((base, applied))
    }

    /// One object with a slice for each of these partitions of the topic: ten records each, whose value is `v<offset>`.
    pub async fn append_object(&self, topic: &str, partitions: std::ops::Range<u32>) {
        let base =
            |partition: u32| self.state.lock().topics[topic].1[partition as usize].next_offset;
        let batches: Vec<_> = partitions
            .map(|partition| {
                let numbers = base(partition)..base(partition) + 10;
                let values = numbers.map(|number| format!("v{number}").into_bytes());
                (partition, batch(Compression::Lz4, values))
            })
            .collect();
        self.append_batches(topic, batches).await;
    }

    /// One object with these batches of the topic, each a slice of its partition.
    pub async fn append_batches(
        &self,
        topic: &str,
        batches: impl IntoIterator<Item = (u32, Vec<u8>)>,
    ) {
        let (mut object, mut segments) = (Vec::new(), Vec::new());
        let (id, sequence) = {
            let mut state = self.state.lock();
            state.sequence += 1;
            let (id, sequence) = (state.topics[topic].0, state.sequence);
            for (partition, mut bytes) in batches {
                let log = state.log(&id, partition).unwrap();
                batch::assign(&mut bytes, log.next_offset as i64, 1);
                let segment = segment(&bytes, object.len() as u64, sequence);
                log.next_offset = segment.last_offset + 1;
                segments.push((partition, segment));
                object.extend(bytes);
            }
            (id, sequence)
        };
        self.commit(&id, sequence, object, segments).await.unwrap();
    }

    async fn commit(
        &self,
        topic: &[u8],
        sequence: u64,
        object: Vec<u8>,
        segments: Vec<(u32, v1::Segment)>,
    ) -> Result<u64, v1::ErrorInfo> {
        self.put(&self.key(sequence), object).await;
        let applied = {
            let mut state = self.state.lock();
            state.applied += 1;
            for (partition, segment) in segments {
                state.log(topic, partition)?.segments.push(segment);
            }
            state.applied
        };
        self.changed.send_replace(applied);
        Ok(applied)
    }

    pub async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.objects.put(&Path::from(key), PutPayload::from(bytes)).await.unwrap();
    }

    pub async fn get(&self, key: &str) -> Vec<u8> {
        self.objects.get(&Path::from(key)).await.unwrap().bytes().await.unwrap().to_vec()
    }

    pub async fn delete(&self, key: &str) {
        self.objects.delete(&Path::from(key)).await.unwrap();
    }

    /// The key of the n-th object written, from 1.
    pub fn key(&self, sequence: u64) -> String {
        let object = ObjectId {
            cluster: ClusterId::from_bytes(CLUSTER),
            generation: Generation { counter: GENERATION.counter, random: GENERATION.random },
            session: SessionId(5),
            sequence,
        };
        object.key()
    }

    /// All values of a partition, in log order, read around the consumer.
    pub async fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        let segments = self.state.lock().topics[topic].1[partition].segments.clone();
        let mut values = Vec::new();
        for segment in segments {
            let Some(v1::segment::Source::L0(l0)) = segment.source else { panic!() };
            let bytes = self.get(&self.key(l0.sequence)).await;
            for record in batch::decode(bytes.into(), &Limits::default()).unwrap() {
                values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            }
        }
        values
    }
}

/// The index entry of a batch that lies at `position` of that object.
fn segment(bytes: &[u8], position: u64, sequence: u64) -> v1::Segment {
    let header = BatchHeader::parse(bytes).unwrap();
    v1::Segment {
        base_offset: header.base_offset as u64,
        last_offset: header.last_offset() as u64,
        record_count: header.records_count as u32,
        min_timestamp_ms: header.base_timestamp,
        max_timestamp_ms: header.max_timestamp,
        position,
        length: bytes.len() as u32,
        crc32c: crc32c::crc32c(bytes),
        source: Some(v1::segment::Source::L0(v1::L0Object {
            generation: Some(GENERATION),
            session: 5,
            sequence,
        })),
        ..v1::Segment::default()
    }
}
