//! Pipelined AppendEntries: one `Append` call carries many requests up and
//! their responses down, in order.
//!
//! SUBTLE: openraft's request stream holds a lock while it waits for the next
//! entry, and openraft takes that lock again once it has dropped the response
//! stream. So the response stream returned here owns the request stream and
//! feeds the call through a channel: dropping the one drops the other at
//! once, whatever the HTTP/2 connection still keeps.
//!
//! SUBTLE: openraft takes an answer at a log id for one to all requests in
//! flight that end there, and believes that the peer followed when the last of
//! them was sent. One without entries, which only tells what is committed, ends
//! where the entries before it do, and may be sent long after they were
//! answered: the answer to these would confirm reads that are younger than it
//! (ReadIndex), though the peer may have voted for another since. So an answer
//! is kept back as long as a request that ends no further is in flight; the
//! answer to that one says the same.

use super::message::{self, Envelope};
use super::time;
use super::types::{AppendRequest, AppendResult, LogId, TypeConfig};
use crate::codec;
use futures::{Stream, StreamExt, TryStreamExt};
use openraft::base::BoxStream;
use openraft::errors::{NetworkError, RPCError, Timeout, Unreachable};
use openraft::network::RPCTypes;
use std::collections::VecDeque;
use std::time::Duration;
use streamhouse_proto::v1::Payload;
use streamhouse_proto::v1::raft_client::RaftClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

/// BOUND on requests without a response; each is at most a few MiB.
const IN_FLIGHT: usize = 16;

/// One call in progress.
struct Call<S, R> {
    requests: Option<S>,
    envelope: Envelope,
    cluster: Vec<u8>,
    target: u64,
    out: Option<mpsc::Sender<Payload>>,
    responses: R,
    /// Where each request in flight ends.
    in_flight: VecDeque<Option<LogId>>,
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
        in_flight: VecDeque::with_capacity(IN_FLIGHT),
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

impl<S, R> Call<S, R>
where
    S: Stream<Item = AppendRequest> + Send + Unpin,
    R: Stream<Item = Result<Payload, Status>> + Send + Unpin,
{
    async fn next(&mut self) -> Option<Result<AppendResult, RPCError<TypeConfig>>> {
        if self.ended {
            return None;
        }
        loop {
            let may_send = self.in_flight.len() < IN_FLIGHT;
            let request = async {
                match self.requests.as_mut() {
                    Some(requests) if may_send => requests.next().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                response = self.responses.try_next() => match response {
                    Ok(Some(payload)) => {
                        self.in_flight.pop_front();
                        self.due = time::after(self.patience);
                        let answer = decode(&payload);
                        if !self.speaks_for_the_next(&answer) {
                            return Some(answer);
                        }
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
                () = tokio::time::sleep_until(self.due), if !self.in_flight.is_empty() => {
                    return Some(Err(timed_out(&self.envelope, self.target, self.patience)));
                }
            }
        }
    }

    /// openraft would take this answer for one to a request that has none yet.
    fn speaks_for_the_next(&self, answer: &Result<AppendResult, RPCError<TypeConfig>>) -> bool {
        match (answer, self.in_flight.front()) {
            (Ok(Ok(matching)), Some(next)) => matching >= next,
            _ => false,
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
        if self.in_flight.is_empty() {
            self.due = time::after(self.patience);
        }
        let last = request.entries.last().map(|entry| entry.log_id);
        self.in_flight.push_back(last.or(request.prev_log_id));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{EncodedCommand, Entry, Vote};
    use futures::FutureExt;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    fn at(index: u64) -> LogId {
        LogId::new_term_index(4, index)
    }

    /// A request of the entries up to `last`, or of none, behind those up to `prev`.
    fn request(prev: u64, last: u64) -> AppendRequest {
        let payload = || openraft::EntryPayload::Normal(EncodedCommand(Default::default()));
        AppendRequest {
            vote: Vote::new_committed(4, 1),
            prev_log_id: Some(at(prev)),
            leader_commit: None,
            entries: (prev + 1..=last)
                .map(|index| Entry { log_id: at(index), payload: payload() })
                .collect(),
        }
    }

    /// What comes of a call whose requests, and whose peer's answers, come in this order: a request by where it begins
    /// and ends, an answer by where it says that the log matches.
    async fn answers(course: &[Result<(u64, u64), u64>]) -> Vec<u64> {
        let ((asks, requests), (replies, responses)) =
            (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let (out, mut sent) = mpsc::channel(IN_FLIGHT);
        let mut call = Call {
            requests: Some(UnboundedReceiverStream::new(requests)),
            envelope: Envelope { from: 1, from_disk: [1; 16], to_disk: [2; 16] },
            cluster: Vec::new(),
            target: 2,
            out: Some(out),
            responses: UnboundedReceiverStream::new(responses),
            in_flight: VecDeque::new(),
            patience: Duration::from_secs(3),
            due: time::after(Duration::from_secs(3)),
            ended: false,
        };
        let mut heard = Vec::new();
        for step in course {
            match step {
                Ok((prev, last)) => asks.send(request(*prev, *last)).unwrap(),
                Err(matching) => {
                    let answer: AppendResult = Ok(Some(at(*matching)));
                    let body = codec::encode_serde(&answer).into();
                    replies.send(Ok(Payload { body, ..Payload::default() })).unwrap();
                }
            }
            if let Some(answer) = call.next().now_or_never() {
                heard.push(answer.unwrap().unwrap().unwrap().unwrap().index);
            }
            assert_eq!(sent.try_recv().is_ok(), step.is_ok(), "requests go out at once");
        }
        heard
    }

    #[tokio::test]
    async fn an_answer_waits_for_those_that_openraft_would_take_it_for() {
        // Entries up to 11, and behind them, before they are answered, what is committed.
        assert!(answers(&[Ok((10, 11)), Ok((11, 11)), Err(11)]).await.is_empty());
        assert_eq!(answers(&[Ok((10, 11)), Ok((11, 11)), Err(11), Err(11)]).await, [11]);
        // With more entries behind, it is only the answers up to 11 that are one.
        let course = [Ok((10, 11)), Ok((11, 11)), Ok((11, 12)), Err(11), Err(11), Err(12)];
        assert_eq!(answers(&course).await, [11, 12]);
    }

    #[tokio::test]
    async fn answers_to_entries_do_not_wait_for_later_ones() {
        let course = [Ok((10, 11)), Ok((11, 14)), Err(11), Ok((14, 15)), Err(14), Err(15)];
        assert_eq!(answers(&course).await, [11, 14, 15]);
        assert_eq!(answers(&[Ok((10, 11)), Err(11), Ok((11, 11)), Err(11)]).await, [11, 11]);
    }
}
