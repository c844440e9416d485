//! The stream that keeps a session alive and carries its leases.
//!
//! An agent attaches to every controller. Each takes note of its heartbeats,
//! so that whoever leads next knows it lives; only the leader sends leases.

use super::pace::Pace;
use super::{Shared, address_of};
use crate::convert::{id16, lease_wire, partition_wire};
use crate::errors::{invalid, refused, store_failed};
use crate::hub::Changes;
use crate::raft::{Leadership, StateView};
use crate::state::command::PartitionKey;
use crate::state::kv::KvError;
use crate::state::reply::{Effect, Refusal};
use crate::state::{cluster, leases, partitions, sessions};
use std::collections::BTreeSet;
use std::sync::Arc;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

type News = Result<v1::AttachResponse, Status>;
pub(super) type AttachStream = ReceiverStream<News>;

/// BOUND: answers waiting for a slow agent.
const QUEUE: usize = 16;
/// BOUND: leases of one message.
const PART: usize = 10_000;

pub(super) async fn attach(
    shared: Arc<Shared>,
    mut incoming: Streaming<v1::AttachRequest>,
) -> Result<AttachStream, Status> {
    let first = incoming.message().await?;
    let first = first.ok_or_else(|| invalid("the stream ended before it began"))?;
    let session = first.session;
    if session == 0 {
        return Err(refused(&Refusal::SessionEnded(0)));
    }
    let instance = id16("instance", &first.instance)?;
    let (out, stream) = mpsc::channel(QUEUE + 1);
    let farewell = out.clone().try_reserve_owned().map_err(|_| invalid("the stream has ended"))?;
    let attachment = Attachment { shared, session, out };
    let standing = attachment.standing(&instance).map_err(|e| store_failed(&e))?;
    // BOUND: a leader keeps signs of life of sessions that exist only.
    let leadership = *attachment.shared.raft.leadership().borrow();
    if standing == Standing::Foreign || (leadership.is_leader && standing == Standing::Unknown) {
        // Not an error, which the agent would take for a broken stream and try
        // again for ever: it has to learn that it needs another session.
        let parting = attachment.parting(&leadership).map_err(|e| store_failed(&e))?;
        let _ = attachment.out.try_send(Ok(parting));
        return Ok(ReceiverStream::new(stream));
    }
    let tasks = attachment.shared.tasks.clone();
    tasks.spawn(attachment.run(incoming, farewell));
    Ok(ReceiverStream::new(stream))
}

/// What this controller knows of the session that wants to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Known,
    /// Perhaps not yet.
    Unknown,
    /// The number is another instance's: the agent's own was of another
    /// cluster, or of this one before it was restored.
    Foreign,
}

/// One agent's stream at this controller.
struct Attachment {
    shared: Arc<Shared>,
    session: u64,
    out: mpsc::Sender<News>,
}

/// The agent went away.
struct Gone;

enum Failed {
    Gone,
    Store(KvError),
}

impl From<Gone> for Failed {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<KvError> for Failed {
    fn from(error: KvError) -> Self {
        Self::Store(error)
    }
}

impl Attachment {
    fn standing(&self, instance: &[u8; 16]) -> Result<Standing, KvError> {
        let known = sessions::session(&self.shared.raft.view(), self.session)?;
        Ok(match known {
            Some(known) if known.instance == *instance => Standing::Known,
            Some(_) => Standing::Foreign,
            None => Standing::Unknown,
        })
    }

    /// The one message of a stream that is not kept open.
    fn parting(&self, now: &Leadership) -> Result<v1::AttachResponse, KvError> {
        let response = self.response(now, &self.shared.raft.view())?;
        Ok(v1::AttachResponse { ended: true, ..response })
    }

    /// `farewell`: room for why the stream ends, however much news waits.
    async fn run(self, incoming: Streaming<v1::AttachRequest>, farewell: mpsc::OwnedPermit<News>) {
        let session = self.session;
        let patience = self.shared.options.patience();
        self.shared.liveness.attached(session, patience);
        let cancel = self.shared.cancel.clone();
        let end = tokio::select! {
            () = cancel.cancelled() => Some((ErrorCode::ShuttingDown, "the controller stops".into())),
            () = self.out.closed() => None,
            end = self.listen(incoming) => end,
            failed = self.tell() => match failed {
                Failed::Gone => None,
                Failed::Store(error) => Some((ErrorCode::Internal, error.to_string())),
            },
        };
        self.shared.liveness.detached(&session);
        tracing::debug!(session, "agent's stream ended");
        if let Some((code, message)) = end {
            farewell.send(Err(to_status(ErrorInfo::new(code, message))));
        }
    }

    /// Takes note of heartbeats until the stream ends, or has to.
    async fn listen(
        &self,
        mut incoming: Streaming<v1::AttachRequest>,
    ) -> Option<(ErrorCode, String)> {
        let mut pace = Pace::new();
        while let Ok(Some(_)) = incoming.message().await {
            self.shared.liveness.heard(&self.session);
            if let Some(end) = pace.next().await {
                return Some(end);
            }
        }
        None
    }

    async fn tell(&self) -> Failed {
        loop {
            let Err(failed) = self.tell_once().await else { continue };
            return failed;
        }
    }

    /// Tells the agent who leads and, while this controller does, its leases;
    /// returns when that has changed.
    async fn tell_once(&self) -> Result<(), Failed> {
        let mut leadership = self.shared.raft.leadership();
        let now = *leadership.borrow_and_update();
        let mut beat = tokio::time::interval(self.shared.options.heartbeat_interval);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if !now.is_leader {
            self.send(self.leadership_only(&now)).await?;
            return leadership.changed().await.map_err(|_| Failed::Gone);
        }
        // Subscribed before the state is read, so that nothing falls between.
        let mut changes = self.shared.hub.subscribe();
        let mut full = true;
        loop {
            if full {
                for part in self.all_leases(&now)? {
                    self.send(part).await?;
                }
                full = false;
            }
            tokio::select! {
                changed = leadership.changed() => {
                    return changed.map_err(|_| Failed::Gone);
                }
                change = changes.recv() => {
                    full = !self.pass_on(&now, change, &mut changes).await?;
                }
                _ = beat.tick() => {
                    let beat = self.response(&now, &self.shared.raft.view())?;
                    self.send(beat).await?;
                }
            }
        }
    }

    async fn send(&self, response: v1::AttachResponse) -> Result<(), Gone> {
        self.out.send(Ok(response)).await.map_err(|_| Gone)
    }

    /// The clock may not have taken over from the state yet.
    fn response(&self, now: &Leadership, view: &StateView) -> Result<v1::AttachResponse, KvError> {
        let state_ms = cluster::time_ms(view)?;
        Ok(v1::AttachResponse {
            leader: now.is_leader,
            term: now.term,
            applied: view.applied(),
            cluster_time_ms: self.shared.clock.now_ms().max(state_ms),
            controllers: self.shared.raft.members().into_iter().map(|m| m.address).collect(),
            ..v1::AttachResponse::default()
        })
    }

    fn leadership_only(&self, now: &Leadership) -> v1::AttachResponse {
        v1::AttachResponse {
            leader: false,
            term: now.term,
            leader_address: self.shared.raft.leader_address().unwrap_or_default(),
            ..v1::AttachResponse::default()
        }
    }

    /// Every lease: all parts together replace what the agent had.
    fn all_leases(&self, now: &Leadership) -> Result<Vec<v1::AttachResponse>, KvError> {
        let view = self.shared.raft.view();
        let mut response = self.response(now, &view)?;
        response.full = true;
        let mut parts = Vec::new();
        let live = sessions::session(&view, self.session)?.is_some_and(|s| s.is_live());
        response.ended = !live;
        for key in leases::held_by(&view, self.session, usize::MAX)? {
            let partition = partitions::partition(&view, &key)?;
            if let Some(partition) = partition.filter(|p| p.holder == self.session) {
                if response.leases.len() == PART {
                    let next = self.response(now, &view)?;
                    response.more = true;
                    parts.push(std::mem::replace(&mut response, next));
                }
                response.leases.push(lease_wire(&key, &partition));
            }
        }
        parts.push(response);
        Ok(parts)
    }

    /// Sends what a batch changed for this session; false if everything must
    /// be sent anew.
    async fn pass_on(
        &self,
        now: &Leadership,
        change: Result<Arc<Changes>, RecvError>,
        changes: &mut Receiver<Arc<Changes>>,
    ) -> Result<bool, Failed> {
        let batch = match change {
            Ok(batch) if !batch.replaced => batch,
            Ok(_) => return Ok(false),
            Err(RecvError::Lagged(_)) => {
                *changes = self.shared.hub.subscribe();
                return Ok(false);
            }
            Err(RecvError::Closed) => return Err(Failed::Gone),
        };
        let mut touched = BTreeSet::new();
        let mut ended = false;
        for effect in &batch.effects {
            match effect {
                Effect::Lease { partition, was, now, .. }
                    if *was == self.session || *now == self.session =>
                {
                    touched.insert(*partition);
                }
                Effect::SessionEnded(session) => ended |= *session == self.session,
                Effect::Lease { .. }
                | Effect::Appended(..)
                | Effect::SessionOpened(_)
                | Effect::TopicReady(_)
                | Effect::TopicDeleted(_)
                | Effect::CommitRefused { .. }
                | Effect::OffsetsRefused { .. }
                | Effect::Cluster
                | Effect::MemberJoined { .. }
                | Effect::MemberLeft { .. }
                | Effect::Assigned { .. }
                | Effect::GroupDeleted(_)
                | Effect::WorkPending => {}
            }
        }
        if touched.is_empty() && !ended {
            return Ok(true);
        }
        let changed = self.changed_leases(now, &touched, ended)?;
        self.send(changed).await?;
        Ok(true)
    }

    fn changed_leases(
        &self,
        now: &Leadership,
        touched: &BTreeSet<PartitionKey>,
        ended: bool,
    ) -> Result<v1::AttachResponse, KvError> {
        let view = self.shared.raft.view();
        let mut response = self.response(now, &view)?;
        response.ended = ended;
        for key in touched {
            match partitions::partition(&view, key)? {
                Some(partition) if partition.holder == self.session => {
                    response.leases.push(lease_wire(key, &partition));
                }
                found => response.lost.push(lost(&view, key, found.as_ref())?),
            }
        }
        Ok(response)
    }
}

fn lost(
    view: &StateView,
    key: &PartitionKey,
    found: Option<&partitions::Partition>,
) -> Result<v1::LostLease, KvError> {
    let holder = found.map_or(0, |partition| partition.holder);
    Ok(v1::LostLease {
        partition: Some(partition_wire(key)),
        epoch: found.map_or(u32::MAX, |partition| partition.lease_epoch),
        address: address_of(view, holder)?,
    })
}
