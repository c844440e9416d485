//! `streamhouse segment`: looks into objects of the store.

use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Subcommand;
use serde::Serialize;
use streamhouse_segment::object::{Object, ObjectError, SliceFlags, SliceMeta, verify_slice};
use streamhouse_segment::{Limits, ObjectId};
use streamhouse_store::StoreOptions;

use crate::exit::{Failure, Kind};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show an object's header and slices, and verify every checksum in it.
    Inspect {
        /// A file, or a URL: file:///path, s3://bucket/key, gs://bucket/key, az://container/key.
        #[arg(value_name = "FILE|URL")]
        object: String,
    },
}

/// What `segment inspect --output json` prints; whatever could be checked was checked.
#[derive(Debug, Serialize)]
struct Inspected {
    object: String,
    /// The key under which an agent stores it.
    key: String,
    format_version: u16,
    cluster: String,
    generation: String,
    session: u64,
    sequence: u64,
    bytes: usize,
    records: u64,
    slices: Vec<Slice>,
    /// How many outcomes of earlier slices the footer tells.
    outcomes: usize,
    verified: bool,
}

#[derive(Debug, Serialize)]
struct Slice {
    topic_id: String,
    partition: u32,
    lease_epoch: u32,
    epoch_start_offset: u64,
    base_offset: u64,
    last_offset: u64,
    records: u32,
    position: u64,
    length: u32,
    crc32c: String,
    append_time_ms: u64,
    min_timestamp_ms: i64,
    max_timestamp_ms: i64,
    transactional: bool,
    control: bool,
    producers: usize,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let Action::Inspect { object: name } = args.action;
    let bytes = read(&name).await?;
    let object = check(&name, bytes)
        .map_err(|problem| Failure::new(Kind::Damaged, format!("object {name}: {problem}")))?;
    format.print(&inspected(name, &object), human)
}

/// All of the object, wherever it lies.
async fn read(name: &str) -> anyhow::Result<Bytes> {
    let Some((scheme, rest)) = name.split_once("://") else {
        return read_file(Path::new(name)).await;
    };
    if scheme == "file" {
        let url = url::Url::parse(name).with_context(|| format!("URL {name}"))?;
        let path = url.to_file_path();
        let path = path.map_err(|()| Failure::usage(format!("URL {name} names no local path")))?;
        return read_file(&path).await;
    }
    let (bucket, key) = rest
        .split_once('/')
        .filter(|(_, key)| !key.is_empty())
        .ok_or_else(|| Failure::usage(format!("URL {name} names no object in its bucket")))?;
    let store = StoreOptions::new().reader().open(&format!("{scheme}://{bucket}"))?;
    Ok(store.get(key).await?)
}

async fn read_file(path: &Path) -> anyhow::Result<Bytes> {
    let bytes = tokio::fs::read(path).await;
    Ok(bytes.with_context(|| format!("file {}", path.display()))?.into())
}

/// Takes the object apart and verifies it, or says what is wrong and where.
fn check(name: &str, bytes: Bytes) -> Result<Object, String> {
    let limits = Limits::default();
    let object = Object::parse(bytes).map_err(|error| error.to_string())?;
    if let Some(expected) = id_in_name(name)
        && expected != object.header.id
    {
        return Err(format!("is another one by its header: {}", object.header.id.key()));
    }
    for (index, slice) in object.footer.slices.iter().enumerate() {
        let sound = verify_slice(
            &object.slice_bytes(index),
            slice.crc32c,
            slice.base_offset,
            slice.last_offset,
        );
        sound.map_err(|error| slice_problem(index, slice, &error))?;
    }
    object.verify(&limits).map_err(|error| error.to_string())?;
    Ok(object)
}

fn slice_problem(index: usize, slice: &SliceMeta, error: &ObjectError) -> String {
    format!(
        "slice {index} (topic {}, partition {}, offsets {} to {}, {} bytes from byte {}): {error}",
        slice.topic,
        slice.partition,
        slice.base_offset,
        slice.last_offset,
        slice.length,
        slice.position
    )
}

/// The object that the name's last parts say it is, if they are a key.
fn id_in_name(name: &str) -> Option<ObjectId> {
    const KEY_PARTS: usize = 5;
    let parts: Vec<&str> = name.split('/').collect();
    let key = parts.get(parts.len().checked_sub(KEY_PARTS)?..)?;
    ObjectId::parse_key(&key.join("/")).ok()
}

fn inspected(name: String, object: &Object) -> Inspected {
    let id = object.header.id;
    let slices = &object.footer.slices;
    Inspected {
        object: name,
        key: id.key(),
        format_version: object.header.version,
        cluster: id.cluster.to_string(),
        generation: id.generation.to_string(),
        session: id.session.0,
        sequence: id.sequence,
        bytes: object.bytes.len(),
        records: slices.iter().map(|slice| u64::from(slice.record_count)).sum(),
        slices: slices.iter().map(Slice::from).collect(),
        outcomes: object.footer.outcomes.len(),
        verified: true,
    }
}

impl From<&SliceMeta> for Slice {
    fn from(slice: &SliceMeta) -> Self {
        Self {
            topic_id: slice.topic.to_string(),
            partition: slice.partition,
            lease_epoch: slice.lease_epoch,
            epoch_start_offset: slice.epoch_start_offset,
            base_offset: slice.base_offset,
            last_offset: slice.last_offset,
            records: slice.record_count,
            position: slice.position,
            length: slice.length,
            crc32c: format!("{:08x}", slice.crc32c),
            append_time_ms: slice.append_time_ms,
            min_timestamp_ms: slice.min_timestamp_ms,
            max_timestamp_ms: slice.max_timestamp_ms,
            transactional: slice.flags.contains(SliceFlags::TRANSACTIONAL),
            control: slice.flags.contains(SliceFlags::CONTROL),
            producers: slice.producers.len(),
        }
    }
}

fn human(object: &Inspected) -> String {
    let mut table = output::table([
        "topic id",
        "partition",
        "epoch",
        "offsets",
        "records",
        "from byte",
        "length",
        "CRC-32C",
    ]);
    for slice in &object.slices {
        table.add_row([
            slice.topic_id.clone(),
            slice.partition.to_string(),
            slice.lease_epoch.to_string(),
            format!("{}–{}", slice.base_offset, slice.last_offset),
            slice.records.to_string(),
            slice.position.to_string(),
            slice.length.to_string(),
            slice.crc32c.clone(),
        ]);
    }
    format!(
        "key {}\nformat {} · session {} · object {} · {} · {} records\n{table}\nall checksums hold",
        object.key,
        object.format_version,
        object.session,
        object.sequence,
        output::bytes(object.bytes as u64),
        output::count(object.records),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_ends_in_a_key_says_which_object_it_must_be() {
        let key = key();
        let id = ObjectId::parse_key(&key).ok();
        assert!(id.is_some());
        assert_eq!(id_in_name(&key), id);
        assert_eq!(id_in_name(&format!("s3://bucket/prefix/{key}")), id);
        assert_eq!(id_in_name("object.bin"), None);
        assert_eq!(id_in_name("/a/b/c/d/e/f"), None);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(check("x", Bytes::from_static(b"hello")).unwrap_err().contains("object header"));
    }

    fn key() -> String {
        use streamhouse_segment::{ClusterId, Generation, SessionId};
        let generation = Generation { counter: 1, random: 2 };
        let cluster = ClusterId::from_bytes([7; 16]);
        ObjectId { cluster, generation, session: SessionId(3), sequence: 4 }.key()
    }
}
