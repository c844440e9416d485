//! Who an idempotent producer is: its id, and its epoch, which all partitions share.
//!
//! A partition whose batches can no longer be told apart from those that are written raises the epoch. The cluster then
//! writes nothing more of the epoch before, so that each partition can ask what was written, and goes on from there.

use std::sync::Arc;

use streamhouse_proto::v1::RequestId;
use tokio::sync::{Mutex, watch};

use crate::errors::{CallError, Code};
use crate::routing::{Metadata, ProducerId, Progress, Requester};
use streamhouse_segment::ids::TopicId;

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody has asked yet.
    Unknown,
    /// This one, and whatever came before is fenced as of that index.
    Has { who: ProducerId, since: u64 },
    /// It may write nothing more, for this reason.
    Fenced(Arc<str>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Identity {
    metadata: Metadata,
    name: Option<String>,
    requester: Requester,
    standing: watch::Sender<Standing>,
    /// Held while asking, so that one partition asks for all. What was asked and not answered is asked again under the
    /// same id (RETRY): raised twice, the epoch would fence its own producer.
    asking: Mutex<Option<(Option<ProducerId>, RequestId)>>,
}

impl Identity {
    pub(super) fn new(metadata: Metadata, name: Option<String>) -> Self {
        Self {
            metadata,
            name,
            requester: Requester::new(),
            standing: watch::Sender::new(Standing::Unknown),
            asking: Mutex::new(None),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The id and epoch; asks for them the first time.
    pub(super) async fn get(&self) -> Result<Standing, CallError> {
        self.ask(None).await
    }

    /// Raises the epoch above that of `from`, unless another partition has done so.
    pub(super) async fn raise(&self, from: ProducerId) -> Result<Standing, CallError> {
        self.ask(Some(from)).await
    }

    async fn ask(&self, from: Option<ProducerId>) -> Result<Standing, CallError> {
        let mut asking = self.asking.lock().await;
        match (self.standing(), from) {
            (Standing::Unknown, _) => {}
            (Standing::Has { who, .. }, Some(from)) if who == from => {}
            (known, _) => return Ok(known),
        }
        let request = match asking.take() {
            Some((asked, request)) if asked == from => request,
            _ => self.requester.next(),
        };
        *asking = Some((from, request.clone()));
        let name = self.name.as_deref().filter(|_| from.is_none());
        let standing = match self.metadata.init_producer(request, name, from).await {
            Ok((who, since)) => Standing::Has { who, since },
            Err(CallError::Refused(refusal)) if refusal.code == Code::ProducerFenced => {
                Standing::Fenced(refusal.message.into())
            }
            Err(CallError::Refused(refusal)) if refusal.code == Code::UnknownProducer => {
                self.forgotten(&refusal.message).await?
            }
            Err(error) => return Err(error),
        };
        *asking = None;
        tracing::debug!(?standing, "producer id");
        self.standing.send_replace(standing.clone());
        Ok(standing)
    }

    /// Nothing was heard of it for so long that the cluster has forgotten it. Without a name it becomes another one;
    /// with one that would take the name from whoever may have it now.
    async fn forgotten(&self, reason: &str) -> Result<Standing, CallError> {
        if self.name.is_some() {
            return Ok(Standing::Fenced(reason.into()));
        }
        let (who, since) = self.metadata.init_producer(self.requester.next(), None, None).await?;
        Ok(Standing::Has { who, since })
    }

    /// What a partition has of the producer.
    pub(super) async fn progress(
        &self,
        (topic, partition): (TopicId, u32),
        id: u64,
        since: u64,
    ) -> Result<Progress, CallError> {
        self.metadata.find_producer(topic, partition, id, since).await
    }
}
