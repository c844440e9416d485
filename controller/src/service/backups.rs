//! The `Backups` service.

use super::Shared;
use crate::backup::file::EncodeError;
use crate::backup::take::{self, HoldError};
use crate::convert::{generation_key, generation_wire, id16, slice_commit};
use crate::entropy;
use crate::errors::{
    invalid, not_shown, propose_failed, refusal_info, refused, store_failed, unexpected,
};
use crate::state::MAX_BATCH;
use crate::state::command::{CommandBody, GenerationKey, RestoreStart, RestoredObject};
use crate::state::reply::Reply;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::backups_server::Backups;
use streamhouse_proto::v1::restore_request::Step;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tonic::{Request, Response, Status};

/// One per controller.
pub(crate) struct BackupsService(pub(crate) Arc<Shared>);

/// How long this controller may take to apply what was just committed.
const APPLY: Duration = Duration::from_secs(5);

fn encode_failed(error: &EncodeError) -> Status {
    match error {
        EncodeError::NotNow(what) => to_status(ErrorInfo::new(ErrorCode::Restoring, *what)),
        EncodeError::State(error) => store_failed(error),
    }
}

fn hold_failed(error: &HoldError) -> Status {
    match error {
        HoldError::Propose(error) => propose_failed(error),
        HoldError::Refused(refusal) => refused(refusal),
        HoldError::Unexpected => unexpected("holding objects for a backup"),
    }
}

#[tonic::async_trait]
impl Backups for BackupsService {
    type TakeStream = BoxStream<'static, Result<v1::BackupChunk, Status>>;

    async fn take(
        &self,
        _: Request<v1::TakeBackupRequest>,
    ) -> Result<Response<Self::TakeStream>, Status> {
        // BOUND: each pins what it sees of the database.
        let place = self.0.backups.take().ok_or_else(|| self.0.backups.refusal())?;
        take::hold(&self.0.raft).await.map_err(|e| hold_failed(&e))?;
        let view = self.0.view_at(0, true).await?;
        let pieces = take::pieces(&self.0.tasks, view).map_err(|e| encode_failed(&e))?;
        let chunks = pieces.map(move |piece: Result<Bytes, EncodeError>| {
            let _until_taken = &place;
            match piece {
                Ok(data) => Ok(v1::BackupChunk { data }),
                Err(error) => Err(encode_failed(&error)),
            }
        });
        let stop = self.0.cancel.clone().cancelled_owned();
        Ok(Response::new(chunks.take_until(stop).boxed()))
    }

    async fn restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<v1::RestoreResponse>, Status> {
        let step = request.into_inner().step.ok_or_else(|| invalid("the step is missing"))?;
        let body = command(step)?;
        let proposed = self.0.raft.propose(None, body).await;
        let (index, reply) = proposed.map_err(|e| propose_failed(&e))?;
        self.0.raft.wait_applied(index, APPLY).await.map_err(|e| not_shown(&e))?;
        let response = match reply {
            Reply::Done => v1::RestoreResponse::default(),
            Reply::Restoring { generation, next_part } => {
                tracing::info!(counter = generation.counter, next_part, "restoring a backup");
                let restore = Some(generation_wire(generation));
                v1::RestoreResponse { restore, next_part, results: Vec::new() }
            }
            Reply::Restored(refusals) => {
                let result = |refusal: &Option<_>| refusal.as_ref().map(refusal_info);
                let results = refusals.iter().map(|r| result(r).unwrap_or_default()).collect();
                v1::RestoreResponse { results, ..v1::RestoreResponse::default() }
            }
            Reply::Refused(refusal) => return Err(refused(&refusal)),
            _ => return Err(unexpected("a restore's step")),
        };
        Ok(Response::new(response))
    }
}

fn command(step: Step) -> Result<CommandBody, Status> {
    Ok(match step {
        Step::Begin(begin) => {
            let generation = GenerationKey { counter: begin.counter, random: entropy::number() };
            CommandBody::BeginRestore(RestoreStart {
                cluster: id16("cluster id", &begin.cluster_id)?,
                backup_generation: generation_key(begin.backup_generation)?,
                backup_index: begin.backup_index,
                generation,
                time_ms: begin.time_ms,
                sessions_upto: begin.sessions_upto,
                store_url: Some(begin.store_url).filter(|url| !url.is_empty()),
                feature_level: begin.feature_level,
            })
        }
        Step::Part(part) => CommandBody::RestorePairs {
            restore: generation_key(part.restore)?,
            part: part.part,
            pairs: part.pairs.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        },
        Step::Slices(slices) => {
            let count: usize = slices.objects.iter().map(|object| object.slices.len()).sum();
            if count > MAX_BATCH {
                return Err(invalid(format!("{count} slices, allowed are {MAX_BATCH}")));
            }
            let objects = slices.objects.iter().map(restored_object);
            CommandBody::RestoreSlices {
                restore: generation_key(slices.restore)?,
                objects: objects.collect::<Result<_, _>>()?,
            }
        }
        Step::End(end) => {
            CommandBody::EndRestore { restore: generation_key(end.restore)?, parts: end.parts }
        }
    })
}

fn restored_object(wire: &v1::RestoredObject) -> Result<RestoredObject, Status> {
    let object = wire.object.ok_or_else(|| invalid("an object is missing"))?;
    Ok(RestoredObject {
        generation: generation_key(object.generation)?,
        session: object.session,
        sequence: object.sequence,
        size: wire.size,
        slices: wire.slices.iter().map(slice_commit).collect::<Result<_, _>>()?,
    })
}
