//! Idempotent producers in the fake cluster, decided by the same rule as in the real one.

use std::collections::BTreeMap;

use streamhouse_proto::{to_status, v1};
use streamhouse_segment::batch::BatchHeader;
use streamhouse_segment::sequences::{Sequences, Standing};
use tonic::{Request, Response, Status};

use super::World;

type At = (Vec<u8>, u32, u64);

/// What is known of producers.
#[derive(Default)]
pub struct Producers {
    /// By id, from 0.
    pub epochs: Vec<u32>,
    pub names: BTreeMap<String, u64>,
    /// Epoch and sequences by topic, partition and producer.
    pub committed: BTreeMap<At, (u32, Sequences)>,
    /// Calls for an id or epoch, by request: they are answered once.
    answered: BTreeMap<(Vec<u8>, u64), v1::ProducerEpoch>,
    /// So many of the next calls for an id or epoch take effect, and their answers are lost.
    pub lose_answers: usize,
    /// Nobody answers calls about producers.
    pub unavailable: bool,
}

impl Producers {
    /// A batch that is about to be written: where it is, if it was written before.
    pub fn judge(
        &self,
        (topic, partition): (&[u8], u32),
        header: &BatchHeader,
    ) -> Result<Option<u64>, v1::ErrorInfo> {
        let (Ok(id), Ok(epoch)) =
            (u64::try_from(header.producer_id), u32::try_from(header.producer_epoch))
        else {
            return Ok(None);
        };
        let refuse = |code| Err(v1::ErrorInfo::new(code, "refused"));
        match self.epochs.get(id as usize) {
            Some(current) if *current > epoch => return refuse(v1::ErrorCode::ProducerFenced),
            Some(current) if *current == epoch => {}
            _ => return refuse(v1::ErrorCode::UnknownProducer),
        }
        let none = Sequences::default();
        let known = self.committed.get(&(topic.to_vec(), partition, id));
        let known = known.filter(|(known, _)| *known == epoch).map_or(&none, |(_, all)| all);
        match known.judge(header.base_sequence as u32, header.records_count as u32) {
            Standing::Next => Ok(None),
            Standing::Had { position } => Ok(known.offset_of(position)),
            Standing::OutOfOrder { .. } => refuse(v1::ErrorCode::OutOfOrderSequence),
        }
    }

    pub fn append(&mut self, (topic, partition): (&[u8], u32), header: &BatchHeader, base: u64) {
        let (Ok(id), Ok(epoch)) =
            (u64::try_from(header.producer_id), u32::try_from(header.producer_epoch))
        else {
            return;
        };
        let known = self.committed.entry((topic.to_vec(), partition, id)).or_default();
        if known.0 != epoch {
            *known = (epoch, Sequences::default());
        }
        known.1.append(header.records_count as u32, base);
    }

    fn init(&mut self, asked: v1::InitProducerRequest) -> Result<v1::ProducerEpoch, Status> {
        let request = asked.request.unwrap();
        let key = (request.requester, request.number);
        if let Some(given) = self.answered.get(&key) {
            return Ok(*given);
        }
        let named = self.names.get(&asked.name).copied();
        let id = match (asked.producer, named) {
            (Some(from), _) => {
                let current = self.epochs.get(from.producer_id as usize);
                if current != Some(&from.epoch) {
                    let info = v1::ErrorInfo::new(v1::ErrorCode::ProducerFenced, "fenced");
                    return Err(to_status(info));
                }
                self.epochs[from.producer_id as usize] += 1;
                from.producer_id
            }
            (None, Some(id)) => {
                self.epochs[id as usize] += 1;
                id
            }
            (None, None) => {
                self.epochs.push(0);
                let id = self.epochs.len() as u64 - 1;
                if !asked.name.is_empty() {
                    self.names.insert(asked.name, id);
                }
                id
            }
        };
        let given = v1::ProducerEpoch { producer_id: id, epoch: self.epochs[id as usize] };
        self.answered.insert(key, given);
        Ok(given)
    }
}

pub(super) struct Fake(pub(super) World);

#[tonic::async_trait]
impl v1::producers_server::Producers for Fake {
    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let mut state = self.0.state.lock();
        state.applied += 1;
        let applied = state.applied;
        if state.producers.unavailable {
            return Err(to_status(v1::ErrorInfo::new(v1::ErrorCode::NoLeader, "no leader")));
        }
        let given = state.producers.init(request.into_inner())?;
        if state.producers.lose_answers > 0 {
            state.producers.lose_answers -= 1;
            return Err(Status::unavailable("cut"));
        }
        Ok(Response::new(v1::InitProducerResponse { producer: Some(given), applied }))
    }

    async fn find_producers(
        &self,
        request: Request<v1::FindProducersRequest>,
    ) -> Result<Response<v1::FindProducersResponse>, Status> {
        let state = self.0.state.lock();
        if state.producers.unavailable {
            return Err(to_status(v1::ErrorInfo::new(v1::ErrorCode::NoLeader, "no leader")));
        }
        let found = request.into_inner().producers.into_iter().map(|asked| {
            let at = asked.partition.unwrap();
            let key = (at.topic_id, at.partition, asked.producer_id);
            let committed = state.producers.committed.get(&key).map(|(epoch, all)| {
                let runs = all.runs.iter().map(|run| v1::SequenceRun {
                    first: run.first,
                    records: run.records,
                    base_offset: run.base_offset,
                });
                v1::CommittedSequences { epoch: *epoch, records: all.records, runs: runs.collect() }
            });
            let current_epoch = state.producers.epochs.get(asked.producer_id as usize).copied();
            v1::ProducerProgress { current_epoch, committed, full: false }
        });
        Ok(Response::new(v1::FindProducersResponse {
            producers: found.collect(),
            applied: state.applied,
        }))
    }
}
