//! Clients of the metadata: they create, describe and delete a few topics, all the same ones at the same time. Each
//! topic's name is a key by itself; after some seconds they go on to other names, so that no key has too many operations
//! to be decided about.

use std::collections::BTreeMap;
use std::time::Duration;

use streamhouse_client::{Admin, AdminError};

use super::World;
use crate::cluster;
use crate::error::ChaosError;
use crate::history::{Answer, Ask, Operation, Outcome};
use crate::random::Random;

const CLIENT: &str = "metadata client";
/// How long a name is used, in seconds, and how many are at once.
const USE: u64 = 15;
const NAMES: u64 = 2;
/// Between two operations, in milliseconds.
const PAUSE: std::ops::Range<u64> = 50..400;

pub(super) async fn run(world: World) -> Result<(), ChaosError> {
    let mut random = world.random.clone();
    let admin = cluster::admin(&world.access.controllers)?;
    let mut process = world.start(CLIENT, false);
    while world.pause(Duration::from_millis(random.within(PAUSE))).await {
        let name = name(&world, &mut random);
        let ask = match random.below(5) {
            0 | 1 => Ask::Create,
            2 => Ask::Delete,
            _ => Ask::Read,
        };
        let key = format!("topic {name}");
        let meta = |answer| Operation::Meta { key: key.clone(), ask: ask.clone(), answer };
        world.recorder.record(process, Outcome::Invoke, meta(None));
        match call(&admin, &name, &ask).await {
            Ok(answer) => world.recorder.record(process, Outcome::Ok, meta(Some(answer))),
            Err(error) if error.may_have_taken_effect() && ask != Ask::Read => {
                world.recorder.record(process, Outcome::Info, meta(None));
                process = world.start(CLIENT, false);
            }
            Err(_) => world.recorder.record(process, Outcome::Fail, meta(None)),
        }
    }
    Ok(())
}

fn name(world: &World, random: &mut Random) -> String {
    let window = world.recorder.elapsed().as_secs() / USE;
    format!("register-{}", window * NAMES + random.below(NAMES))
}

async fn call(admin: &Admin, name: &str, ask: &Ask) -> Result<Answer, AdminError> {
    let answered = match ask {
        Ask::Create => admin.create_topic(name, 1, BTreeMap::new()).await,
        Ask::Delete => admin.delete_topic(name).await,
        Ask::Read | Ask::Write(_) => admin.describe_topic(name).await.map(|found| found.topic.id),
    };
    match answered {
        Ok(id) => Ok(Answer::Value(id.to_string())),
        Err(AdminError::TopicExists { .. }) => Ok(Answer::Exists),
        Err(AdminError::UnknownTopic { .. }) => Ok(Answer::Absent),
        Err(error) => Err(error),
    }
}
