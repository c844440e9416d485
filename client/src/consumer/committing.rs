//! The consumer's commits: asked for, and automatic.

use std::time::Duration;

use tokio::time::Instant;

use super::commit::{CommitQueue, CommittedOffset, Offset, Outcome, PendingCommit};
use super::error::ConsumeError;
use super::handle::Consumer;
use crate::clock;
use crate::types::TopicPartition;

/// How long poll waits, with records at hand, for the commits that a change of the assignment waits for: an answer comes
/// sooner, and the application may take its time before it polls again.
const SOON: Duration = Duration::from_millis(100);

/// A commit that is under way, and its number.
#[derive(Debug)]
pub(super) struct UnderWay {
    number: u64,
    pending: PendingCommit,
}

/// What the next change of the assignment waits for, while poll goes on with the partitions that stay.
#[derive(Debug, Default)]
pub(super) enum Fence {
    /// Nothing was begun for it.
    #[default]
    None,
    /// Commits are to be answered.
    Answers(Answers),
    /// It can be followed.
    Passed,
}

#[derive(Debug)]
pub(super) struct Answers {
    /// So many.
    count: u64,
    /// The last of them, if it is the change's own.
    own: Option<UnderWay>,
    /// Until then poll waits for them, whatever records there are.
    soon: Instant,
}

impl Answers {
    fn new(count: u64, own: Option<UnderWay>) -> Self {
        Self { count, own, soon: clock::later(clock::now(), SOON) }
    }
}

impl Fence {
    /// Until when poll waits for it, whatever records there are.
    pub(super) fn soon(&self) -> Option<Instant> {
        match self {
            Self::Answers(answers) => Some(answers.soon),
            Self::None | Self::Passed => None,
        }
    }
}

/// Waits until the change that waits can be followed.
pub(super) async fn passed(fence: &Fence, commits: &mut Option<CommitQueue>) {
    match (fence, commits) {
        (Fence::Answers(answers), Some(queue)) => queue.answered(answers.count).await,
        _ => std::future::pending().await,
    }
}

impl Consumer {
    /// Commits the position of every partition: everything that was handed out, the last poll included. Waits for the
    /// controllers' answer.
    pub async fn commit(&mut self) -> Result<(), ConsumeError> {
        let offsets = self.positions_to_commit();
        self.take(&offsets);
        self.commit_now(offsets).await
    }

    /// The same without waiting: the answer is the outcome of the future that is returned. Commits are sent in the order
    /// in which they were asked for; past 64 without an answer, another one is [`ConsumeError::CommitsWaiting`].
    pub fn commit_async(&mut self) -> Result<PendingCommit, ConsumeError> {
        let offsets = self.positions_to_commit();
        self.take(&offsets);
        self.number(&offsets);
        self.queue()?.try_commit(offsets)
    }

    /// Commits these offsets: of each partition the next one to read, alone or with the application's own words beside
    /// it. The partitions must be assigned to this consumer. Positions stay as they are.
    ///
    /// ```no_run
    /// # async fn example(consumer: &mut streamhouse_client::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// use streamhouse_client::consumer::CommittedOffset;
    ///
    /// let note = CommittedOffset { offset: 43, metadata: "batch 7".into() };
    /// consumer.commit_offsets([(("orders", 0), note)]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn commit_offsets<P, O>(
        &mut self,
        offsets: impl IntoIterator<Item = (P, O)>,
    ) -> Result<(), ConsumeError>
    where
        P: Into<TopicPartition>,
        O: Into<CommittedOffset>,
    {
        let mut commits = Vec::new();
        for (at, committed) in offsets {
            let at = at.into();
            let slot = self.table.slot(&at).ok_or(ConsumeError::NotAssigned { at })?;
            commits.push(Offset { committed: committed.into(), ..self.offset(slot, 0) });
        }
        self.take(&commits);
        self.commit_now(commits).await
    }

    /// What the application commits it has taken.
    fn take(&mut self, offsets: &[Offset]) {
        for offset in offsets {
            if let Some(slot) = self.table.slot(&offset.at) {
                self.books.take(slot, offset.committed.offset);
            }
        }
    }

    fn positions_to_commit(&self) -> Vec<Offset> {
        let positions = self.books.positions().into_iter();
        positions.map(|(slot, offset)| self.offset(slot, offset)).collect()
    }

    pub(super) fn offset(&self, slot: usize, offset: u64) -> Offset {
        let (at, topic) = (self.table.at(slot).clone(), self.table.topic(slot));
        Offset { at, topic, committed: offset.into() }
    }

    fn queue(&mut self) -> Result<&mut CommitQueue, ConsumeError> {
        self.commits.as_mut().ok_or(ConsumeError::NoGroup)
    }

    async fn commit_now(&mut self, offsets: Vec<Offset>) -> Result<(), ConsumeError> {
        let number = self.number(&offsets);
        // GROUP: it goes behind an automatic one that is under way, which it makes good if that fails.
        let outcome = self.queue()?.commit(offsets).await.answer().await;
        self.note(number, outcome)
    }

    /// The number of a commit of these, which is about to be handed in.
    fn number(&mut self, offsets: &[Offset]) -> u64 {
        let slots = offsets.iter().filter_map(|offset| self.table.slot(&offset.at));
        self.books.hand_in(slots)
    }

    /// Notes what was taken of a commit, and hands on the rest of its outcome.
    fn note(&mut self, number: u64, outcome: Outcome) -> Result<(), ConsumeError> {
        for offset in outcome.taken {
            if let Some(slot) = self.table.slot(&offset.at) {
                self.books.committed(slot, offset.committed.offset, number);
            }
        }
        outcome.result
    }

    /// Starts an automatic commit when its time has come and none is under way. One that fails is made again at the
    /// next interval.
    pub(super) fn commit_automatically(&mut self) {
        if !self.commits_itself() {
            return;
        }
        if let Some(automatic) = &mut self.automatic {
            let Some(outcome) = automatic.pending.outcome() else { return };
            self.end_automatic(outcome);
        }
        if clock::now() < self.next_commit {
            return;
        }
        self.next_commit = clock::later(clock::now(), self.options.auto_commit_interval);
        let taken = self.books.taken().into_iter();
        let offsets: Vec<Offset> = taken.map(|(slot, offset)| self.offset(slot, offset)).collect();
        if offsets.is_empty() {
            return;
        }
        let number = self.number(&offsets);
        match self.queue().and_then(|queue| queue.try_commit(offsets)) {
            Ok(pending) => self.automatic = Some(UnderWay { number, pending }),
            Err(error) => tracing::warn!(%error, "automatic commit failed"),
        }
    }

    pub(super) fn commits_itself(&self) -> bool {
        self.options.auto_commit && self.commits.is_some()
    }

    fn end_automatic(&mut self, outcome: Outcome) {
        let Some(automatic) = self.automatic.take() else { return };
        if let Err(error) = self.note(automatic.number, outcome) {
            tracing::warn!(%error, "automatic commit failed");
        }
    }

    /// Before partitions go: what the application has taken of them, with automatic commits. It waits for the answer, for
    /// whoever reads them next begins there.
    pub(super) async fn commit_before_revocation(&mut self, partitions: &[TopicPartition]) {
        if !self.commits_itself() || partitions.is_empty() {
            return;
        }
        let offsets = self.taken_of(partitions);
        if !offsets.is_empty()
            && let Err(error) = self.commit_now(offsets).await
        {
            tracing::warn!(%error, "the offsets of revoked partitions could not be committed");
        }
    }

    /// The same for poll, which goes on meanwhile: what the change waits for.
    pub(super) fn committing(&mut self, partitions: &[TopicPartition]) -> Fence {
        let offsets = self.taken_of(partitions);
        if !self.commits_itself() || offsets.is_empty() {
            return Fence::Passed;
        }
        let number = self.number(&offsets);
        let Some(queue) = &mut self.commits else { return Fence::Passed };
        let (pending, count) = queue.commit_urgently(offsets);
        Fence::Answers(Answers::new(count, Some(UnderWay { number, pending })))
    }

    /// Before partitions come. GROUP: commits of before, which may be under way yet, count: whoever lost partitions and has
    /// them again would go back behind what it had committed.
    pub(super) fn settling(&self) -> Fence {
        let count = self.commits.as_ref().map(CommitQueue::of_this_membership);
        count.map_or(Fence::Passed, |count| Fence::Answers(Answers::new(count, None)))
    }

    /// Whether what the next change waits for has come.
    pub(super) fn fence_passed(&mut self) -> bool {
        let Fence::Answers(answers) = &mut self.fence else { return true };
        if !self.commits.as_ref().is_none_or(|queue| queue.has_answered(answers.count)) {
            return false;
        }
        if let Some(mut own) = answers.own.take()
            && let Some(outcome) = own.pending.outcome()
            && let Err(error) = self.note(own.number, outcome)
        {
            tracing::warn!(%error, "the offsets of revoked partitions could not be committed");
        }
        self.fence = Fence::Passed;
        true
    }

    /// The last automatic commit.
    pub(super) async fn commit_at_close(&mut self) -> Result<(), ConsumeError> {
        if !self.commits_itself() {
            return Ok(());
        }
        // What an automatic one under way has committed need not be committed again.
        if let Some(automatic) = &mut self.automatic {
            let outcome = automatic.pending.answer().await;
            self.end_automatic(outcome);
        }
        let taken = self.books.taken_at_close().into_iter();
        let offsets: Vec<Offset> = taken.map(|(slot, offset)| self.offset(slot, offset)).collect();
        if offsets.is_empty() { Ok(()) } else { self.commit_now(offsets).await }
    }
}
