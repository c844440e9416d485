//! All clients of a run, by kind. Told to end, they end in time, or it is known which do not.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use crate::error::ChaosError;
use crate::workload::{self, Crew, World};

/// How long clients may take to end once they are told to: records on their way have half a minute, and so has a call.
const ENDS: Duration = Duration::from_secs(120);

/// Nobody: what a crew is made from that has clients of one kind.
const NOBODY: Crew = Crew {
    producers: 0,
    assigned_consumers: 0,
    group_members: 0..0,
    metadata_clients: 0,
    register_readers: 0,
    watchers: false,
};

/// See the module. Dropping it ends them at once.
pub(super) struct Clients {
    tasks: JoinSet<Result<(), ChaosError>>,
    kinds: HashMap<Id, &'static str>,
}

impl Clients {
    /// All but members of groups.
    pub(super) fn start(world: &World) -> Self {
        let Crew {
            producers,
            assigned_consumers,
            metadata_clients,
            register_readers,
            watchers,
            ..
        } = Crew::default();
        let mut clients = Self { tasks: JoinSet::new(), kinds: HashMap::new() };
        clients.add(world, "producers", Crew { producers, ..NOBODY });
        clients.add(world, "assigned consumers", Crew { assigned_consumers, ..NOBODY });
        clients.add(world, "metadata clients", Crew { metadata_clients, ..NOBODY });
        clients.add(world, "readers of registers", Crew { register_readers, ..NOBODY });
        clients.add(world, "watchers", Crew { watchers, ..NOBODY });
        clients
    }

    /// Members of groups, who go on when the others have ended.
    pub(super) fn start_groups(world: &World) -> Self {
        let mut clients = Self { tasks: JoinSet::new(), kinds: HashMap::new() };
        let group_members = Crew::default().group_members;
        clients.add(world, "members of groups", Crew { group_members, ..NOBODY });
        clients
    }

    fn add(&mut self, world: &World, kind: &'static str, crew: Crew) {
        let random = world.random.fork(self.kinds.len() as u64);
        let world = World { random, ..world.clone() };
        let task = self.tasks.spawn(async move { workload::run(&world, crew).await });
        self.kinds.insert(task.id(), kind);
    }

    /// Waits until some have ended, which they do not before they are told to, but by a failure of their own.
    pub(super) async fn failed(&mut self) -> ChaosError {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Ok(Ok(()))) => ChaosError::Harness("the clients ended early".to_owned()),
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => died(&error),
        }
    }

    /// Waits for those who were told to end.
    pub(super) async fn end(mut self) -> Result<(), ChaosError> {
        let ended = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                let (id, ended) = ended.map_err(|error| died(&error))?;
                self.kinds.remove(&id);
                ended?;
            }
            Ok(())
        };
        match tokio::time::timeout(ENDS, ended).await {
            Ok(ended) => ended,
            // All that they wait for is a call of the client, and each call has an end.
            Err(_) => {
                let mut kinds: Vec<_> = self.kinds.values().copied().collect();
                kinds.sort_unstable();
                let kinds = kinds.join(", ");
                let problem = format!("{kinds}: not ended {ENDS:?} after they were told to");
                Err(ChaosError::Finding(problem))
            }
        }
    }
}

fn died(error: &JoinError) -> ChaosError {
    ChaosError::Harness(format!("clients: {error}"))
}
