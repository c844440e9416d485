//! Which of its producer's batches a batch is: the number that stands in its header.

use streamhouse_segment::batch::{ProducerInfo, restamp};
use streamhouse_segment::sequences::sequence_at;
use tokio::sync::watch;

use super::{Batch, PartitionTask};
use crate::producer::identity::Standing;
use crate::routing::ProducerId;

/// Where an idempotent producer's partition stands.
#[derive(Debug)]
pub(super) struct Idempotence {
    pub(super) news: watch::Receiver<Standing>,
    /// Whose the batches in the window are; `None` before the first.
    pub(super) who: Option<ProducerId>,
    /// How many records of the epoch were numbered.
    pub(super) position: u64,
    /// A number is missing, or the cluster counts otherwise than we do: to be settled.
    pub(super) lost_track: bool,
}

impl Idempotence {
    /// Waits for another id or epoch, if there is any.
    pub(super) async fn changed(this: &mut Option<Self>) {
        let changed = match this {
            Some(idempotence) => idempotence.news.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending().await
        }
    }
}

impl PartitionTask {
    pub(super) fn with_idempotence(mut self) -> Self {
        self.idempotence = self.shared.identity.as_ref().map(|identity| Idempotence {
            news: identity.subscribe(),
            who: None,
            position: 0,
            lost_track: false,
        });
        self
    }

    /// Batches may be numbered and sent.
    pub(super) fn is_prepared(&self) -> bool {
        let Some(idempotence) = &self.idempotence else { return true };
        let current = match &*idempotence.news.borrow() {
            Standing::Has { who, .. } => Some(*who),
            Standing::Unknown | Standing::Fenced(_) => None,
        };
        current.is_some() && current == idempotence.who && !idempotence.lost_track
    }

    /// The number of the next batch, and what to write into its header.
    pub(super) fn next_stamp(&mut self, records: u32) -> (ProducerInfo, u64) {
        let Some(Idempotence { who: Some(who), position, .. }) = &mut self.idempotence else {
            return (ProducerInfo::NONE, 0);
        };
        let at = *position;
        *position += u64::from(records);
        (stamp(*who, at), at)
    }

    pub(super) fn lose_track(&mut self) {
        if let Some(idempotence) = &mut self.idempotence {
            idempotence.lost_track = true;
        }
    }

    /// Batches that were never sent were given up, the first of them at that place: those behind them move up.
    pub(super) fn close_gap(&mut self, first: u64) {
        let Some(Idempotence { who: Some(who), position, .. }) = &mut self.idempotence else {
            return;
        };
        let (who, mut at) = (*who, first);
        self.window.for_each_idle(|batch| {
            if !batch.sent {
                batch.number(who, at);
                at += u64::from(batch.records);
            }
        });
        *position = at;
    }
}

impl Batch {
    /// Makes it that one of the producer's batches.
    pub(super) fn number(&mut self, who: ProducerId, position: u64) {
        self.bytes = restamp(&self.bytes, stamp(who, position))
            .expect("a batch that was built has a header");
        self.position = position;
        self.sent = false;
    }
}

fn stamp(who: ProducerId, position: u64) -> ProducerInfo {
    ProducerInfo {
        id: who.id.cast_signed(),
        epoch: who.epoch.cast_signed(),
        base_sequence: sequence_at(position).cast_signed(),
    }
}
