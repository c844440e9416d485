//! Rolling the index forward: from the footers found in the bucket to what is
//! put into the index, and what has to be named instead.

use super::bucket::{Described, Unreadable};
use super::chain::{Era, Found, Known, Verdict, chain};
use super::report::{NotPlaced, SliceName};
use super::survey::Survey;
use crate::state::command::{GenerationKey, PartitionKey};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use streamhouse_proto::v1;
use streamhouse_segment::{
    ClusterId, Generation, ObjectId, Outcome, ProducerState, SessionId, SliceMeta, TopicId,
};

/// A slice that was found.
struct Candidate {
    id: ObjectId,
    size: u64,
    /// Its number in the object.
    number: u32,
    slice: SliceMeta,
}

/// A slice that goes into the index.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) id: ObjectId,
    pub(crate) size: u64,
    pub(crate) slice: SliceMeta,
}

/// What the footers tell, gathered.
#[derive(Default)]
pub(crate) struct Footers {
    slices: BTreeMap<PartitionKey, Vec<Candidate>>,
    /// Slices that a later object of their session calls refused.
    refused: HashSet<(Generation, SessionId, u64, u32)>,
    unreadable: Vec<Unreadable>,
}

impl Footers {
    pub(crate) fn add(&mut self, found: Result<Described, Unreadable>) {
        let Described { id, size, footer } = match found {
            Ok(described) => described,
            Err(unreadable) => return self.unreadable.push(unreadable),
        };
        for told in footer.outcomes {
            match told.outcome {
                Outcome::Accepted => {}
                Outcome::Refused | Outcome::Abandoned => {
                    self.refused.insert((id.generation, id.session, told.sequence, told.slice));
                }
            }
        }
        for (number, mut slice) in (0..).zip(footer.slices) {
            // Not needed here, and the largest part.
            slice.sparse_index = Vec::new();
            let key = PartitionKey { topic: slice.topic.to_bytes(), partition: slice.partition };
            self.slices.entry(key).or_default().push(Candidate { id, size, number, slice });
        }
    }

    /// Decides about every slice.
    pub(crate) fn plan(self, survey: &Survey, generations: &BTreeSet<Generation>) -> Plan {
        let twins = twins(survey, generations);
        let mut plan = Plan::default();
        for Unreadable { id, reason } in self.unreadable {
            let reason = format!("its footer cannot be read: {reason}");
            plan.not_placed.push(NotPlaced { object: id.key(), slice: None, reason });
        }
        for (key, candidates) in self.slices {
            let (certain, doubtful): (Vec<_>, Vec<_>) =
                candidates.into_iter().partition(|c| !twins.contains(&c.id.generation));
            for candidate in doubtful {
                let counter = candidate.id.generation.counter;
                let reason = format!(
                    "there are two generations {counter}: the cluster was restored twice from one \
                     backup, or is not the one that was backed up"
                );
                plan.name(survey, &candidate, reason);
            }
            let found: Vec<Found> = certain.iter().map(|c| found(c, &self.refused)).collect();
            match placeable(survey, &key) {
                Ok(known) => plan.partition(survey, &known, certain, &found),
                Err(Some(reason)) => {
                    // Only what may have been committed there.
                    let generation = GenerationKey { counter: 0, random: 0 };
                    let era = Era { generation, epoch: 0 };
                    let first = found.iter().map(|f| f.era_start).min().unwrap_or(0);
                    let known = Known { next_offset: first, era, era_start: 0 };
                    let (verdicts, _) = chain(&known, &found);
                    for (candidate, verdict) in certain.iter().zip(verdicts) {
                        if verdict != Verdict::Refused {
                            plan.name(survey, candidate, reason.to_owned());
                        }
                    }
                }
                // It was being deleted: nothing was committed to it any more.
                Err(None) => {}
            }
        }
        plan
    }
}

/// Generations that share their counter with another one, beside the backup's.
fn twins(survey: &Survey, generations: &BTreeSet<Generation>) -> BTreeSet<Generation> {
    let own = super::place::generation(survey.header.generation);
    let alone = |generation: &Generation| {
        let mut all = generations.iter().chain([&own]);
        all.all(|other| other.counter != generation.counter || other == generation)
    };
    generations.iter().filter(|g| **g != own && !alone(g)).copied().collect()
}

/// What is known of a partition, or why nothing can be placed in it.
fn placeable(survey: &Survey, key: &PartitionKey) -> Result<Known, Option<&'static str>> {
    match survey.topics.get(&key.topic) {
        None => Err(Some("its topic is not in the backup: it was created after it")),
        Some(topic) if topic.deleting => Err(None),
        Some(_) => match survey.partitions.get(key) {
            Some(partition) => Ok(survey.known(partition)),
            None => Err(Some("its partition is not in the backup: it was created after it")),
        },
    }
}

fn found(candidate: &Candidate, refused: &HashSet<(Generation, SessionId, u64, u32)>) -> Found {
    let Candidate { id, number, slice, .. } = candidate;
    let Generation { counter, random } = id.generation;
    let generation = GenerationKey { counter, random };
    Found {
        era: Era { generation, epoch: slice.lease_epoch },
        era_start: slice.epoch_start_offset,
        base: slice.base_offset,
        last: slice.last_offset,
        refused: refused.contains(&(id.generation, id.session, id.sequence, *number)),
    }
}

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// By partition, in the order in which they continue it.
    pub(crate) placed: Vec<Placed>,
    pub(crate) not_placed: Vec<NotPlaced>,
}

impl Plan {
    fn partition(
        &mut self,
        survey: &Survey,
        known: &Known,
        candidates: Vec<Candidate>,
        found: &[Found],
    ) {
        let (verdicts, order) = chain(known, found);
        for (candidate, verdict) in candidates.iter().zip(verdicts) {
            let base = candidate.slice.base_offset;
            let reason = match verdict {
                Verdict::Placed | Verdict::Refused => continue,
                Verdict::Outlived(start) => format!(
                    "a later generation had gone on from offset {start}: another cluster wrote here"
                ),
                Verdict::Gap(next) => {
                    format!("offsets {next} to {} before it were not found", base - 1)
                }
                Verdict::Contradiction => "it contradicts what else was found".to_owned(),
            };
            self.name(survey, candidate, reason);
        }
        let mut candidates: Vec<_> = candidates.into_iter().map(Some).collect();
        let placed = order.into_iter().filter_map(|at| candidates[at].take());
        self.placed.extend(placed.map(|Candidate { id, size, slice, .. }| Placed {
            id,
            size,
            slice,
        }));
    }

    fn name(&mut self, survey: &Survey, candidate: &Candidate, reason: String) {
        let not_placed = not_placed(survey, &candidate.id, &candidate.slice, reason);
        self.not_placed.push(not_placed);
    }
}

/// Names a slice that is not in the index.
pub(crate) fn not_placed(
    survey: &Survey,
    id: &ObjectId,
    slice: &SliceMeta,
    reason: String,
) -> NotPlaced {
    let topic = survey.topics.get(&slice.topic.to_bytes());
    let name = SliceName {
        topic_id: TopicId::to_string(&slice.topic),
        topic: topic.map(|topic| topic.name.clone()),
        partition: slice.partition,
        base_offset: slice.base_offset,
        last_offset: slice.last_offset,
        records: slice.record_count,
    };
    NotPlaced { object: id.key(), slice: Some(name), reason }
}

/// The slice as a command carries it.
pub(crate) fn commit_of(slice: &SliceMeta) -> v1::SliceCommit {
    let topic_id = slice.topic.to_bytes().to_vec();
    v1::SliceCommit {
        partition: Some(v1::TopicPartition { topic_id, partition: slice.partition }),
        lease_epoch: slice.lease_epoch,
        base_offset: slice.base_offset,
        last_offset: slice.last_offset,
        record_count: slice.record_count,
        position: slice.position,
        length: slice.length,
        crc32c: slice.crc32c,
        append_time_ms: slice.append_time_ms,
        min_timestamp_ms: slice.min_timestamp_ms,
        max_timestamp_ms: slice.max_timestamp_ms,
        flags: slice.flags.bits().into(),
        producers: slice.producers.iter().map(|state| producer_batch(slice, state)).collect(),
    }
}

fn producer_batch(slice: &SliceMeta, state: &ProducerState) -> v1::ProducerBatch {
    let records = state.last_offset.saturating_sub(state.base_offset).saturating_add(1);
    v1::ProducerBatch {
        producer_id: state.producer_id.unsigned_abs(),
        producer_epoch: state.producer_epoch.unsigned_abs().into(),
        base_sequence: state.base_sequence.unsigned_abs(),
        records: u32::try_from(records).unwrap_or(u32::MAX),
        offset_delta: state.base_offset.saturating_sub(slice.base_offset),
    }
}

/// The new generation's counter: above all that the cluster ever had, so that
/// no key it writes was written before.
pub(crate) fn next_counter(survey: &Survey, generations: &BTreeSet<Generation>) -> Option<u32> {
    let found = generations.iter().map(|generation| generation.counter).max().unwrap_or(0);
    found.max(survey.header.generation.counter).checked_add(1)
}

/// The folder in which the cluster's objects lie.
pub(crate) fn cluster(survey: &Survey) -> ClusterId {
    ClusterId::from_bytes(survey.header.cluster)
}
