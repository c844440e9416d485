//! A fake agent: writes every batch at once, unless its script says otherwise.

use std::pin::Pin;

use futures::Stream;
use streamhouse_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::World;

/// What an agent does with one batch.
#[derive(Clone, Debug)]
pub enum Action {
    Accept,
    Refuse(v1::ErrorInfo),
    /// Written, and then the stream breaks before the answer.
    WriteAndCut,
    /// The stream breaks; nothing was written.
    Cut,
    /// Written, and never answered; the stream goes on.
    WriteAndForget,
    /// Waits for a permit of the world's gate, then accepts.
    Hold,
    /// Waits for a permit of the world's gate, then refuses.
    HoldAndRefuse(v1::ErrorInfo),
}

pub(super) struct Fake {
    pub(super) world: World,
    pub(super) address: String,
}

type Answers = mpsc::Sender<Result<v1::ProduceResponse, Status>>;

#[tonic::async_trait]
impl v1::produce_server::Produce for Fake {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<v1::ProduceResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (answers, stream) = mpsc::channel(64);
        tokio::spawn(serve(
            self.world.clone(),
            self.address.clone(),
            request.into_inner(),
            answers,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn serve(
    world: World,
    address: String,
    mut batches: Streaming<v1::ProduceRequest>,
    answers: Answers,
) {
    while let Ok(Some(request)) = batches.message().await {
        for batch in request.batches {
            let script = world.state.lock().scripts.get_mut(&address).and_then(|s| s.pop_front());
            let cut = Err(Status::unavailable("cut"));
            let result = match script.unwrap_or(Action::Accept) {
                Action::Accept => write(&world, &address, &batch).await,
                Action::Refuse(info) => Err(info),
                Action::WriteAndCut => {
                    write(&world, &address, &batch).await.unwrap();
                    let _ = answers.send(cut).await;
                    return;
                }
                Action::WriteAndForget => {
                    write(&world, &address, &batch).await.unwrap();
                    continue;
                }
                Action::Cut => {
                    let _ = answers.send(cut).await;
                    return;
                }
                Action::Hold => {
                    world.gate.acquire().await.unwrap().forget();
                    write(&world, &address, &batch).await
                }
                Action::HoldAndRefuse(info) => {
                    world.gate.acquire().await.unwrap().forget();
                    Err(info)
                }
            };
            let mut answer =
                v1::ProduceResult { correlation: batch.correlation, ..Default::default() };
            match result {
                Ok((base_offset, applied)) => {
                    (answer.base_offset, answer.applied) = (base_offset, applied);
                }
                Err(info) => answer.error = Some(info),
            }
            if answers.send(Ok(v1::ProduceResponse { results: vec![answer] })).await.is_err() {
                return;
            }
        }
    }
}

async fn write(
    world: &World,
    address: &str,
    batch: &v1::ProduceBatch,
) -> Result<(u64, u64), v1::ErrorInfo> {
    let at = batch.partition.clone().unwrap();
    let holder = world.state.lock().log(&at.topic_id, at.partition)?.agent.clone();
    if holder != address {
        return Err(v1::ErrorInfo::new(v1::ErrorCode::NotLeaseHolder, "the lease moved").at(holder));
    }
    world.append(&at.topic_id, at.partition, &batch.batch).await
}
