//! How large one command may be, whatever the state.

use super::Gate;
use crate::state::command::{CommandBody, ObjectContents, PartitionKey};

impl Gate {
    /// Refuses a batch that is too large, whatever the state.
    pub(crate) fn check_batch(&self, body: &CommandBody) -> Result<(), String> {
        let (what, count) = match body {
            CommandBody::CommitObjects { objects, .. } => {
                let slices = objects.iter().map(|object| match &object.contents {
                    ObjectContents::Written(slices) => slices.len(),
                    ObjectContents::Abandoned(partitions) => partitions.len(),
                });
                ("slices of one object", slices.max().unwrap_or(0))
            }
            CommandBody::CommitOffsets { offsets, .. }
            | CommandBody::CommitMemberOffsets { offsets, .. } => {
                self.check_metadata(offsets)?;
                ("offsets in one commit", offsets.len())
            }
            CommandBody::ReleasePartitions { partitions, .. } => {
                ("partitions in one release", partitions.len())
            }
            CommandBody::ReleaseLeases { leases, .. } => ("leases in one release", leases.len()),
            _ => return Ok(()),
        };
        match count > self.limits.batch {
            true => Err(format!("{count} {what}, allowed are {} (--max-batch)", self.limits.batch)),
            false => Ok(()),
        }
    }

    fn check_metadata(&self, offsets: &[(PartitionKey, u64, String)]) -> Result<(), String> {
        let limit = self.limits.offset_metadata_bytes;
        match offsets.iter().map(|(.., metadata)| metadata.len()).max() {
            Some(bytes) if bytes > limit => Err(format!(
                "offset metadata has {bytes} bytes, allowed are {limit} \
                 (--max-offset-metadata-bytes)"
            )),
            _ => Ok(()),
        }
    }
}
