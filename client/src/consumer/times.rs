//! From a time to an offset: the first record that is not older.
//!
//! The index knows the latest timestamp of every slice, but producers choose timestamps, so they need not rise: the
//! controllers walk over the slices that are too old, in steps, and the one found is read and looked through.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamhouse_proto::v1;
use streamhouse_segment::batch::{self, Limits};
use streamhouse_segment::ids::{ClusterId, TopicId};
use streamhouse_segment::object::verify_slice;

use super::assignment::Assigned;
use super::builder::OffsetReset;
use super::error::ConsumeError;
use super::handle::Consumer;
use super::offsets::describe;
use super::plan::{self, Slice};
use super::ready::{Body, Chunk};
use super::source::Source;
use crate::errors::Code;
use crate::routing::{Client, Metadata};
use crate::types::TopicPartition;
use crate::{clock, convert};

/// BOUND: partitions of one question.
const RANGES: usize = 512;

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OffsetAndTimestamp {
    /// The record's offset.
    pub offset: u64,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp: i64,
}

/// What became of each partition's search: `None` where every record is older.
pub(super) type Found = BTreeMap<TopicPartition, Result<Option<OffsetAndTimestamp>, ConsumeError>>;

/// A partition that is being searched.
struct Search {
    at: Arc<TopicPartition>,
    assigned: Assigned,
    since: i64,
    from: u64,
}

/// What comes of an answer about it.
enum Step {
    /// Ask again from there.
    On(u64),
    /// That is the record, or there is none.
    End(Option<OffsetAndTimestamp>),
}

impl Consumer {
    /// Per partition the first record whose timestamp is not before the given one (milliseconds since 1970), or `None`
    /// if every record is older. Of every record acknowledged before this call. The partitions need not be assigned to
    /// this consumer.
    pub async fn offsets_for_times<P: Into<TopicPartition>>(
        &self,
        times: impl IntoIterator<Item = (P, i64)>,
    ) -> Result<BTreeMap<TopicPartition, Option<OffsetAndTimestamp>>, ConsumeError> {
        let mut by_topic: BTreeMap<Arc<str>, Vec<(u32, i64)>> = BTreeMap::new();
        for (at, time) in times {
            let at: TopicPartition = at.into();
            by_topic.entry(at.topic).or_default().push((at.partition, time));
        }
        let mut searches = Vec::new();
        for (name, partitions) in by_topic {
            let found = describe(&self.metadata, &name).await?;
            for (partition, since) in partitions {
                let Some(state) = found.partitions.iter().find(|s| s.partition == partition) else {
                    let (at, partitions) =
                        (TopicPartition::new(name, partition), found.topic.partitions);
                    return Err(ConsumeError::UnknownPartition { at, partitions });
                };
                searches.push((Assigned::new(&name, found.topic.id, state), since));
            }
        }
        let found = self.searcher().search(searches).await?;
        found.into_iter().map(|(at, found)| Ok((at, found?))).collect()
    }

    pub(super) fn searcher(&self) -> Searcher {
        let (metadata, source) = (self.metadata.clone(), self.source.clone());
        Searcher { cluster: self.cluster, metadata, source }
    }

    /// The time from which on the reset policy reads, in milliseconds since 1970, if it goes by time.
    pub(super) fn reset_time(&self) -> Option<i64> {
        let OffsetReset::Since(age) = self.options.offset_reset else { return None };
        Some(clock::wall_ms().saturating_sub_unsigned(age.as_millis() as u64))
    }

    /// Reads the partition from the first record that is not before `since`. That is searched beside poll, which goes on
    /// with the others; until it is found, the partition is not read.
    pub(super) fn read_since(&mut self, slot: usize, since: i64) {
        self.targets.set(slot, None);
        let version = self.targets.version(slot);
        let (at, topic) = (self.table.at(slot).clone(), self.table.topic(slot));
        let (searcher, turn) = (self.searcher(), self.search.clone());
        let (targets, ready) = (self.targets.clone(), self.ready.clone());
        let cancel = self.cancel.clone();
        let search = async move {
            // BOUND: one at a time, for each holds a slice.
            let _turn = turn.lock().await;
            // The partition went, or is read from elsewhere: there may be another search for it.
            if targets.version(slot) != version {
                return;
            }
            let body = match searcher.first(&at, topic, since).await {
                Ok(offset) => Body::Begin(offset),
                Err(error) => Body::Failed(error),
            };
            ready.push(Chunk { slot, version, body });
        };
        self.tasks.spawn(async move { cancel.run_until_cancelled(search).await });
    }
}

/// Looks for records by time.
pub(super) struct Searcher {
    cluster: ClusterId,
    metadata: Metadata,
    source: Arc<Source>,
}

impl Searcher {
    /// The partition's first offset that is not before `since`: its end, if all are.
    async fn first(
        &self,
        at: &TopicPartition,
        topic: TopicId,
        since: i64,
    ) -> Result<u64, ConsumeError> {
        let found = self.metadata.describe_id(topic, true).await;
        let found = found.map_err(|error| match error.code() {
            Some(Code::UnknownTopic) => ConsumeError::TopicDeleted { topic: at.topic.clone() },
            _ => ConsumeError::Call(error),
        })?;
        let Some(state) = found.partitions.iter().find(|s| s.partition == at.partition) else {
            let partitions = found.topic.partitions;
            return Err(ConsumeError::UnknownPartition { at: at.clone(), partitions });
        };
        let assigned = Assigned::new(&at.topic, topic, state);
        let record = self.search(vec![(assigned, since)]).await?.remove(at).transpose()?.flatten();
        Ok(record.map_or(state.high_watermark, |record| record.offset))
    }

    /// The searches, several partitions to a question. What is wrong with one partition fails no other.
    pub(super) async fn search(
        &self,
        searches: Vec<(Assigned, i64)>,
    ) -> Result<Found, ConsumeError> {
        let mut found = Found::new();
        let mut open: Vec<Search> = searches
            .into_iter()
            .map(|(assigned, since)| Search {
                at: assigned.at.clone(),
                from: assigned.log_start,
                assigned,
                since,
            })
            .collect();
        while !open.is_empty() {
            let rest = open.split_off(open.len().min(RANGES));
            let answer = self.ask(&open).await?;
            let mut on = Vec::new();
            for (mut search, plan) in open.into_iter().zip(answer.plans) {
                let result = match self.step(&search, plan).await {
                    Ok(Step::On(from)) => {
                        search.from = from;
                        on.push(search);
                        continue;
                    }
                    Ok(Step::End(record)) => Ok(record),
                    Err(error) => Err(error),
                };
                found.insert((*search.at).clone(), result);
            }
            on.extend(rest);
            open = on;
        }
        Ok(found)
    }

    async fn ask(&self, open: &[Search]) -> Result<v1::FindSegmentsResponse, ConsumeError> {
        let ranges = open.iter().map(|search| {
            let Assigned { at, topic, .. } = &search.assigned;
            v1::SegmentRange {
                partition: Some(convert::topic_partition(*topic, at.partition)),
                offset: search.from,
                max_segments: 1,
                max_bytes: 0,
                from_timestamp_ms: Some(search.since),
            }
        });
        let request = v1::FindSegmentsRequest {
            ranges: ranges.collect(),
            min_applied: self.metadata.pool.applied(),
            linearizable: true,
        };
        let answer = self.metadata.pool.call("find segments", |mut client: Client| {
            let request = request.clone();
            async move { client.find_segments(request).await }
        });
        let answer = answer.await?;
        self.metadata.pool.observe(answer.applied);
        if answer.plans.len() != open.len() {
            return Err(convert::malformed("number of plans").into());
        }
        Ok(answer)
    }

    async fn step(&self, search: &Search, plan: v1::ReadPlan) -> Result<Step, ConsumeError> {
        if let Some(info) = plan.error {
            // Its oldest records were deleted meanwhile.
            if info.code() == v1::ErrorCode::OffsetOutOfRange && search.from < plan.log_start {
                return Ok(Step::On(plan.log_start));
            }
            if info.code() == v1::ErrorCode::UnknownTopic {
                return Err(ConsumeError::TopicDeleted { topic: search.at.topic.clone() });
            }
            let (refusal, _) = convert::refusal(info);
            return Err(ConsumeError::LookUp { at: (*search.at).clone(), refusal });
        }
        match plan.segments.into_iter().next() {
            Some(segment) => {
                let slice = plan::slice(self.cluster, segment)?;
                let record = self.look_into(search, &slice).await?;
                let next = Step::On(slice.last_offset + 1);
                Ok(record.map_or(next, |record| Step::End(Some(record))))
            }
            // Not a step further where the question was too large: then the first partition of it was looked through.
            None if (search.from..plan.high_watermark).contains(&plan.scanned_to) => {
                Ok(Step::On(plan.scanned_to))
            }
            None => Ok(Step::End(None)),
        }
    }

    /// The slice's first record that is late enough and not before the search.
    async fn look_into(
        &self,
        search: &Search,
        slice: &Slice,
    ) -> Result<Option<OffsetAndTimestamp>, ConsumeError> {
        let key = slice.object.key();
        let bytes = self.source.get(&key, slice.start..slice.end, None).await;
        let bytes = bytes.map_err(|error| error.name(&search.at, slice, slice.end))?;
        let corrupt = |problem: String| slice.corrupt(&search.at, problem);
        verify_slice(&bytes, slice.crc32c, slice.base_offset, slice.last_offset)
            .map_err(|error| corrupt(error.to_string()))?;
        for one in batch::split(bytes) {
            let batch = one.and_then(|one| batch::decode(one, &Limits::default()));
            let batch = batch.map_err(|error| corrupt(error.to_string()))?;
            if batch.header.is_control() || batch.header.max_timestamp < search.since {
                continue;
            }
            for record in &batch {
                let record = record.map_err(|error| corrupt(error.to_string()))?;
                let offset = record.offset.unsigned_abs();
                if record.timestamp >= search.since && offset >= search.from {
                    return Ok(Some(OffsetAndTimestamp { offset, timestamp: record.timestamp }));
                }
            }
        }
        Ok(None)
    }
}
