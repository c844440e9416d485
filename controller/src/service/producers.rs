//! The `Producers` service: who idempotent producers are, and what is
//! committed of them.

use super::Shared;
use crate::convert::{committed_wire, partition_key, request_key};
use crate::errors::{invalid, propose_failed, refused, store_failed, unexpected};
use crate::raft::StateView;
use crate::state::command::{CommandBody, PartitionKey, ProducerEpoch, ProducerRequest};
use crate::state::kv::KvError;
use crate::state::reply::Reply;
use crate::state::{partitions, producers, sequences};
use std::collections::BTreeMap;
use std::sync::Arc;
use streamhouse_proto::v1::producers_server::Producers;
use streamhouse_proto::v1::{self};
use tonic::{Request, Response, Status};

/// BOUND: questions of one call.
const MAX_QUESTIONS: usize = 1_000;

/// One per controller.
pub(crate) struct ProducersService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Producers for ProducersService {
    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let wire = request.into_inner();
        let request = request_key(wire.request)?;
        let producer = wire.producer.map(epoch_of).transpose()?;
        let name = (!wire.name.is_empty()).then_some(wire.name);
        let body = CommandBody::InitProducer(ProducerRequest { name, producer });
        let proposed = self.0.raft.propose(Some(request), body).await;
        match proposed.map_err(|e| propose_failed(&e))? {
            (applied, Reply::Producer(ProducerEpoch { id, epoch })) => {
                let given = v1::ProducerEpoch { producer_id: id, epoch: epoch.into() };
                Ok(Response::new(v1::InitProducerResponse { producer: Some(given), applied }))
            }
            (_, Reply::Refused(refusal)) => Err(refused(&refusal)),
            _ => Err(unexpected("init producer")),
        }
    }

    async fn find_producers(
        &self,
        request: Request<v1::FindProducersRequest>,
    ) -> Result<Response<v1::FindProducersResponse>, Status> {
        let wire = request.into_inner();
        let count = wire.producers.len();
        if count > MAX_QUESTIONS {
            let message = format!("{count} producers in one call, allowed are {MAX_QUESTIONS}");
            return Err(invalid(message));
        }
        let asked = wire
            .producers
            .iter()
            .map(|asked| Ok((partition_key(asked.partition.as_ref())?, asked.producer_id)));
        let asked = asked.collect::<Result<Vec<_>, Status>>()?;
        let view = self.0.view_at(wire.min_applied, wire.linearizable).await?;
        let producers = find(&view, &asked).map_err(|e| store_failed(&e))?;
        Ok(Response::new(v1::FindProducersResponse { producers, applied: view.applied() }))
    }
}

fn epoch_of(wire: v1::ProducerEpoch) -> Result<ProducerEpoch, Status> {
    let epoch = u16::try_from(wire.epoch);
    let epoch = epoch.map_err(|_| invalid(format!("{} is no producer epoch", wire.epoch)))?;
    Ok(ProducerEpoch { id: wire.producer_id, epoch })
}

/// Whether the partition has no room for one more producer.
fn is_full(view: &StateView, at: &PartitionKey) -> Result<bool, KvError> {
    let known = partitions::partition(view, at)?;
    Ok(known.is_some_and(|known| known.producers >= sequences::MAX_PARTITION_PRODUCERS))
}

fn find(
    view: &StateView,
    asked: &[(PartitionKey, u64)],
) -> Result<Vec<v1::ProducerProgress>, KvError> {
    let mut epochs: BTreeMap<u64, Option<u16>> = BTreeMap::new();
    let mut found = Vec::with_capacity(asked.len());
    for (partition, id) in asked {
        if !epochs.contains_key(id) {
            let known = producers::producer(view, *id)?;
            epochs.insert(*id, known.map(|known| known.current()));
        }
        let committed = sequences::committed(view, partition, *id)?;
        found.push(v1::ProducerProgress {
            current_epoch: epochs[id].map(u32::from),
            committed: committed.as_ref().map(committed_wire),
            full: committed.is_none() && is_full(view, partition)?,
        });
    }
    Ok(found)
}
