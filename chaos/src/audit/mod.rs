//! The audit of a cluster that is at rest or at work: controllers against each other, the index against itself, the
//! index against the bucket.
//!
//! What holds although writes go on: the bucket is listed first and the index read after, so an object of the index that
//! the listing lacks is asked for by name, and if the store does not have it, the index is asked again whether it still
//! names it. An object that is listed and not in the index may be on its way there; it is counted and no problem.

mod index;
mod patience;
mod replicas;
mod slices;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use streamhouse_client::{Admin, AdminError, Store};
use streamhouse_segment::ids::{ObjectId, TopicId};

pub(crate) use replicas::compare;
pub use replicas::{Replica, Replicas};

use index::IndexReader;

/// What is audited, and how.
#[derive(Debug)]
pub struct Audit {
    /// Addresses of controllers.
    pub controllers: Vec<String>,
    /// The cluster's bucket.
    pub store: Store,
    /// Fetch every slice and check it, not only that its object is there.
    pub deep: bool,
    /// How long the controllers may take to be seen at one applied index, and for how long each question is asked again
    /// that is refused for now.
    pub patience: Duration,
}

/// A run of offsets, as the index has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// First offset.
    pub base: u64,
    /// Last offset.
    pub last: u64,
    /// Lease epoch.
    pub epoch: u32,
    /// The object.
    pub object: ObjectId,
    /// Where in it.
    pub position: u64,
    /// So many bytes.
    pub length: u32,
    /// Their CRC-32C.
    pub crc32c: u32,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum Problem {
    /// PURE: two controllers differ at one applied index.
    ReplicaDivergence {
        /// The index.
        applied: u64,
        /// Controllers and hashes.
        hashes: BTreeMap<u64, String>,
    },
    /// The controllers were not seen at one applied index; or one did not answer.
    NotCompared {
        /// Why.
        reason: String,
    },
    /// DENSE: the index leaves offsets out, or has them twice.
    NotDense {
        /// Topic and partition.
        at: String,
        /// The offset that should come.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// GC: an object that the index names is not in the bucket.
    DanglingIndex {
        /// Its key.
        object: String,
        /// The first of its slices found: topic, partition.
        at: String,
        /// And first offset.
        base: u64,
    },
    /// READ: a slice is not what the index says.
    CorruptSlice {
        /// Its object's key.
        object: String,
        /// Topic and partition.
        at: String,
        /// First offset.
        base: u64,
        /// What is wrong.
        reason: String,
    },
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AuditReport {
    /// How the controllers compare.
    pub replicas: Replicas,
    /// How many topics.
    pub topics: u64,
    /// How many partitions.
    pub partitions: u64,
    /// How many entries in their indexes.
    pub entries: u64,
    /// How many objects these name.
    pub indexed_objects: u64,
    /// How many objects of the cluster the bucket holds.
    pub listed_objects: u64,
    /// Their bytes.
    pub listed_bytes: u64,
    /// How many of them the index does not name: uncommitted, given up, of deleted topics, or on their way.
    pub unreferenced_objects: u64,
    /// Their bytes.
    pub unreferenced_bytes: u64,
    /// The keys of the first thousand of them.
    pub unreferenced: Vec<String>,
    /// How many slices were fetched and checked.
    pub verified_slices: u64,
    /// Their bytes.
    pub verified_bytes: u64,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

/// Is told what the audit comes across.
pub trait Witness {
    /// A partition.
    fn partition(&mut self, topic: &str, partition: u32, log_start: u64, high_watermark: u64);
    /// An entry, in the order of its partition's index.
    fn entry(&mut self, topic: &str, partition: u32, entry: &Entry);
}

/// Nobody.
pub struct NoWitness;

impl Witness for NoWitness {
    fn partition(&mut self, _: &str, _: u32, _: u64, _: u64) {}
    fn entry(&mut self, _: &str, _: u32, _: &Entry) {}
}

/// Why an audit could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The controllers did not answer.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A look into the index failed.
    #[error("reading the index of {at} from {offset}: {reason}")]
    Index {
        /// Topic and partition.
        at: String,
        /// From which offset.
        offset: u64,
        /// What was answered.
        reason: String,
        /// A retry may help.
        retryable: bool,
    },
    /// The bucket could not be read.
    #[error(transparent)]
    Store(#[from] streamhouse_store::GetError),
    /// It was refused for now, again and again, until there was no patience any more: nothing is known to be wrong.
    #[error("given up: {what}, asked for {asked:.1?}: {last}")]
    GaveUp {
        /// What was asked for.
        what: String,
        /// How long it was asked for.
        asked: Duration,
        /// The last refusal.
        last: Box<AuditError>,
    },
}

/// BOUND: unreferenced objects that are told by name.
const TOLD: usize = 1_000;
/// BOUND: keys of one page of the listing.
const PAGE: usize = 1_000;

/// An object of the listing, or of the index only.
#[derive(Debug, Default)]
struct Object {
    listed: Option<u64>,
    indexed: bool,
}

impl Audit {
    /// Makes the audit. Memory grows with the number of objects, about 200 bytes each.
    pub async fn run(&self, witness: &mut dyn Witness) -> Result<AuditReport, AuditError> {
        let admin = Admin::builder().controllers(self.controllers.iter().cloned()).build()?;
        let mut report = AuditReport::default();
        let compare = async || Ok(replicas::compare(&admin, self.patience).await?);
        let (replicas, problem) = self.ask("how the controllers stand", compare).await?;
        report.replicas = replicas;
        report.problems.extend(problem);
        let cluster = self.ask("the cluster", async || Ok(admin.cluster().await?)).await?;
        let mut objects = self.list(&cluster.id.to_string()).await?;
        report.listed_objects = objects.len() as u64;
        report.listed_bytes = objects.values().filter_map(|object| object.listed).sum();
        let reader = IndexReader::new(&self.controllers, &cluster)?;
        let topics = self.ask("the topics", async || Ok(admin.list_topics().await?)).await?;
        for topic in topics {
            report.topics += 1;
            let name = &topic.name;
            let describe = async || Ok(admin.describe_topic(name).await?);
            let described = match self.ask(&format!("topic {name}"), describe).await {
                Ok(described) => described,
                // Deleted meanwhile.
                Err(AuditError::Admin(AdminError::UnknownTopic { .. })) => continue,
                Err(error) => return Err(error),
            };
            for found in &described.partitions {
                let at = At { name: &topic.name, topic: topic.id, partition: found.partition };
                let extent = found.log_start..found.high_watermark;
                witness.partition(at.name, at.partition, extent.start, extent.end);
                report.partitions += 1;
                self.partition(&reader, &at, extent, &mut objects, &mut report, witness).await?;
            }
        }
        report.indexed_objects = objects.values().filter(|object| object.indexed).count() as u64;
        for (key, object) in objects.iter().filter(|(_, object)| !object.indexed) {
            report.unreferenced_objects += 1;
            report.unreferenced_bytes += object.listed.unwrap_or(0);
            if report.unreferenced.len() < TOLD {
                report.unreferenced.push(key.clone());
            }
        }
        Ok(report)
    }

    /// Asks again what is refused for now.
    async fn ask<T>(
        &self,
        what: &str,
        ask: impl AsyncFn() -> Result<T, AuditError>,
    ) -> Result<T, AuditError> {
        patience::patiently(self.patience, what, ask).await
    }

    /// All objects of the cluster that are in the bucket.
    async fn list(&self, cluster: &str) -> Result<BTreeMap<String, Object>, AuditError> {
        let folder = format!("{cluster}/l0");
        let mut objects = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let list = async || Ok(self.store.list(&folder, after.as_deref(), PAGE).await?);
            let page = self.ask("the objects", list).await?;
            let whole = page.len() == PAGE;
            after = page.last().map(|last| last.key.clone());
            let listed = |size| Object { listed: Some(size), indexed: false };
            objects.extend(page.into_iter().map(|object| (object.key, listed(object.size))));
            if !whole {
                return Ok(objects);
            }
        }
    }

    async fn partition(
        &self,
        reader: &IndexReader,
        at: &At<'_>,
        extent: std::ops::Range<u64>,
        objects: &mut BTreeMap<String, Object>,
        report: &mut AuditReport,
        witness: &mut dyn Witness,
    ) -> Result<(), AuditError> {
        let mut next = extent.start;
        let mut first = true;
        while next < extent.end {
            let page = async || reader.page(at, next).await;
            let page = self.ask(&format!("the index of {at}"), page).await?;
            let Some(page) = page else { return Ok(()) };
            let before = next;
            for entry in &page {
                // The first may begin before the log start: only a part of it was trimmed.
                if (first && entry.base > next) || (!first && entry.base != next) {
                    report.problems.push(at.not_dense(next, entry.base));
                }
                first = false;
                next = entry.last + 1;
                report.entries += 1;
                witness.entry(at.name, at.partition, entry);
            }
            self.check_objects(reader, at, &page, objects, report).await?;
            if self.deep {
                slices::verify(self, at, &page, report).await?;
            }
            if next <= before {
                report.problems.push(at.not_dense(extent.end, next));
                return Ok(());
            }
        }
        Ok(())
    }

    async fn check_objects(
        &self,
        reader: &IndexReader,
        at: &At<'_>,
        page: &[Entry],
        objects: &mut BTreeMap<String, Object>,
        report: &mut AuditReport,
    ) -> Result<(), AuditError> {
        for entry in page {
            let key = entry.object.key();
            let known = objects.entry(key.clone()).or_default();
            if std::mem::replace(&mut known.indexed, true) || known.listed.is_some() {
                continue;
            }
            let head = async || Ok(self.store.head(&key).await?.is_some());
            if self.ask(&format!("object {key}"), head).await? {
                continue;
            }
            let named = async || reader.still_names(at, entry).await;
            if !self.ask(&format!("the index of {at}"), named).await? {
                continue;
            }
            let at = at.to_string();
            report.problems.push(Problem::DanglingIndex { object: key, at, base: entry.base });
        }
        Ok(())
    }
}

/// A partition, with its topic's name.
#[derive(Debug, Clone, Copy)]
struct At<'a> {
    name: &'a str,
    topic: TopicId,
    partition: u32,
}

impl At<'_> {
    fn not_dense(&self, expected: u64, found: u64) -> Problem {
        Problem::NotDense { at: self.to_string(), expected, found }
    }
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.partition)
    }
}
