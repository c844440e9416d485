//! What runs on the simulated machines: controllers, agents, clients.

use crate::store::Bucket;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use streamhouse_agent::{Agent, AgentOptions};
use streamhouse_controller::raft::RaftNode;
use streamhouse_controller::{Controller, ControllerOptions};
use streamhouse_host::simulated;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

pub(crate) const CONTROLLERS: u64 = 3;
pub(crate) const AGENTS: u64 = 3;
pub(crate) const CLIENTS: [&str; 3] = ["c1", "c2", "c3"];

const CONTROLLER_PORT: u16 = 7_000;
const AGENT_PORT: u16 = 7_100;
/// Whatever ended by itself is started again after this, as a supervisor would.
const AGAIN: Duration = Duration::from_millis(300);

/// What the simulation sees of the hosts, past their network.
#[derive(Default)]
pub(crate) struct Rig {
    /// Controllers that run.
    pub(crate) nodes: BTreeMap<u64, RaftNode>,
    /// Asks what runs on a host to end in good order.
    pub(crate) stops: BTreeMap<String, CancellationToken>,
    /// What ended by itself and must not.
    pub(crate) deaths: Vec<String>,
}

pub(crate) type Shared = Rc<RefCell<Rig>>;

pub(crate) fn controller(id: u64) -> String {
    format!("k{id}")
}

pub(crate) fn agent(number: u64) -> String {
    format!("a{number}")
}

pub(crate) fn controllers() -> Vec<String> {
    (1..=CONTROLLERS).map(controller).collect()
}

pub(crate) fn agents() -> Vec<String> {
    (1..=AGENTS).map(agent).collect()
}

/// Where all agents are reached.
pub(crate) fn agent_addresses() -> Vec<String> {
    agents().into_iter().map(|name| format!("{name}:{AGENT_PORT}")).collect()
}

/// Where all controllers are reached.
pub(crate) fn addresses() -> Vec<String> {
    controllers().into_iter().map(|name| format!("{name}:{CONTROLLER_PORT}")).collect()
}

/// Where the database of a controller is: its machine's disk.
pub(crate) fn database(host: &str) -> PathBuf {
    PathBuf::from(host).join("db")
}

pub(crate) fn add_all(sim: &mut Sim<'_>, rig: &Shared, bucket: &Bucket) {
    for id in 1..=CONTROLLERS {
        let rig = Rc::clone(rig);
        sim.host(controller(id), move || run_controller(Rc::clone(&rig), id));
    }
    for number in 1..=AGENTS {
        let (rig, bucket) = (Rc::clone(rig), bucket.clone());
        sim.host(agent(number), move || run_agent(Rc::clone(&rig), bucket.clone(), number));
    }
}

async fn run_controller(rig: Shared, id: u64) -> turmoil::Result {
    let name = controller(id);
    simulated::arrive(&name);
    let stop = CancellationToken::new();
    rig.borrow_mut().stops.insert(name.clone(), stop.clone());
    let peers = (1..=CONTROLLERS).zip(addresses()).collect();
    let listen = ([0, 0, 0, 0], CONTROLLER_PORT).into();
    let mut options = ControllerOptions::new(id, listen, peers, &name);
    // So that all of it happens within a minute.
    (options.snapshot_every, options.keep_logs) = (400, 50);
    // So that a clock that jumps by an hour would remove groups that are used, if it could.
    options.group_retention = Duration::from_secs(20 * 60);
    (options.gc_grace, options.gc_interval) = (Duration::from_secs(5), Duration::from_secs(4));
    let controller = match Controller::start(options).await {
        Ok(controller) => controller,
        Err(error) => {
            rig.borrow_mut().deaths.push(format!("{name} does not start: {error}"));
            return Ok(());
        }
    };
    rig.borrow_mut().nodes.insert(id, controller.raft().clone());
    tokio::select! {
        failure = controller.failed() => {
            rig.borrow_mut().deaths.push(format!("{name} cannot go on: {failure}"));
        }
        () = stop.cancelled() => {}
    }
    rig.borrow_mut().nodes.remove(&id);
    controller.shutdown().await;
    Ok(())
}

async fn run_agent(rig: Shared, bucket: Bucket, number: u64) -> turmoil::Result {
    let name = agent(number);
    simulated::arrive(&name);
    let stop = CancellationToken::new();
    rig.borrow_mut().stops.insert(name.clone(), stop.clone());
    while !stop.is_cancelled() {
        let listen = ([0, 0, 0, 0], AGENT_PORT).into();
        let mut options = AgentOptions::new(addresses(), listen, "s3://given");
        options.advertise = Some(format!("{name}:{AGENT_PORT}"));
        options.flush_interval = Some(Duration::from_millis(20));
        options.put_timeout = Duration::from_secs(6);
        options.shutdown_timeout = Duration::from_secs(8);
        let started = tokio::select! {
            started = Agent::start(options, Some(bucket.of(&name))) => started,
            () = stop.cancelled() => return Ok(()),
        };
        match started {
            Ok(agent) => {
                let failed = tokio::select! {
                    failed = agent.failed() => Some(failed),
                    () = stop.cancelled() => None,
                };
                match failed {
                    Some(failed) => {
                        rig.borrow_mut().deaths.push(format!("{name} cannot go on: {failed}"));
                    }
                    None => {
                        if let Err(error) = agent.shutdown().await {
                            tracing::info!(%error, "not all was handed over");
                        }
                        return Ok(());
                    }
                }
            }
            // The store has trouble, or nobody leads.
            Err(error) => tracing::info!(%error, "the agent does not start"),
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}
