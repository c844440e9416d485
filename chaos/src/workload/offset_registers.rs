//! Clients that use committed offsets as registers: several write and read the same groups' offsets back and forth,
//! without membership. Each group is a key by itself, used for some seconds. Some only read: whoever writes leaves a
//! controller that has lost its majority at once, and would never be told what such a one still believes.

use std::time::Duration;

use streamhouse_client::Consumer;

use super::{AGAIN, World};
use crate::error::ChaosError;
use crate::history::{Answer, Ask, Operation, Outcome, Partition};
use crate::random::Random;

const CLIENT: &str = "offset register client";
const READER: &str = "offset register reader";
/// How long a group is used, in seconds.
const USE: u64 = 15;
/// Between two operations, in milliseconds.
const PAUSE: std::ops::Range<u64> = 50..400;
/// The partition whose offset it is.
const AT: Partition = Partition { topic: 0, partition: 0 };

/// Reads and writes.
pub(super) async fn run(world: World) -> Result<(), ChaosError> {
    operate(&world, CLIENT).await
}

/// Reads only, and asks the controllers in another order for each group, for it stays with the first that answers.
pub(super) async fn read(world: World) -> Result<(), ChaosError> {
    operate(&world, READER).await
}

async fn operate(world: &World, client: &'static str) -> Result<(), ChaosError> {
    let mut random = world.random.clone();
    while !world.stop.is_cancelled() {
        let window = world.recorder.elapsed().as_secs() / USE;
        let group = format!("register-{window}");
        let at = (world.name(AT).clone(), AT.partition);
        let mut controllers = world.access.controllers.clone();
        if client == READER {
            random.shuffle(&mut controllers);
        }
        let consumer = world.consumer().controllers(controllers).assign([at]);
        let built = consumer.group_id(group.as_str()).build().await;
        let Ok(consumer) = built else {
            world.pause(AGAIN).await;
            continue;
        };
        let process = world.start(client, false);
        let mut register = Register {
            world,
            client,
            key: format!("offset {group}"),
            consumer,
            process,
            written: 0,
        };
        while world.recorder.elapsed().as_secs() / USE == window
            && world.pause(Duration::from_millis(random.within(PAUSE))).await
        {
            register.operate(&mut random).await?;
        }
    }
    Ok(())
}

struct Register<'w> {
    world: &'w World,
    client: &'static str,
    key: String,
    consumer: Consumer,
    process: u32,
    written: u64,
}

impl Register<'_> {
    async fn operate(&mut self, random: &mut Random) -> Result<(), ChaosError> {
        if self.client == READER || random.below(2) == 0 {
            self.read().await;
            return Ok(());
        }
        // No two writes are of one value.
        self.written += 1;
        let value = u64::from(self.process) * 10_000 + self.written;
        self.write(value).await
    }

    async fn read(&mut self) {
        self.record(Outcome::Invoke, Ask::Read, None);
        match self.consumer.committed().await {
            Ok(committed) => {
                let value = committed.into_values().next();
                let answer = value.map_or(Answer::Absent, |value| Answer::Value(value.to_string()));
                self.record(Outcome::Ok, Ask::Read, Some(answer));
            }
            Err(_) => self.record(Outcome::Fail, Ask::Read, None),
        }
    }

    async fn write(&mut self, value: u64) -> Result<(), ChaosError> {
        let ask = Ask::Write(value.to_string());
        let sought = self.consumer.seek(self.world.name(AT), AT.partition, value);
        sought.map_err(|error| ChaosError::Harness(error.to_string()))?;
        self.record(Outcome::Invoke, ask.clone(), None);
        match self.consumer.commit().await {
            Ok(()) => {
                let answer = Answer::Value(value.to_string());
                self.record(Outcome::Ok, ask, Some(answer));
            }
            Err(error) if error.may_have_taken_effect() => {
                self.record(Outcome::Info, ask, None);
                self.process = self.world.start(self.client, false);
                self.written = 0;
            }
            Err(_) => self.record(Outcome::Fail, ask, None),
        }
        Ok(())
    }

    fn record(&self, outcome: Outcome, ask: Ask, answer: Option<Answer>) {
        let meta = Operation::Meta { key: self.key.clone(), ask, answer };
        self.world.recorder.record(self.process, outcome, meta);
    }
}
