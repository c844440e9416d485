//! Members of consumer groups: they share the partitions of all topics out among themselves, commit by themselves or when
//! they are told to, and come and go: they leave, die, and do not poll for too long. Every member begins where its group
//! had got to; committed offsets only grow.

use std::time::Duration;

use streamhouse_client::consumer::RebalanceListener;
use streamhouse_client::{Consumer, TopicPartition};

use super::{AGAIN, World};
use crate::clock;
use crate::error::ChaosError;
use crate::history::{Operation, Outcome, Partition};
use crate::random::Random;

const CLIENT: &str = "group member";
const POLL: Duration = Duration::from_millis(500);
const COMMIT_EVERY: Duration = Duration::from_secs(1);
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(4);
/// How long one lives, and how long it may be away, in seconds.
const LIFE: std::ops::Range<u64> = 8..30;
const AWAY: std::ops::Range<u64> = 2..8;
/// Groups; the members of every second one commit automatically.
const GROUPS: u64 = 2;

/// A place in a group that one member after another takes.
struct Seat {
    group: String,
    automatic: bool,
    /// Static membership: whoever takes the seat is the same instance.
    instance: Option<String>,
}

impl Seat {
    fn of(number: u64) -> Self {
        let group = number % GROUPS;
        // The first of each group.
        let fixed = number < GROUPS;
        Self {
            group: format!("group-{group}"),
            automatic: group == 1,
            instance: fixed.then(|| format!("seat-{number}")),
        }
    }
}

pub(super) async fn run(world: World, number: u64) -> Result<(), ChaosError> {
    let seat = Seat::of(number);
    let mut random = world.random.clone();
    while !world.stop.is_cancelled() {
        let Some(member) = Member::join(&world, &seat).await else {
            world.pause(AGAIN).await;
            continue;
        };
        member.live(&mut random).await;
    }
    Ok(())
}

/// Writes down which partitions are the member's own.
struct Scribe {
    world: World,
    group: String,
    process: u32,
}

impl Scribe {
    fn note(
        &self,
        what: impl FnOnce(String, Vec<Partition>) -> Operation,
        named: &[TopicPartition],
    ) {
        let at = named.iter().filter_map(|named| self.world.at(named)).collect();
        let operation = what(self.group.clone(), at);
        self.world.recorder.record(self.process, Outcome::Ok, operation);
    }
}

impl RebalanceListener for Scribe {
    fn assigned(&self, partitions: &[TopicPartition]) {
        self.note(|group, at| Operation::Own { group, at }, partitions);
    }

    fn revoked(&self, partitions: &[TopicPartition]) {
        self.note(|group, at| Operation::Disown { group, at }, partitions);
    }

    fn lost(&self, partitions: &[TopicPartition]) {
        self.note(|group, at| Operation::Disown { group, at }, partitions);
    }
}

struct Member<'w> {
    world: &'w World,
    seat: &'w Seat,
    consumer: Consumer,
    process: u32,
}

impl<'w> Member<'w> {
    /// Nothing while the controllers cannot be reached.
    async fn join(world: &'w World, seat: &'w Seat) -> Option<Self> {
        let process = world.start(CLIENT, false);
        let group = seat.group.clone();
        let subscribe = Operation::Subscribe { group: group.clone() };
        world.recorder.record(process, Outcome::Ok, subscribe);
        let mut builder = world
            .consumer()
            .topics(world.topics.iter().map(|topic| topic.name.clone()))
            .group_id(group.as_str())
            .session_timeout(SESSION_TIMEOUT)
            .max_poll_interval(MAX_POLL_INTERVAL)
            .auto_commit(seat.automatic)
            .auto_commit_interval(COMMIT_EVERY)
            .rebalance_listener(Scribe { world: world.clone(), group, process });
        if let Some(instance) = &seat.instance {
            builder = builder.group_instance_id(instance.as_str());
        }
        let built = builder.build().await;
        built
            .inspect_err(|error| tracing::debug!(process, %error, "joining"))
            .ok()
            .map(|consumer| Self { world, seat, consumer, process })
    }

    /// Until its end, which is one of several.
    async fn live(mut self, random: &mut Random) {
        for _ in 0..random.within(1..4) {
            let end = clock::now() + Duration::from_secs(random.within(LIFE));
            if !self.read_until(end).await {
                // Nobody knows what was committed: it dies, and another asks.
                return;
            }
            if random.below(2) == 0 {
                break;
            }
            // Away for so long, it may be thrown out of its group, and joins again.
            self.world.pause(Duration::from_secs(random.within(AWAY))).await;
        }
        if random.below(3) > 0 {
            // What could not be committed is read again.
            let _ = self.consumer.close().await;
        }
    }

    /// Whether it is known what became of its commits.
    async fn read_until(&mut self, end: std::time::Instant) -> bool {
        let mut next_commit = clock::now() + COMMIT_EVERY;
        while clock::now() < end && !self.world.stop.is_cancelled() {
            self.poll().await;
            if clock::now() < next_commit {
                continue;
            }
            if !self.seat.automatic && !self.commit().await {
                return false;
            }
            self.fetch().await;
            next_commit = clock::now() + COMMIT_EVERY;
        }
        true
    }

    async fn poll(&mut self) {
        self.record(Outcome::Invoke, Operation::Poll { reads: Vec::new(), failure: None });
        match self.consumer.poll(POLL).await {
            Ok(records) => {
                let reads = self.world.reads(records);
                self.record(Outcome::Ok, Operation::Poll { reads, failure: None });
            }
            Err(error) => {
                self.world.poll_failed(self.process, &error);
                self.world.pause(AGAIN).await;
            }
        }
    }

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
        let named = self.consumer.assignment();
        for named in &named {
            self.record_fetch(Outcome::Invoke, named, None);
        }
        let committed = self.consumer.committed().await;
        for named in &named {
            match &committed {
                Ok(all) => self.record_fetch(Outcome::Ok, named, all.get(named).copied()),
                Err(_) => self.record_fetch(Outcome::Fail, named, None),
            }
        }
    }

    fn offsets(&self) -> Vec<(Partition, u64)> {
        let all = self.consumer.positions().into_iter();
        all.filter_map(|(named, offset)| Some((self.world.at(&named)?, offset))).collect()
    }

    fn record_commits(&self, outcome: Outcome, offsets: &[(Partition, u64)]) {
        for (at, offset) in offsets {
            let (group, at, offset) = (self.seat.group.clone(), *at, *offset);
            self.record(outcome, Operation::CommitOffset { group, at, offset, member: true });
        }
    }

    fn record_fetch(&self, outcome: Outcome, named: &TopicPartition, offset: Option<u64>) {
        let Some(at) = self.world.at(named) else { return };
        let group = self.seat.group.clone();
        self.record(outcome, Operation::FetchOffset { group, at, offset });
    }

    fn record(&self, outcome: Outcome, operation: Operation) {
        self.world.recorder.record(self.process, outcome, operation);
    }
}
