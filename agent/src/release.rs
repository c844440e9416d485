//! The task that gives leases back.

use crate::clock;
use crate::controllers::{Client, Controllers};
use crate::core::{Event, Events};
use crate::partition::PartitionId;
use streamhouse_proto::v1::{LeaseRelease, ReleaseLeasesRequest, RequestId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The most leases in one request.
const MAX_RELEASES: usize = 4_096;

/// The task's name, inbox and ties.
#[derive(Debug)]
pub(crate) struct Releaser {
    pub(crate) session: u64,
    /// The one that registered the session.
    pub(crate) instance: [u8; 16],
    pub(crate) controllers: Controllers,
    pub(crate) events: Events,
    pub(crate) over: CancellationToken,
}

impl Releaser {
    /// Runs until the inbox is closed or the session is over: then there is nothing left to give back.
    ///
    /// The inbox is unbounded; a lease stands in it once at the most.
    pub(crate) async fn run(self, mut inbox: mpsc::UnboundedReceiver<Vec<(PartitionId, u32)>>) {
        let requester = clock::random_id().to_vec();
        let mut number = 0;
        while let Some(mut leases) = inbox.recv().await {
            while let Ok(more) = inbox.try_recv() {
                leases.extend(more);
            }
            for chunk in leases.chunks(MAX_RELEASES) {
                number += 1;
                let request = RequestId { requester: requester.clone(), number };
                tokio::select! {
                    () = self.release(request, chunk) => {}
                    () = self.over.cancelled() => return,
                }
                let event = Event::Released(chunk.len());
                if self.events.send((self.session, event)).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn release(&self, request: RequestId, leases: &[(PartitionId, u32)]) {
        let one = |(id, epoch): &(PartitionId, u32)| LeaseRelease {
            partition: Some(id.to_wire()),
            epoch: *epoch,
        };
        let request = ReleaseLeasesRequest {
            request: Some(request),
            session: self.session,
            leases: leases.iter().map(one).collect(),
            instance: self.instance.to_vec(),
        };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.release_leases(request).await }
        };
        match self.controllers.call("release_leases", call).await {
            Ok(_) => {
                tracing::info!(session = self.session, leases = leases.len(), "leases released")
            }
            // They pass on with the session, or at the revocation's deadline.
            Err(failed) => {
                tracing::warn!(session = self.session, error = ?failed.error, "release refused");
            }
        }
    }
}
