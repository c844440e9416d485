//! The streams to the controllers, one each: heartbeats up, lease news down.

use crate::backoff::Backoff;
use crate::controllers::Controllers;
use crate::core::{Event, Events};
use std::time::Duration;
use streamhouse_proto::v1::{AttachRequest, AttachResponse};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// How long a controller may take to answer the opening of a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// The task that keeps a session attached to one controller.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) session: u64,
    pub(crate) instance: [u8; 16],
    pub(crate) member: usize,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) controllers: Controllers,
    pub(crate) events: Events,
    pub(crate) over: CancellationToken,
}

impl Attachment {
    /// Runs until the session is over, attaching again whenever the stream breaks.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(250));
        let controller = self.controllers.address(self.member);
        loop {
            tokio::select! {
                // One that was removed may come back: it is looked at again and again, but not called.
                () = std::future::ready(()), if self.controllers.is_gone(self.member) => {}
                ended = self.attach_once(&mut backoff) => match ended {
                    Ok(()) => tracing::debug!(session = self.session, controller, "stream closed"),
                    Err(status) => {
                        tracing::debug!(session = self.session, controller, %status, "stream broke");
                    }
                },
                () = self.over.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = self.over.cancelled() => return,
            }
        }
    }

    async fn attach_once(&self, backoff: &mut Backoff) -> Result<(), Status> {
        let (heartbeats, outbound) = mpsc::channel(2);
        // The first message, which names the session, is there before the stream is.
        let _ = heartbeats.try_send(self.heartbeat());
        let mut client = self.controllers.client(self.member);
        let open = client.attach(ReceiverStream::new(outbound));
        let news = tokio::time::timeout(OPEN_TIMEOUT, open)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer to attach"))??;
        self.keep(news.into_inner(), &heartbeats, backoff).await
    }

    async fn keep(
        &self,
        mut news: Streaming<AttachResponse>,
        heartbeats: &mpsc::Sender<AttachRequest>,
        backoff: &mut Backoff,
    ) -> Result<(), Status> {
        let mut beat = tokio::time::interval(self.heartbeat_interval);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = news.message() => match message? {
                    Some(message) => {
                        backoff.reset();
                        self.forward(message).await;
                    }
                    None => return Ok(()),
                },
                // A full channel means that the last heartbeat is still on its way: no need for another.
                _ = beat.tick() => {
                    let _ = heartbeats.try_send(self.heartbeat());
                }
            }
        }
    }

    fn heartbeat(&self) -> AttachRequest {
        AttachRequest { session: self.session, instance: self.instance.to_vec() }
    }

    async fn forward(&self, message: AttachResponse) {
        if message.leader {
            self.controllers.leads(self.member, message.term);
            self.controllers.learn(&message.controllers);
        } else if !message.leader_address.is_empty() {
            self.controllers.heard_of(&message.leader_address, message.term);
        }
        // The core outlives every session; if it is gone, so is the process.
        let _ = self.events.send((self.session, Event::News(message))).await;
    }
}
