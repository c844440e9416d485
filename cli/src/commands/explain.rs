//! `streamhouse explain`: which object, slice and batch hold a record, and who wrote them.

use serde::Serialize;
use streamhouse_client::consumer::RecordLocation;
use streamhouse_client::{Compression, Consumer};

use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::input::when;
use crate::output::{self, Format};

/// Finds the record in the index, reads its slice and verifies it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic.
    topic: String,
    /// The partition.
    partition: u32,
    /// The record's offset.
    offset: u64,
    #[command(flatten)]
    controllers: Controllers,
}

#[derive(Debug, Serialize)]
struct Explained {
    topic: String,
    partition: u32,
    offset: u64,
    /// The record's, in milliseconds since 1970; null if the batch has no record of that offset.
    timestamp: Option<i64>,
    store: String,
    object: String,
    generation: String,
    session: u64,
    sequence: u64,
    lease_epoch: u32,
    append_time_ms: u64,
    slice: Part,
    crc32c: String,
    batch: Part,
    batch_records: u32,
    compression: &'static str,
    producer_id: Option<i64>,
}

/// A run of bytes of the object, and the offsets in it.
#[derive(Debug, Serialize)]
struct Part {
    position: u64,
    length: u64,
    base_offset: u64,
    last_offset: u64,
}

impl Part {
    fn new(bytes: (u64, u64), offsets: (u64, u64)) -> Self {
        let (base_offset, last_offset) = offsets;
        Self { position: bytes.0, length: bytes.1 - bytes.0, base_offset, last_offset }
    }

    fn human(&self) -> String {
        let Self { position, length, base_offset, last_offset } = self;
        let size = output::bytes(*length);
        format!(
            "bytes {position} to {} ({size}), offsets {base_offset} to {last_offset}",
            position + length
        )
    }
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let consumer = Consumer::builder()
        .controllers(args.controllers.resolve()?)
        .connect_timeout(CONNECT_TIMEOUT)
        .build()
        .await?;
    let found = consumer.locate(&args.topic, args.partition, args.offset).await?;
    consumer.close().await?;
    format.print(&explained(args, found), human)
}

fn explained(args: Args, found: RecordLocation) -> Explained {
    Explained {
        topic: args.topic,
        partition: args.partition,
        offset: args.offset,
        timestamp: found.timestamp,
        store: found.store,
        object: found.key,
        generation: found.object.generation.to_string(),
        session: found.object.session.0,
        sequence: found.object.sequence,
        lease_epoch: found.lease_epoch,
        append_time_ms: found.append_time_ms,
        slice: Part::new(found.slice, found.slice_offsets),
        crc32c: format!("{:08x}", found.crc32c),
        batch: Part::new(found.batch, found.batch_offsets),
        batch_records: found.batch_records,
        compression: match found.compression {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
        },
        producer_id: found.producer_id,
    }
}

fn human(e: &Explained) -> String {
    let mut table = output::table(["what", "where"]);
    let record = match e.timestamp {
        Some(timestamp) => format!("timestamp {}", when::show(timestamp)),
        None => "absent: the batch holds no record of this offset".to_owned(),
    };
    let written = i64::try_from(e.append_time_ms).map_or_else(|_| String::new(), when::show);
    table.add_row(["record", &record]);
    table.add_row(["store", &e.store]);
    table.add_row(["object", &e.object]);
    table.add_row(["slice", &format!("{}, CRC-32C {}", e.slice.human(), e.crc32c)]);
    let compression = e.compression;
    let batch =
        format!("{}, {} records, compression {compression}", e.batch.human(), e.batch_records);
    table.add_row(["batch", &batch]);
    let session = format!(
        "session {}, object {} of it, generation {}, lease epoch {}, at {written}",
        e.session, e.sequence, e.generation, e.lease_epoch
    );
    table.add_row(["written by", &session]);
    table.add_row(["producer", &output::or_dash(e.producer_id)]);
    format!("{}/{} offset {}\n{table}", e.topic, e.partition, e.offset)
}
