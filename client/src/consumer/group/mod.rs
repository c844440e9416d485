//! Taking part in a consumer group.
//!
//! ```text
//! controllers ◀─signs of life─ Attendance (a task each) ─what it owns─▶ Membership (a task) ─events─▶ poll
//!      ▲                                                                  │      ▲                      │
//!      └────────────────────────── join, release, leave ──────────────────┘      └───── given up ───────┘
//! ```
//!
//! The controllers decide who reads what (KIP-848's model). The [`Membership`] task joins, keeps the membership alive and
//! hands on what changes; poll follows: it stops reading what is asked for, commits it, and only then says that it gave
//! it up. What stays is read on all the while.
//!
//! GROUP: a member hands out nothing past its session timeout by its own monotonic clock, counted from the last sign of
//! life that the leader confirmed ([`Lease`]); the leader gives what it owns to others after that time at the earliest.

mod attend;
mod core;
mod follow;
mod lease;
mod membership;
mod options;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use self::core::Key;
pub(super) use self::lease::{Lease, MemberId};
pub use self::options::Assignor;
pub(super) use self::options::GroupOptions;
use super::error::ConsumeError;
use super::subscription::{Known, Subscription};
use crate::types::TopicPartition;

/// Hears of changes of a consumer's assignment. All methods are called from within `poll`, `subscribe`, `close` and the
/// builder's `build`, one at a time, in the order of the changes.
///
/// When partitions are asked for: no record of them is handed out any more; [`revoked`](Self::revoked); with automatic
/// commits what was taken is committed; then they are given up. Only after that another member gets them.
///
/// ```
/// use streamhouse_client::TopicPartition;
/// use streamhouse_client::consumer::{ConsumerBuilder, RebalanceListener};
///
/// struct Shown;
///
/// impl RebalanceListener for Shown {
///     fn assigned(&self, partitions: &[TopicPartition]) {
///         println!("reading {partitions:?} from now on");
///     }
/// }
///
/// let builder = ConsumerBuilder::default().group_id("billing").rebalance_listener(Shown);
/// # drop(builder);
/// ```
pub trait RebalanceListener: Send + Sync {
    /// These partitions are read from now on, besides those that are read already. Their positions are known, unless they
    /// are searched by time and the search failed: then poll tells.
    fn assigned(&self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }

    /// These partitions are about to be given up, in good order: they can still be committed.
    fn revoked(&self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }

    /// These partitions were lost: the member was silent for its session timeout, its topic was deleted, or its instance
    /// has joined elsewhere. Others may read them already, and they cannot be committed.
    fn lost(&self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }
}

/// BOUND: changes on their way to poll. More wait with the task, which keeps one of a kind per partition.
const EVENTS: usize = 64;
/// BOUND: words of poll on their way to the task.
const WORDS: usize = 64;

/// A change, on its way to poll.
#[derive(Clone, Debug)]
enum Event {
    /// A membership has begun.
    Began(MemberId, u32),
    Assigned(Vec<Key>, u32),
    Revoked(Vec<Key>),
    Lost(Vec<Key>),
    /// The assignment that followed the joining is complete.
    Settled,
    /// For the application. The task tries again, unless it is for good.
    Failed(ConsumeError),
}

/// What poll tells the task.
#[derive(Debug)]
enum Word {
    GivenUp(Vec<Key>),
    /// The lease was over when poll wanted to hand out records: it reads nothing any more.
    Lost,
    Subscribed(Subscription),
    Leave(oneshot::Sender<()>),
}

/// A consumer's side of its membership.
#[derive(Debug)]
pub(super) struct Group {
    lease: Arc<Lease>,
    /// The topics as they were when they were subscribed to: what came later is read from its beginning.
    known: Known,
    member: MemberId,
    events: mpsc::Receiver<Event>,
    pending: VecDeque<Event>,
    /// The assignment that followed the joining was complete.
    settled: bool,
    /// The task is to be told so.
    lost: bool,
    words: mpsc::Sender<Word>,
    _task: DropGuard,
}

/// Waits until the group has something more for poll to follow.
pub(super) async fn news(group: &mut Option<Group>) {
    match group {
        Some(group) => group.news().await,
        None => std::future::pending().await,
    }
}

impl Group {
    /// Waits until there is something more to follow.
    async fn news(&mut self) {
        // BOUND: whoever sends more waits until poll has followed some.
        if self.pending.len() >= EVENTS {
            return std::future::pending().await;
        }
        match self.events.recv().await {
            Some(event) => self.pending.push_back(event),
            None => std::future::pending().await,
        }
    }
}
