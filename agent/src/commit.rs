//! The task that puts a session's objects into the index: one request at a time, repeated until it is answered.
//!
//! RETRY: a request is sent again as it is, to whichever controller; one that was applied is answered with its first
//! result. So an answer, however late, is the truth, and the only doubt left is when no answer comes after the
//! session has ended.

use crate::backoff::Backoff;
use crate::clock;
use crate::controllers::{CallFailed, Controllers};
use crate::core::{Event, Events};
use crate::engine::CommitAnswer;
use crate::metrics::Probes;
use std::time::Duration;
use streamhouse_proto::v1::{
    CommitObjectsRequest, CommitObjectsResponse, ErrorCode, ErrorInfo, ObjectCommit,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long the outcome of a request is asked for after its session has ended.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// How often an answer is asked for again that makes no sense.
const ODD_ANSWERS: usize = 20;

/// The task's name, inbox and ties.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) session: u64,
    /// The one that registered the session.
    pub(crate) instance: [u8; 16],
    pub(crate) controllers: Controllers,
    pub(crate) events: Events,
    /// The session has ended.
    pub(crate) over: CancellationToken,
    pub(crate) probes: Probes,
}

impl Committer {
    /// Runs until the inbox is closed; the engine sends one request at a time.
    pub(crate) async fn run(self, mut inbox: mpsc::Receiver<Vec<ObjectCommit>>) {
        while let Some(objects) = inbox.recv().await {
            let instance = self.instance.to_vec();
            let request = CommitObjectsRequest { session: self.session, objects, instance };
            let began = clock::now();
            let answer = tokio::select! {
                answer = self.commit(&request) => answer,
                () = self.last_words() => CommitAnswer::Unknown,
            };
            let took = clock::now().saturating_duration_since(began);
            self.probes.commit_seconds.record(took.as_secs_f64());
            self.count_refused(&answer);
            self.trace(&request, &answer);
            if self.events.send((self.session, Event::Committed(answer))).await.is_err() {
                break;
            }
        }
    }

    fn trace(&self, request: &CommitObjectsRequest, answer: &CommitAnswer) {
        let session = self.session;
        for ObjectCommit { sequence, .. } in &request.objects {
            match answer {
                CommitAnswer::Answered(response) => {
                    let applied = response.applied;
                    tracing::trace!(session, sequence, applied, "object's commit answered");
                }
                CommitAnswer::Refused => {
                    tracing::trace!(session, sequence, "object's commit refused");
                }
                CommitAnswer::Unknown => {
                    tracing::trace!(session, sequence, "object's commit without an answer");
                }
            }
        }
    }

    fn count_refused(&self, answer: &CommitAnswer) {
        let CommitAnswer::Answered(response) = answer else { return };
        let slices = response.results.iter().flat_map(|result| &result.slices);
        for error in slices.filter(|slice| !slice.accepted).filter_map(|slice| slice.error.as_ref())
        {
            self.probes.slice_refused(error.code());
        }
    }

    async fn last_words(&self) {
        self.over.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    }

    async fn commit(&self, request: &CommitObjectsRequest) -> CommitAnswer {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        for _ in 0..ODD_ANSWERS {
            let call = |mut client: crate::controllers::Client| {
                let request = request.clone();
                async move { client.commit_objects(request).await }
            };
            match self.controllers.call("commit_objects", call).await {
                Ok(response) => match again(request, &response) {
                    None => return CommitAnswer::Answered(response),
                    Some(error) => {
                        tracing::debug!(session = self.session, ?error, "commit not processed yet");
                    }
                },
                Err(failed) => return self.refused(&failed),
            }
            tokio::time::sleep(backoff.next()).await;
        }
        tracing::error!(session = self.session, "commits get no answer that makes sense");
        CommitAnswer::Unknown
    }

    fn refused(&self, failed: &CallFailed) -> CommitAnswer {
        tracing::warn!(session = self.session, error = ?failed.error, "commit refused");
        let certain = failed.error.code() != ErrorCode::OutcomeUnknown && !failed.doubtful;
        if certain { CommitAnswer::Refused } else { CommitAnswer::Unknown }
    }
}

/// Why the request should be sent again although it was answered: an object of it was not processed, for a reason
/// that passes.
fn again(request: &CommitObjectsRequest, response: &CommitObjectsResponse) -> Option<ErrorInfo> {
    if response.results.len() != request.objects.len() {
        return Some(ErrorInfo::new(ErrorCode::Internal, "not one result per object"));
    }
    let errors = response.results.iter().filter_map(|result| result.error.as_ref());
    let mut passing = errors.filter(|error| {
        !matches!(error.code(), ErrorCode::SessionEnded | ErrorCode::OutcomeUnknown)
    });
    passing.next().cloned()
}
