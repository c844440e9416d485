//! Restoring a backup into a new, empty cluster, step by step:
//!
//! 1. All of the backup is read; a damaged one ends here.
//! 2. The bucket must be the cluster's, and is listed: which objects were
//!    written after it, under which generations.
//! 3. The cluster, if it is empty, begins to restore. From here on it does
//!    nothing else until the end.
//! 4. The backup's parts, in order.
//! 5. The footers of the objects of step 2; what continues the index is put
//!    into it.
//! 6. The cluster takes the old one's identity and its new generation.
//!
//! Nothing in the bucket is deleted or written. Interrupted anywhere, it is
//! run again with the same backup.

use super::BackupError;
use super::bucket::{self, After};
use super::forward::{self, Footers, Placed, Plan};
use super::place::Place;
use super::report::{NotPlaced, Restored, RolledForward};
use super::survey::{Reading, Survey};
use crate::seeds::Seeds;
use std::collections::BTreeSet;
use std::time::Duration;
use streamhouse_proto::v1;
use streamhouse_proto::v1::backups_client::BackupsClient;
use streamhouse_proto::v1::restore_request::Step;
use streamhouse_store::{Store, StoreOptions};

/// How long a step is tried for before the restore is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Slices put into the index by one step.
const SLICES: usize = 2_000;
/// About as many batches of idempotent producers, so that it fits an entry.
const PRODUCERS: usize = 40_000;

const NAMES_NO_STORE: &str = "is from before the cluster's first agent and names no store: \
    name it with --store, or say --no-objects if no agent ever wrote";
const NAMES_A_STORE: &str = "names a store: --no-objects is for one that names none";

/// Where the objects of the cluster are.
#[derive(Debug, Clone, Copy)]
pub enum Objects<'a> {
    /// In the store that the backup names.
    WhereTheyLay,
    /// In the store of this URL.
    In(&'a str),
    /// There are none: the backup names no store, and no agent ever wrote.
    None,
}

/// Restores the backup at `from` (a whole name, or a folder with backups, of
/// which the newest is taken) into the empty cluster of these controllers.
///
/// # Errors
///
/// A backup from before the first agent names no store: it is refused unless
/// `objects` does, or says that there are none. Any other names one, and is
/// refused if `objects` says that there are none.
pub async fn restore(
    controllers: &[String],
    from: &str,
    objects: Objects<'_>,
) -> Result<Restored, BackupError> {
    let place = Place::for_reading(from).await?;
    let survey = Survey::of(&place).await?;
    let misfit = |problem| BackupError::Objects { url: place.url(), problem };
    let url = match (objects, survey.header.store_url.as_deref()) {
        (Objects::In(url), _) | (Objects::WhereTheyLay, Some(url)) => Some(url),
        (Objects::None, None) => None,
        (Objects::WhereTheyLay, None) => return Err(misfit(NAMES_NO_STORE)),
        (Objects::None, Some(_)) => return Err(misfit(NAMES_A_STORE)),
    };
    let data = url.map(|url| StoreOptions::new().reader().open(url)).transpose()?;
    let after = match &data {
        Some(data) => {
            bucket::must_be_the_cluster_s(data, &survey).await?;
            After::list(data, &survey).await?
        }
        None => After::default(),
    };
    let counter = forward::next_counter(&survey, &after.generations).ok_or_else(|| {
        BackupError::Place(format!("{from}: the cluster's generations are used up"))
    })?;
    let mut cluster = Cluster::new(controllers);
    let (restore, next_part) = cluster.begin(&survey, data.as_ref(), counter).await?;
    cluster.parts(&place, restore, next_part).await?;

    let mut footers = Footers::default();
    let mut missing_objects = Vec::new();
    if let Some(data) = &data {
        bucket::describe(data, &after.objects, |found| footers.add(found)).await?;
        missing_objects = bucket::missing(data, &survey).await?;
    }
    let plan = footers.plan(&survey, &after.generations);
    let (rolled_forward, not_placed) = cluster.slices(&survey, restore, plan).await?;
    let end = v1::EndRestore { restore: Some(restore), parts: survey.totals.parts };
    cluster.step("ending the restore", Step::End(end)).await?;
    let generation =
        streamhouse_segment::Generation { counter: restore.counter, random: restore.random };
    Ok(Restored {
        cluster: forward::cluster(&survey).to_string(),
        generation: generation.to_string(),
        backup: place.url(),
        backup_index: survey.header.index,
        backup_time_ms: survey.header.time_ms,
        store: data.map(|data| data.url().to_owned()),
        topics: survey.topics.values().filter(|topic| !topic.deleting).count() as u64,
        partitions: survey.partitions.len() as u64,
        segments: survey.segments,
        rolled_forward,
        not_placed,
        missing_objects,
    })
}

/// The cluster that is restored.
struct Cluster {
    seeds: Seeds,
}

impl Cluster {
    fn new(controllers: &[String]) -> Self {
        Self { seeds: Seeds::new(controllers) }
    }

    async fn step(&mut self, what: &str, step: Step) -> Result<v1::RestoreResponse, BackupError> {
        let request = v1::RestoreRequest { step: Some(step) };
        let answer = self.seeds.call(what, Some(PATIENCE), |channel| {
            let request = request.clone();
            async move { BackupsClient::new(channel).restore(request).await }
        });
        Ok(answer.await?)
    }

    async fn begin(
        &mut self,
        survey: &Survey,
        data: Option<&Store>,
        counter: u32,
    ) -> Result<(v1::Generation, u64), BackupError> {
        let header = &survey.header;
        let begin = v1::BeginRestore {
            cluster_id: header.cluster.to_vec(),
            backup_generation: Some(crate::convert::generation_wire(header.generation)),
            backup_index: header.index,
            counter,
            time_ms: header.time_ms,
            sessions_upto: header.sessions_upto,
            store_url: data.map(|store| store.url().to_owned()).unwrap_or_default(),
            feature_level: header.feature_level,
        };
        let begun = self.step("beginning the restore", Step::Begin(begin)).await?;
        let restore = begun.restore.ok_or_else(|| BackupError::Cluster {
            retryable: false,
            message: "the controller began a restore without naming it".into(),
        })?;
        Ok((restore, begun.next_part))
    }

    /// Sends the parts from `next_part` on; those before are there.
    async fn parts(
        &mut self,
        place: &Place,
        restore: v1::Generation,
        next_part: u64,
    ) -> Result<(), BackupError> {
        let mut reading = Reading::open(place).await?;
        reading.header().await?;
        let mut part = 0;
        while let Ok(pairs) = reading.part().await? {
            if part >= next_part {
                let pairs = pairs
                    .into_iter()
                    .map(|(key, value)| v1::BackupPair { key: key.into(), value: value.into() })
                    .collect();
                let step = v1::RestorePart { restore: Some(restore), part, pairs };
                self.step("restoring a part of the backup", Step::Part(step)).await?;
            }
            part += 1;
        }
        Ok(())
    }

    /// Puts the placed slices into the index. What the cluster refuses all
    /// the same is named with the rest.
    async fn slices(
        &mut self,
        survey: &Survey,
        restore: v1::Generation,
        plan: Plan,
    ) -> Result<(RolledForward, Vec<NotPlaced>), BackupError> {
        let Plan { placed, mut not_placed } = plan;
        let mut done = RolledForward::default();
        let mut objects = BTreeSet::new();
        for batch in steps(&placed) {
            let step = v1::RestoreSlices { restore: Some(restore), objects: by_object(batch) };
            let answer = self.step("rolling the index forward", Step::Slices(step)).await?;
            if answer.results.len() != batch.len() {
                return Err(BackupError::Cluster {
                    retryable: false,
                    message: "the controller did not answer for every slice".into(),
                });
            }
            for (placed, result) in batch.iter().zip(answer.results) {
                if result.code == 0 {
                    objects.insert(placed.id);
                    done.slices += 1;
                    done.records += u64::from(placed.slice.record_count);
                } else {
                    let reason = format!("the index does not take it: {}", result.message);
                    let named = forward::not_placed(survey, &placed.id, &placed.slice, reason);
                    not_placed.push(named);
                }
            }
        }
        done.objects = objects.len() as u64;
        not_placed.sort_by(|a, b| (&a.slice, &a.object).cmp(&(&b.slice, &b.object)));
        Ok((done, not_placed))
    }
}

/// As many slices at once as a step may have, with all that they say of
/// producers.
fn steps(mut placed: &[Placed]) -> impl Iterator<Item = &[Placed]> {
    std::iter::from_fn(move || {
        let mut room = PRODUCERS;
        let fitting = placed.iter().take(SLICES).take_while(|next| {
            let before = room;
            room = room.saturating_sub(next.slice.producers.len());
            before > 0
        });
        let (step, rest) = placed.split_at(fitting.count());
        placed = rest;
        (!step.is_empty()).then_some(step)
    })
}

/// Neighbours of one object under one name, in the order of the slices.
fn by_object(slices: &[Placed]) -> Vec<v1::RestoredObject> {
    let mut objects: Vec<v1::RestoredObject> = Vec::new();
    for run in slices.chunk_by(|a, b| a.id == b.id) {
        let Placed { id, size, .. } = &run[0];
        let generation =
            v1::Generation { counter: id.generation.counter, random: id.generation.random };
        let object = v1::L0Object {
            generation: Some(generation),
            session: id.session.0,
            sequence: id.sequence,
        };
        objects.push(v1::RestoredObject {
            object: Some(object),
            size: *size,
            slices: run.iter().map(|placed| forward::commit_of(&placed.slice)).collect(),
        });
    }
    objects
}
