//! The task that asks what is committed of idempotent producers, when the engine meets one that it does not know.

use crate::controllers::{Client, Controllers};
use crate::core::{Event, Events};
use crate::engine::{Found, Question};
use streamhouse_proto::v1::{FindProducersRequest, PartitionProducer};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The task's name, inbox and ties.
#[derive(Debug)]
pub(crate) struct Looker {
    pub(crate) session: u64,
    pub(crate) controllers: Controllers,
    pub(crate) events: Events,
    pub(crate) over: CancellationToken,
}

impl Looker {
    /// Runs until the inbox is closed or the session is over; the engine asks once at a time.
    pub(crate) async fn run(self, mut inbox: mpsc::Receiver<Vec<Question>>) {
        while let Some(questions) = inbox.recv().await {
            let found = tokio::select! {
                found = self.find(questions) => found,
                () = self.over.cancelled() => return,
            };
            if self.events.send((self.session, Event::Found(found))).await.is_err() {
                return;
            }
        }
    }

    /// Linearizable: a producer that has its epoch already is known, and so is every commit that was acknowledged.
    async fn find(&self, questions: Vec<Question>) -> Found {
        let producers = questions.iter().map(|question| PartitionProducer {
            partition: Some(question.partition.to_wire()),
            producer_id: question.producer,
        });
        let producers = producers.collect();
        let request = FindProducersRequest { producers, min_applied: 0, linearizable: true };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.producers.find_producers(request).await }
        };
        let answer = match self.controllers.call("find_producers", call).await {
            Ok(response) => Some((response.producers, response.applied)),
            Err(failed) => {
                tracing::warn!(session = self.session, error = ?failed.error, "look-up refused");
                None
            }
        };
        Found { questions, answer }
    }
}
