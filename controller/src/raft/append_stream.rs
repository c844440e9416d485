//! Pipelined AppendEntries: one `Append` call carries many requests up and
//! their responses down, in order.
//!
//! SUBTLE: openraft's request stream holds a lock while it waits for the next
//! entry, and openraft takes that lock again once it has dropped the response
//! stream. So the response stream returned here owns the request stream and
//! feeds the call through a channel: dropping the one drops the other at
//! once, whatever the HTTP/2 connection still keeps.

use super::message::{self, Envelope};
use super::time;
use super::types::{AppendRequest, AppendResult, TypeConfig};
use crate::codec;
use futures::{Stream, StreamExt};
use openraft::base::BoxStream;
use openraft::errors::{NetworkError, RPCError, Timeout, Unreachable};
use openraft::network::RPCTypes;
use std::time::Duration;
use streamhouse_proto::v1::Payload;
use streamhouse_proto::v1::raft_client::RaftClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// BOUND on requests without a response; each is at most a few MiB.
const IN_FLIGHT: usize = 16;

/// One call in progress.
struct Call<S> {
    requests: Option<S>,
    envelope: Envelope,
    cluster: Vec<u8>,
    target: u64,
    out: Option<mpsc::Sender<Payload>>,
    responses: Streaming<Payload>,
    in_flight: usize,
    patience: Duration,
    /// When the oldest response due is overdue.
    due: tokio::time::Instant,
    ended: bool,
}

/// What connects a call to its peer.
pub(crate) struct Link {
    pub(crate) client: RaftClient<Channel>,
    pub(crate) envelope: Envelope,
    pub(crate) cluster: Vec<u8>,
    pub(crate) target: u64,
    /// Without any response for so long while one is due, the call is given
    /// up. A response may have to wait for the peer's disk.
    pub(crate) patience: Duration,
}

/// Opens the call. The stream ends after its first error.
pub(crate) async fn open<S>(
    mut link: Link,
    requests: S,
) -> Result<BoxStream<'static, Result<AppendResult, RPCError<TypeConfig>>>, RPCError<TypeConfig>>
where
    S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
{
    let (out, up) = mpsc::channel(IN_FLIGHT);
    let opening = link.client.append(ReceiverStream::new(up));
    let responses = match tokio::time::timeout(link.patience, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Err(rpc_error(&status)),
        Err(_) => return Err(timed_out(&link.envelope, link.target, link.patience)),
    };
    let call = Call {
        requests: Some(requests),
        envelope: link.envelope,
        cluster: link.cluster,
        target: link.target,
        out: Some(out),
        responses,
        in_flight: 0,
        patience: link.patience,
        due: time::after(link.patience),
        ended: false,
    };
    Ok(Box::pin(futures::stream::unfold(call, |mut call| async move {
        let next = call.next().await?;
        call.ended = !matches!(next, Ok(Ok(_)));
        Some((next, call))
    })))
}

impl<S> Call<S>
where
    S: Stream<Item = AppendRequest> + Send + Unpin,
{
    async fn next(&mut self) -> Option<Result<AppendResult, RPCError<TypeConfig>>> {
        if self.ended {
            return None;
        }
        loop {
            let may_send = self.in_flight < IN_FLIGHT;
            let request = async {
                match self.requests.as_mut() {
                    Some(requests) if may_send => requests.next().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                response = self.responses.message() => match response {
                    Ok(Some(payload)) => {
                        self.in_flight = self.in_flight.saturating_sub(1);
                        self.due = time::after(self.patience);
                        return Some(decode(&payload));
                    }
                    Ok(None) => return None,
                    Err(status) => return Some(Err(rpc_error(&status))),
                },
                request = request => match request {
                    Some(request) => {
                        if let Err(error) = self.send(&request).await {
                            return Some(Err(error));
                        }
                    }
                    None => {
                        self.requests = None;
                        self.out = None;
                    }
                },
                () = tokio::time::sleep_until(self.due), if self.in_flight > 0 => {
                    return Some(Err(timed_out(&self.envelope, self.target, self.patience)));
                }
            }
        }
    }

    async fn send(&mut self, request: &AppendRequest) -> Result<(), RPCError<TypeConfig>> {
        let body = self.envelope.seal(|body| message::encode_append(request, body));
        let payload = Payload { cluster_id: self.cluster.clone(), target: self.target, body };
        let closed = || RPCError::Network(NetworkError::from_string("append call has ended"));
        // Never waits: the channel holds as many as may be in flight.
        match &self.out {
            Some(out) => out.send(payload).await.map_err(|_| closed())?,
            None => return Err(closed()),
        }
        if self.in_flight == 0 {
            self.due = time::after(self.patience);
        }
        self.in_flight += 1;
        Ok(())
    }
}

fn decode(payload: &Payload) -> Result<AppendResult, RPCError<TypeConfig>> {
    codec::decode_serde(&payload.body)
        .map_err(|e| RPCError::Network(NetworkError::from_string(format!("append response: {e}"))))
}

fn timed_out(envelope: &Envelope, target: u64, timeout: Duration) -> RPCError<TypeConfig> {
    let id = envelope.from;
    RPCError::Timeout(Timeout { action: RPCTypes::AppendEntries, id, target, timeout })
}

/// A failed call, for openraft: it backs off from a peer that is away or that
/// refuses, and tries again at once after any other failure.
pub(crate) fn rpc_error(status: &Status) -> RPCError<TypeConfig> {
    let message = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        tonic::Code::Unavailable
        | tonic::Code::FailedPrecondition
        | tonic::Code::PermissionDenied
        | tonic::Code::InvalidArgument => RPCError::Unreachable(Unreachable::from_string(message)),
        _ => RPCError::Network(NetworkError::from_string(message)),
    }
}
