//! Consumers that commit: each reads all partitions, the only one of its group, commits what it read, and begins where
//! its group had got to when it is built anew. Committed offsets only grow.

use std::time::Duration;

use streamhouse_client::Consumer;

use super::{AGAIN, World};
use crate::clock;
use crate::error::ChaosError;
use crate::history::{Operation, Outcome, Partition};

const CLIENT: &str = "group consumer";
const POLL: Duration = Duration::from_millis(500);
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long one lives, in seconds.
const LIFE: std::ops::Range<u64> = 10..40;

pub(super) async fn run(world: World, number: u64) -> Result<(), ChaosError> {
    let group = format!("group-{number}");
    let mut random = world.random.clone();
    while !world.stop.is_cancelled() {
        let Ok(consumer) = world.assigned().group_id(group.as_str()).build().await else {
            world.pause(AGAIN).await;
            continue;
        };
        let process = world.start(CLIENT, false);
        let member = Member { world: &world, group: &group, consumer, process };
        member.live(Duration::from_secs(random.within(LIFE))).await;
    }
    Ok(())
}

struct Member<'w> {
    world: &'w World,
    group: &'w str,
    consumer: Consumer,
    process: u32,
}

impl Member<'_> {
    async fn live(mut self, life: Duration) {
        let end = clock::now() + life;
        let mut next_commit = clock::now() + COMMIT_EVERY;
        while clock::now() < end && !self.world.stop.is_cancelled() {
            self.poll().await;
            if clock::now() < next_commit {
                continue;
            }
            // Nobody knows what was committed: another takes its place, and asks.
            if !self.commit().await {
                return;
            }
            self.fetch().await;
            next_commit = clock::now() + COMMIT_EVERY;
        }
    }

    async fn poll(&mut self) {
        match self.consumer.poll(POLL).await {
            Ok(records) if records.is_empty() => {}
            Ok(records) => {
                let reads = self.world.reads(records);
                self.record(Outcome::Ok, Operation::Poll { reads });
            }
            Err(error) => {
                tracing::debug!(process = self.process, %error, "poll");
                self.record(Outcome::Fail, Operation::Poll { reads: Vec::new() });
                self.world.pause(AGAIN).await;
            }
        }
    }

    /// Whether it is known what became of it.
    async fn commit(&mut self) -> bool {
        let offsets = self.offsets();
        self.record_commits(Outcome::Invoke, &offsets);
        match self.consumer.commit().await {
            Ok(()) => self.record_commits(Outcome::Ok, &offsets),
            Err(error) if error.may_have_taken_effect() => {
                self.record_commits(Outcome::Info, &offsets);
                return false;
            }
            Err(_) => self.record_commits(Outcome::Fail, &offsets),
        }
        true
    }

    async fn fetch(&mut self) {
        let all = self.world.partitions();
        for at in &all {
            self.record_fetch(Outcome::Invoke, *at, None);
        }
        match self.consumer.committed().await {
            Ok(committed) => {
                let named = |at: Partition| (self.world.name(at).clone(), at.partition).into();
                for at in all {
                    self.record_fetch(Outcome::Ok, at, committed.get(&named(at)).copied());
                }
            }
            Err(_) => all.into_iter().for_each(|at| self.record_fetch(Outcome::Fail, at, None)),
        }
    }

    fn offsets(&self) -> Vec<(Partition, u64)> {
        let all = self.world.partitions().into_iter();
        let position = |at: Partition| self.consumer.position(self.world.name(at), at.partition);
        all.filter_map(|at| Some((at, position(at)?))).collect()
    }

    fn record_commits(&self, outcome: Outcome, offsets: &[(Partition, u64)]) {
        for (at, offset) in offsets {
            let group = self.group.to_owned();
            let commit = Operation::CommitOffset { group, at: *at, offset: *offset, epoch: None };
            self.record(outcome, commit);
        }
    }

    fn record_fetch(&self, outcome: Outcome, at: Partition, offset: Option<u64>) {
        self.record(outcome, Operation::FetchOffset { group: self.group.to_owned(), at, offset });
    }

    fn record(&self, outcome: Outcome, operation: Operation) {
        self.world.recorder.record(self.process, outcome, operation);
    }
}
