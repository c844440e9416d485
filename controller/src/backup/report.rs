//! What a restore brought back, and what it could not place.

use serde::Serialize;

/// The result of a restore.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// The cluster, which is the one that was backed up.
    pub cluster: String,
    /// Its new generation.
    pub generation: String,
    /// The backup that was restored.
    pub backup: String,
    /// The index of which it is.
    pub backup_index: u64,
    /// Cluster time of the backup, in milliseconds since the epoch.
    pub backup_time_ms: u64,
    /// The store with the objects. `None` if neither the backup nor whoever
    /// restored it named one: then no object was looked for.
    pub store: Option<String>,
    /// Topics in it.
    pub topics: u64,
    /// Their partitions.
    pub partitions: u64,
    /// Index entries in it.
    pub segments: u64,
    /// What was committed after it, and found in the bucket.
    pub rolled_forward: RolledForward,
    /// What was found in the bucket and has no place, or could not be read.
    pub not_placed: Vec<NotPlaced>,
    /// Objects to which the index of the backup refers, and which are not in
    /// the bucket: keys.
    pub missing_objects: Vec<String>,
}

/// What was added to the index of the backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RolledForward {
    /// Objects with at least one slice in it.
    pub objects: u64,
    /// Slices.
    pub slices: u64,
    /// Records in them.
    pub records: u64,
}

/// Records that may have been acknowledged and are not in the index. Their
/// object stays in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotPlaced {
    /// The object's key.
    pub object: String,
    /// Which records; absent if the object cannot be read.
    #[serde(flatten)]
    pub slice: Option<SliceName>,
    /// Why not.
    pub reason: String,
}

/// Names the records of a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SliceName {
    /// The topic's id.
    pub topic_id: String,
    /// Its name, if the backup has it.
    pub topic: Option<String>,
    /// The partition.
    pub partition: u32,
    /// The first record's offset.
    pub base_offset: u64,
    /// The last record's offset.
    pub last_offset: u64,
    /// How many records.
    pub records: u32,
}
