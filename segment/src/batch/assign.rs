//! Stamping a batch with its place in the log.

/// How many bytes of a batch [`assign`] needs.
const HEAD_BYTES: usize = 16;

/// Writes base offset and partition leader epoch into a batch, whose first 16 bytes (or more) `head` is.
///
/// Both lie outside the CRC by design of the format, so that whoever appends a batch need not touch its records.
///
/// # Panics
///
/// If `head` is shorter than 16 bytes.
pub fn assign(head: &mut [u8], base_offset: i64, partition_leader_epoch: i32) {
    assert!(head.len() >= HEAD_BYTES, "a batch's head has {HEAD_BYTES} bytes, got {}", head.len());
    head[0..8].copy_from_slice(&base_offset.to_be_bytes());
    head[12..16].copy_from_slice(&partition_leader_epoch.to_be_bytes());
}
