//! A hostile object store under real agents, fault by fault: every acknowledged record is in the log once, in order,
//! at the offset that was promised, and no producer hears of any of it.
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use crate::promised::{Load, PATIENCE, STEP, assert_exactly_once, holder, moved};
use http::{Method, StatusCode};
use object_store::memory::InMemory;
use streamhouse_store::endpoint::{Endpoint, Fate, Interference};
use streamhouse_tests::{LocalCluster, Setup, until};
use tokio::runtime::Runtime;

/// What is done to the PUTs of agents' objects.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plan {
    Fair,
    /// Every second one meets this.
    EverySecond(Fate),
    /// The next one does.
    Next(Fate),
    /// All do.
    All(Fate),
}

#[derive(Debug)]
struct Script(Mutex<State>);

#[derive(Debug)]
struct State {
    plan: Plan,
    puts: u64,
    /// Those that met something.
    struck: u64,
    /// Those that happened.
    done: u64,
}

impl Script {
    fn set(&self, plan: Plan) {
        let mut state = self.0.lock().unwrap();
        (state.plan, state.struck, state.done) = (plan, 0, 0);
    }

    fn struck(&self) -> u64 {
        self.0.lock().unwrap().struck
    }

    fn done(&self) -> u64 {
        self.0.lock().unwrap().done
    }
}

fn is_object(method: &Method, path: &str) -> bool {
    *method == Method::PUT && path.contains("/l0/")
}

impl Interference for Script {
    fn fate(&self, method: &Method, path: &str) -> Fate {
        if !is_object(method, path) {
            return Fate::Pass;
        }
        let mut state = self.0.lock().unwrap();
        state.puts += 1;
        let fate = match state.plan {
            Plan::Fair => return Fate::Pass,
            Plan::EverySecond(_) if state.puts.is_multiple_of(2) => return Fate::Pass,
            Plan::EverySecond(fate) | Plan::All(fate) => fate,
            Plan::Next(fate) => {
                state.plan = Plan::Fair;
                fate
            }
        };
        state.struck += 1;
        fate
    }

    fn done(&self, method: &Method, path: &str, status: StatusCode) {
        let counts = is_object(method, path) && status.is_success();
        self.0.lock().unwrap().done += u64::from(counts);
    }
}

struct Stage {
    runtime: Runtime,
    script: Arc<Script>,
    _endpoint: Endpoint,
    cluster: LocalCluster,
}

fn stage(partitions: &str) -> Stage {
    let runtime = Runtime::new().unwrap();
    let state = State { plan: Plan::Fair, puts: 0, struck: 0, done: 0 };
    let script = Arc::new(Script(Mutex::new(state)));
    let endpoint = Endpoint::start_with(Arc::new(InMemory::new()), Arc::clone(&script) as _);
    let endpoint = runtime.block_on(endpoint).unwrap();
    let setup = Setup {
        agent_flags: &["--flush-interval", "5ms"],
        store: Some(("s3://bucket/prefix".to_owned(), endpoint.options())),
        ..Setup::default()
    };
    let cluster = LocalCluster::start_as(3, 2, &setup);
    cluster.run(&["topic", "create", "t", "--partitions", partitions]).ok();
    Stage { runtime, script, _endpoint: endpoint, cluster }
}

impl Stage {
    /// Feeds until so many PUTs have met what is planned.
    fn suffer(&self, load: &mut Load, plan: Plan, puts: u64) {
        self.script.set(plan);
        until("the fault strikes", PATIENCE, || {
            load.feed(20);
            (self.script.struck() >= puts).then_some(())
        });
    }

    fn end(self) {
        drop(self.cluster);
        self.runtime.shutdown_background();
    }
}

#[test]
fn whatever_the_store_does_with_a_put_its_records_are_there_once() {
    let stage = stage("2");
    let refused = |status, code| Fate::Refused { status, code };
    let mut load = Load::start(&stage.cluster, "a", None);
    load.flow(&stage.cluster);
    for fate in [
        refused(500, "InternalError"),
        refused(503, "SlowDown"),
        // Somebody else is writing the key, or has written it, says the store; and nobody has.
        refused(409, "ConditionalRequestConflict"),
        refused(412, "PreconditionFailed"),
        refused(400, "ExpiredToken"),
        refused(403, "ExpiredToken"),
        Fate::ErrorInOk,
        Fate::Cut,
        // The response is lost after the write has happened.
        Fate::DoneThenCut,
        // The slow tail.
        Fate::Late(Duration::from_millis(300)),
    ] {
        stage.suffer(&mut load, Plan::EverySecond(fate), 4);
        stage.script.set(Plan::Fair);
        load.flow(&stage.cluster);
    }
    assert_exactly_once(&stage.cluster, &[&load.acknowledged()]);
    stage.end();
}

#[test]
fn a_put_that_is_never_answered_is_repeated_whether_it_happened_or_not() {
    let stage = stage("2");
    let mut load = Load::start(&stage.cluster, "a", None);
    // From so many PUTs the agents learn when one is slow.
    until("puts are known", PATIENCE, || {
        load.feed(20);
        (stage.script.done() > 80).then_some(())
    });
    for fate in [Fate::Silent, Fate::DoneThenSilent] {
        stage.suffer(&mut load, Plan::Next(fate), 1);
        load.feed(STEP);
    }
    assert_exactly_once(&stage.cluster, &[&load.acknowledged()]);
    stage.end();
}

#[test]
fn an_agent_killed_between_its_put_and_the_commit_of_it() {
    let mut stage = stage("1");
    let mut load = Load::start(&stage.cluster, "a", None);
    load.flow(&stage.cluster);
    for _ in 0..2 {
        let doomed = holder(&stage.cluster);
        // Objects are stored, and no agent learns of it: nothing is committed.
        stage.script.set(Plan::All(Fate::DoneThenSilent));
        until("an object is stored", PATIENCE, || {
            load.feed(20);
            (stage.script.done() > 0).then_some(())
        });
        stage.cluster.kill_agent(doomed);
        stage.script.set(Plan::Fair);
        moved(&stage.cluster, doomed);
        load.flow(&stage.cluster);
        stage.cluster.start_agent(doomed);
        stage.cluster.wait_until_whole();
    }
    assert_exactly_once(&stage.cluster, &[&load.acknowledged()]);
    stage.end();
}
