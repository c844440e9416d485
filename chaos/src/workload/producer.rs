//! Producers: records at a steady rate to random partitions, many in flight.
//!
//! Idempotent, as they are by default: every record is there once, and in order. Plain: when an answer is lost the record
//! is sent again, and may then be there twice; first appearances keep their order. Named: idempotent, and each takes over
//! from the one before while that one still sends.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use streamhouse_client::producer::{Placed, ProduceError};
use streamhouse_client::{Code, Record};
use tokio::time::MissedTickBehavior;

use super::{AGAIN, World, payload};
use crate::error::ChaosError;
use crate::history::{Operation, Outcome, Partition, Value};
use crate::random::Random;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Idempotent,
    Plain,
    /// The number makes the name.
    Named(u64),
}

impl Kind {
    /// What a producer is that takes its place among this many.
    pub(super) fn of(number: u64) -> Self {
        match number % 4 {
            0 => Self::Plain,
            3 => Self::Named(number),
            _ => Self::Idempotent,
        }
    }

    fn start(self, world: &World, follows: Option<u32>) -> u32 {
        let client = match self {
            Self::Idempotent => "idempotent producer",
            Self::Plain => "plain producer",
            Self::Named(_) => "named producer",
        };
        world.start_after(client, self == Self::Plain, follows)
    }
}

/// A record that is not acknowledged by then has failed, or may have.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// The same of plain producers, which therefore hear more often of what failed, or may have.
const SHORT_TIMEOUT: Duration = Duration::from_secs(8);

/// BOUND: records on their way. As many as come about within the delivery timeout at the usual rate, so that partitions
/// that are not served keep nothing from those that are.
const IN_FLIGHT: usize = 8_000;
/// How long one that was taken over from goes on sending.
const FENCED: Duration = Duration::from_secs(1);
/// How long a producer lives before another takes its place, in seconds.
const LIFE: std::ops::Range<u64> = 15..60;

type Pending =
    FuturesUnordered<BoxFuture<'static, (Partition, Value, Result<Placed, ProduceError>)>>;

/// One producer process at a time, as the history has it.
pub(crate) struct Producer {
    world: World,
    kind: Kind,
    client: streamhouse_client::Producer,
    process: u32,
    /// All that it was until now.
    processes: Vec<u32>,
    counter: u64,
    pending: Pending,
    random: Random,
    /// Another one has taken over.
    replaced: bool,
}

pub(super) async fn run(world: World, kind: Kind) -> Result<(), ChaosError> {
    let mut random = world.random.clone();
    let mut successor: Option<Producer> = None;
    let mut last = None;
    while !world.stop.is_cancelled() {
        let built = match successor.take() {
            Some(producer) => Some(producer),
            None => Producer::build_after(&world, kind, random.fork(1), last).await,
        };
        let Some(mut producer) = built else {
            world.pause(AGAIN).await;
            continue;
        };
        last = Some(producer.process);
        random = random.fork(2);
        producer.serve(tokio::time::sleep(Duration::from_secs(random.within(LIFE)))).await;
        match kind {
            _ if world.stop.is_cancelled() => producer.finish().await,
            Kind::Named(_) => successor = producer.hand_over(random.fork(3)).await,
            _ if random.below(2) == 0 => producer.crash().await,
            _ => producer.finish().await,
        }
    }
    if let Some(producer) = successor {
        producer.finish().await;
    }
    Ok(())
}

impl Producer {
    /// Nothing while the controllers cannot be reached.
    pub(crate) async fn build(world: &World, kind: Kind, random: Random) -> Option<Self> {
        Self::build_after(world, kind, random, None).await
    }

    async fn build_after(
        world: &World,
        kind: Kind,
        random: Random,
        follows: Option<u32>,
    ) -> Option<Self> {
        let mut builder = streamhouse_client::Producer::builder()
            .controllers(world.access.controllers.iter().cloned())
            .delivery_timeout(if kind == Kind::Plain { SHORT_TIMEOUT } else { DELIVERY_TIMEOUT })
            .request_timeout(Duration::from_secs(8))
            .enable_idempotence(kind != Kind::Plain);
        if let Kind::Named(number) = kind {
            builder = builder.producer_name(format!("producer-{number}"));
        }
        let client = builder.build().await.ok()?;
        let process = kind.start(world, follows);
        let (pending, world) = (Pending::new(), world.clone());
        let processes = vec![process];
        let (counter, replaced) = (0, false);
        Some(Self { world, kind, client, process, processes, counter, pending, random, replaced })
    }

    /// Sends and takes answers until `end`, or until clients are to stop; what `end` came to.
    async fn serve<T>(&mut self, end: impl Future<Output = T>) -> Option<T> {
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / self.world.rate));
        // After a pause the rate goes on, it does not catch up.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let partitions = self.world.partitions();
        let stop = self.world.stop.clone();
        tokio::pin!(end);
        loop {
            tokio::select! {
                _ = ticks.tick(), if self.pending.len() < IN_FLIGHT => {
                    if let Some(at) = self.random.choose(&partitions).copied() {
                        self.send(at).await;
                    }
                }
                Some((at, value, result)) = self.pending.next() => {
                    self.answered(at, value, result);
                }
                ended = &mut end => return Some(ended),
                () = stop.cancelled() => return None,
            }
        }
    }

    /// Another one takes over; meanwhile, and a little longer, this one goes on. The other one, if it came about.
    async fn hand_over(mut self, random: Random) -> Option<Self> {
        let (world, kind) = (self.world.clone(), self.kind);
        let built = Self::build_after(&world, kind, random, Some(self.process));
        let successor = self.serve(built).await.flatten();
        if let Some(successor) = &successor {
            let taken = Operation::TakeOver { from: self.process };
            world.recorder.record(successor.process, Outcome::Ok, taken);
            self.replaced = true;
            self.serve(tokio::time::sleep(FENCED)).await;
        }
        self.finish().await;
        successor
    }

    /// Sends the process's next record.
    pub(crate) async fn send(&mut self, at: Partition) {
        let value = Value { process: self.process, counter: self.counter };
        self.counter += 1;
        let bytes = payload::encode(value, self.random.below(300) as usize);
        self.record(Outcome::Invoke, at, value, None, false);
        let record = Record::to(&**self.world.name(at)).partition(at.partition).value(bytes);
        match self.client.send(record).await {
            Ok(delivery) => {
                self.pending.push(Box::pin(async move { (at, value, delivery.await) }));
            }
            Err(error) => self.answered(at, value, Err(error)),
        }
    }

    fn answered(&mut self, at: Partition, value: Value, result: Result<Placed, ProduceError>) {
        match result {
            Ok(placed) => self.record(Outcome::Ok, at, value, Some(placed.offset), false),
            Err(error) if error.may_have_taken_effect() => {
                self.record(Outcome::Info, at, value, None, false);
                // What is said of one that was taken over from goes by its number.
                if value.process == self.process && !self.replaced {
                    self.process = self.kind.start(&self.world, Some(self.process));
                    self.processes.push(self.process);
                    self.counter = 0;
                }
            }
            Err(error) => self.record(Outcome::Fail, at, value, None, is_fenced(&error)),
        }
    }

    fn record(
        &self,
        outcome: Outcome,
        at: Partition,
        value: Value,
        offset: Option<u64>,
        fenced: bool,
    ) {
        let send = Operation::Send { at, value, offset, fenced };
        self.world.recorder.record(value.process, outcome, send);
    }

    /// Waits for all answers, and ends.
    pub(crate) async fn finish(mut self) {
        // Its result says again what each delivery says.
        let _ = self.client.close().await;
        while let Some((at, value, result)) = self.pending.next().await {
            self.answered(at, value, result);
        }
        if self.kind == Kind::Plain {
            let most = self.client.metrics().ambiguous_records;
            let repeated = Operation::Repeated { processes: self.processes, most };
            self.world.recorder.record(self.process, Outcome::Ok, repeated);
        }
    }

    /// Ends without a word; what was on its way is answered by the library itself. Only a plain one is told to end, at
    /// once: its account is whole when it has.
    async fn crash(mut self) {
        let recorder = self.world.recorder.clone();
        recorder.record(self.process, Outcome::Ok, Operation::Crash);
        let plain = self.kind == Kind::Plain;
        if plain {
            let _ = self.client.close_within(Duration::ZERO).await;
        }
        let most = self.client.metrics().ambiguous_records;
        drop(self.client);
        while let Some((at, value, result)) = self.pending.next().await {
            let (outcome, offset) = match &result {
                Ok(placed) => (Outcome::Ok, Some(placed.offset)),
                Err(error) if error.may_have_taken_effect() => (Outcome::Info, None),
                Err(_) => (Outcome::Fail, None),
            };
            let send = Operation::Send { at, value, offset, fenced: false };
            recorder.record(value.process, outcome, send);
        }
        if plain {
            let repeated = Operation::Repeated { processes: self.processes, most };
            recorder.record(self.process, Outcome::Ok, repeated);
        }
    }
}

fn is_fenced(error: &ProduceError) -> bool {
    match error {
        ProduceError::Fenced { .. } => true,
        ProduceError::Refused { refusal, .. } => {
            matches!(refusal.code, Code::NotLeaseHolder | Code::StaleCommit | Code::SessionEnded)
        }
        _ => false,
    }
}
