//! What a backup holds, as far as a restore has to know it: read once from
//! start to end, before anything is changed, so that a damaged one changes
//! nothing.

use super::BackupError;
use super::chain::{Era, Known};
use super::file::{Decoder, Header, Item, Totals};
use super::patience::patiently;
use super::place::Place;
use crate::state::command::{GenerationKey, PartitionKey, TopicKey};
use crate::state::partitions::Partition;
use crate::state::restore::{BackupPair, parse};
use crate::state::segments::Source;
use crate::state::topics::TopicStage;
use bytes::Bytes;
use std::collections::BTreeMap;
use streamhouse_segment::{ClusterId, ObjectId, SessionId};

/// Bytes of a backup read at once.
const READ_BYTES: u64 = 4 << 20;

/// A backup, read piece by piece.
pub(crate) struct Reading {
    place: Place,
    decoder: Decoder,
    size: u64,
    at: u64,
}

impl Reading {
    pub(crate) async fn open(place: &Place) -> Result<Self, BackupError> {
        let size = patiently(|| place.store.head(&place.key)).await?;
        let size =
            size.ok_or_else(|| BackupError::Place(format!("there is no backup {}", place.url())))?;
        Ok(Self { place: place.clone(), decoder: Decoder::default(), size, at: 0 })
    }

    /// `None` after the end, which was found to be sound.
    pub(crate) async fn next_item(&mut self) -> Result<Option<Item>, BackupError> {
        let wrong = |error| BackupError::File { url: self.place.url(), error };
        loop {
            if let Some(item) = self.decoder.next_item().map_err(wrong)? {
                return Ok(Some(item));
            }
            if self.at == self.size {
                std::mem::take(&mut self.decoder).finish().map_err(wrong)?;
                return Ok(None);
            }
            let range = self.at..self.size.min(self.at + READ_BYTES);
            let Place { store, key, .. } = &self.place;
            let bytes = patiently(|| store.get_range(key, range.clone())).await?;
            self.at = range.end;
            self.decoder.feed(&bytes);
        }
    }

    /// What it is a backup of; read first.
    pub(crate) async fn header(&mut self) -> Result<Header, BackupError> {
        match self.next_item().await? {
            Some(Item::Header(header)) => Ok(*header),
            _ => Err(self.damaged("it has no header")),
        }
    }

    /// The next part's pairs; `None` after the last.
    pub(crate) async fn part(
        &mut self,
    ) -> Result<Result<Vec<(Bytes, Bytes)>, Totals>, BackupError> {
        match self.next_item().await? {
            Some(Item::Part(pairs)) => Ok(Ok(pairs)),
            Some(Item::End(totals)) => {
                // Nothing may follow.
                match self.next_item().await? {
                    None => Ok(Err(totals)),
                    Some(_) => Err(self.damaged("something follows its end")),
                }
            }
            Some(Item::Header(_)) | None => Err(self.damaged("it has no end")),
        }
    }

    fn damaged(&self, what: impl ToString) -> BackupError {
        let error = super::file::DecodeError::Damaged(what.to_string());
        BackupError::File { url: self.place.url(), error }
    }
}

/// A topic of the backup.
#[derive(Debug, Clone)]
pub(crate) struct TopicFound {
    pub(crate) name: String,
    pub(crate) deleting: bool,
}

/// See the [module](self).
pub(crate) struct Survey {
    pub(crate) header: Header,
    pub(crate) totals: Totals,
    pub(crate) topics: BTreeMap<TopicKey, TopicFound>,
    pub(crate) partitions: BTreeMap<PartitionKey, Partition>,
    pub(crate) segments: u64,
    /// The last object of each session that is still known.
    sessions: BTreeMap<u64, u64>,
    /// Sessions in the index, with the generation of each.
    generations: BTreeMap<u64, GenerationKey>,
    /// Objects in the index, by session: ranges of sequence numbers.
    objects: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl Survey {
    pub(crate) async fn of(place: &Place) -> Result<Self, BackupError> {
        let mut reading = Reading::open(place).await?;
        let header = reading.header().await?;
        let mut survey = Self {
            header,
            totals: Totals { parts: 0, pairs: 0, bytes: 0 },
            topics: BTreeMap::new(),
            partitions: BTreeMap::new(),
            segments: 0,
            sessions: BTreeMap::new(),
            generations: BTreeMap::new(),
            objects: BTreeMap::new(),
        };
        loop {
            match reading.part().await? {
                Ok(pairs) => {
                    for (key, value) in pairs {
                        let pair = parse(&key, &value).map_err(|what| reading.damaged(what))?;
                        survey.note(pair);
                    }
                }
                Err(totals) => {
                    survey.totals = totals;
                    return Ok(survey);
                }
            }
        }
    }

    fn note(&mut self, pair: BackupPair) {
        match pair {
            BackupPair::Topic(id, topic) => {
                let deleting = topic.stage == TopicStage::Deleting;
                self.topics.insert(id, TopicFound { name: topic.name, deleting });
            }
            BackupPair::Partition(id, partition) => {
                self.partitions.insert(id, partition);
            }
            BackupPair::Segment(_, entry) => {
                let Source::L0 { generation, session, .. } = entry.source;
                self.generations.insert(session, generation);
                self.segments += 1;
            }
            BackupPair::Object(session, sequence, _) => {
                // In key order, so mostly one behind the other.
                let ranges = self.objects.entry(session).or_default();
                match ranges.last_mut() {
                    Some((_, last)) if *last + 1 == sequence => *last = sequence,
                    _ => ranges.push((sequence, sequence)),
                }
            }
            BackupPair::Session(id, session) => {
                self.sessions.insert(id, session.last_sequence);
            }
            BackupPair::Group(_) | BackupPair::Moot | BackupPair::Other => {}
        }
    }

    /// Whether an object's commit may have come after the backup. Of the
    /// others the backup says all there is to say.
    pub(crate) fn is_after(&self, id: &ObjectId) -> bool {
        let own = self.header.generation;
        let found = (id.generation.counter, id.generation.random);
        if found != (own.counter, own.random) {
            return id.generation.counter >= own.counter;
        }
        match self.sessions.get(&id.session.0) {
            Some(last) => id.sequence > *last,
            // It was opened after the backup, or ended long before.
            None => id.session.0 > self.header.sessions_upto,
        }
    }

    /// A partition as the chain rule has to know it.
    pub(crate) fn known(&self, partition: &Partition) -> Known {
        let era = Era { generation: self.header.generation, epoch: partition.lease_epoch };
        Known { next_offset: partition.next_offset, era, era_start: partition.epoch_start_offset }
    }

    /// Some object of each session in the index, and the sequence numbers of
    /// all its objects there.
    pub(crate) fn indexed(&self) -> impl Iterator<Item = (ObjectId, &[(u64, u64)])> {
        let cluster = ClusterId::from_bytes(self.header.cluster);
        self.objects.iter().filter_map(move |(session, ranges)| {
            let generation = super::place::generation(*self.generations.get(session)?);
            let session = SessionId(*session);
            Some((ObjectId { cluster, generation, session, sequence: 0 }, ranges.as_slice()))
        })
    }
}
