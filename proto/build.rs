//! Compiles the contracts without a system `protoc`.

use std::path::PathBuf;

const FILES: [&str; 9] = [
    "streamhouse/v1/common.proto",
    "streamhouse/v1/metadata.proto",
    "streamhouse/v1/sessions.proto",
    "streamhouse/v1/produce.proto",
    "streamhouse/v1/raft.proto",
    "streamhouse/v1/backups.proto",
    "streamhouse/v1/producers.proto",
    "streamhouse/v1/groups.proto",
    "streamhouse/v1/collector.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-changed=streamhouse");
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure()
        .bytes(".streamhouse.v1.ProduceBatch.batch")
        .bytes(".streamhouse.v1.Payload.body")
        .bytes(".streamhouse.v1.SnapshotChunk.data")
        .bytes(".streamhouse.v1.BackupChunk.data")
        .btree_map(".")
        .codec_path("crate::BoundedCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
