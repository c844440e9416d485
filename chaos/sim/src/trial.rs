//! One seed: a cluster comes up, clients work, the nemesis does what it does, all is healed, every partition is drained,
//! index and bucket are audited, and the history is checked.

use crate::hosts::{self, CLIENTS, Shared};
use crate::invariants::Invariants;
use crate::late::Late;
use crate::nemesis::{Done, Nemesis};
use crate::store::Bucket;
use crate::watchdog;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use streamhouse_chaos::parts::{
    Access, Crew, HARNESS, LogTopic, Recorder, World, admin, audit, drain_and_probe, run_clients,
};
use streamhouse_chaos::{Outcome, Partition, Random, check};
use streamhouse_controller::raft::RaftNode;
use streamhouse_host::simulated;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

/// The longest that a message takes when all is well.
pub(crate) const LATENCY: Duration = Duration::from_millis(5);
const TICK: Duration = Duration::from_millis(1);
/// How long the cluster may take to come up, and all that follows the faults.
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(600);
/// How long clients go on once all is healed; members of groups do until their groups are at the ends.
const AFTERWARDS: Duration = Duration::from_secs(6);
const TOPICS: u32 = 2;
const PARTITIONS: u32 = 3;
/// Records a second of each producer.
const RATE: u64 = 4;
const HISTORY: &str = "history.jsonl";

/// Panics of this process, in the order in which they came.
pub(crate) static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What a seed came to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) seconds: f64,
    pub(crate) operations: usize,
    pub(crate) acknowledged: u64,
    /// What the nemesis did.
    pub(crate) done: Done,
    /// Requests that the store's troubles met.
    pub(crate) struck: BTreeMap<&'static str, u64>,
    /// How often invariants were held against something.
    pub(crate) looks: BTreeMap<&'static str, u64>,
    /// How long it took after the last healing, in seconds.
    pub(crate) took: BTreeMap<&'static str, f64>,
    /// What each controller is in the end: its applied index and its state's hash.
    pub(crate) state: BTreeMap<u64, String>,
    /// What was violated, and how.
    pub(crate) violations: Vec<(String, String)>,
}

/// How far the course is.
#[derive(Clone)]
enum Stage {
    Starting,
    Working(Box<World>),
}

/// What the clients on the first host tell the simulation.
#[derive(Default)]
struct Told {
    working: bool,
    /// On so many hosts all clients but members of groups have ended.
    ended: usize,
    /// It came to its end.
    audited: bool,
    problems: Vec<String>,
    recorder: Option<Arc<Recorder>>,
}

/// Runs it, in the current folder, for so long of faults. Called once in a process, on a fresh thread.
pub(crate) fn run(seed: u64, faults_last: Duration) -> Verdict {
    let panics = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.lock().push(info.to_string().replace('\n', " "));
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            panics(info);
        }
    }));
    // A controller whose disk failed it ends with a panic of its own.
    streamhouse_controller::raft::set_fatal_hook(|_| ());
    simulated::begin(seed);
    let random = Random::new(seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(START + faults_last + END)
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(LATENCY)
        .tcp_capacity(1 << 16)
        .ephemeral_ports(10_000..=65_535)
        .enable_random_order()
        .build();
    let rig = Shared::default();
    let bucket = Bucket::new(random.fork(1));
    hosts::add_all(&mut sim, &rig, &bucket);
    let told = Rc::new(RefCell::new(Told::default()));
    let stops = Stops::default();
    add_clients(&mut sim, &bucket, &random, &told, &stops);

    let mut course = Course {
        nemesis: None,
        invariants: Invariants::default(),
        healed: None,
        late: None,
        faults_last,
        random: random.fork(4),
    };
    let mut verdict = Verdict::default();
    loop {
        let stepped = sim.step();
        simulated::pass(sim.elapsed());
        watchdog::step(sim.elapsed());
        match stepped {
            Ok(false) => course.go_on(&mut sim, &rig, &bucket, &told, &stops),
            Ok(true) => break,
            Err(error) => {
                verdict.violations.push(("stuck".to_owned(), error.to_string()));
                break;
            }
        }
    }
    verdict.seconds = sim.elapsed().as_secs_f64();
    verdict.struck = bucket.struck();
    if let Some(nemesis) = course.nemesis.take() {
        verdict.done = nemesis.done;
        let unended = std::mem::take(&mut verdict.done.unended).into_iter();
        verdict.violations.extend(unended.map(|who| ("unended".to_owned(), who)));
    }
    course.invariants.contents(&rig.borrow());
    verdict.looks = std::mem::take(&mut course.invariants.looks);
    verdict.violations.extend(std::mem::take(&mut course.invariants.violations));
    verdict.state = state(&rig);
    let deaths = std::mem::take(&mut rig.borrow_mut().deaths);
    verdict.violations.extend(deaths.into_iter().map(|death| ("death".to_owned(), death)));
    rig.borrow_mut().nodes.clear();
    judge(&told.borrow(), course.late.take(), &mut verdict);
    drop(sim);
    let panics = std::mem::take(&mut *PANICS.lock());
    verdict.violations.extend(panics.into_iter().map(|panic| ("panic".to_owned(), panic)));
    verdict
}

/// Where controllers are: what two runs of a seed have in common, if they have anything.
fn state(rig: &Shared) -> BTreeMap<u64, String> {
    let of = |node: &RaftNode| match node.try_view() {
        Ok(view) => format!("{} {:032x}", view.applied(), view.state_hash()),
        Err(error) => error.to_string(),
    };
    rig.borrow().nodes.iter().map(|(id, node)| (*id, of(node))).collect()
}

/// Whether a topic is one of the log workload's.
pub(crate) fn is_of_the_log(topic: &str) -> bool {
    (0..TOPICS).any(|number| topic == format!("log-{number}"))
}

/// Tell clients to end: members of groups, and all others.
#[derive(Clone, Default)]
struct Stops {
    others: CancellationToken,
    groups: CancellationToken,
}

/// What the driver has to remember.
struct Course {
    nemesis: Option<Nemesis>,
    invariants: Invariants,
    healed: Option<Duration>,
    late: Option<Late>,
    faults_last: Duration,
    random: Random,
}

impl Course {
    fn go_on(
        &mut self,
        sim: &mut Sim<'_>,
        rig: &Shared,
        bucket: &Bucket,
        told: &RefCell<Told>,
        stops: &Stops,
    ) {
        let now = sim.elapsed();
        bucket.arrive(now);
        self.invariants.look(&rig.borrow());
        if self.nemesis.is_none() && told.borrow().working {
            self.nemesis = Some(Nemesis::new(self.random.clone(), now + Duration::from_secs(1)));
            self.healed = Some(now + self.faults_last);
        }
        let (Some(nemesis), Some(healed)) = (&mut self.nemesis, self.healed) else { return };
        if now < healed {
            nemesis.go_on(sim, rig, bucket);
            return;
        }
        let late = self.late.get_or_insert_with(|| {
            nemesis.heal(sim, rig, bucket);
            bucket.arrive(Duration::MAX);
            let time = told.borrow().recorder.as_ref().map(|recorder| recorder.elapsed());
            Late::new(now, time.unwrap_or_default().as_micros() as u64)
        });
        if now >= healed + AFTERWARDS {
            stops.others.cancel();
        }
        if told.borrow().ended == CLIENTS.len() {
            late.written(now);
        }
        late.look(now, &rig.borrow());
        if late.is_over() {
            stops.groups.cancel();
        }
    }
}

fn add_clients(
    sim: &mut Sim<'_>,
    bucket: &Bucket,
    random: &Random,
    told: &Rc<RefCell<Told>>,
    stops: &Stops,
) {
    let (stage, stages) = watch::channel(Stage::Starting);
    // Those on the other hosts must have ended before the first one drains.
    let (ended, all_ended) = watch::channel(0);
    let crews = [
        Crew {
            producers: 4,
            assigned_consumers: 0,
            group_members: 0..0,
            metadata_clients: 1,
            register_readers: 0,
            watchers: true,
        },
        Crew {
            producers: 0,
            assigned_consumers: 1,
            group_members: 0..3,
            metadata_clients: 0,
            register_readers: 1,
            watchers: false,
        },
        Crew {
            producers: 1,
            assigned_consumers: 1,
            group_members: 3..6,
            metadata_clients: 1,
            register_readers: 1,
            watchers: false,
        },
    ];
    for ((name, crew), part) in CLIENTS.into_iter().zip(crews).zip(10..) {
        let (random, store) = (random.fork(part), bucket.of(name));
        let mut stages = stages.clone();
        let ended = ended.clone();
        if name == CLIENTS[0] {
            let first = First {
                store,
                bucket: bucket.clone(),
                random,
                stage: stage.clone(),
                all_ended: all_ended.clone(),
                told: Rc::clone(told),
                stops: stops.clone(),
                crew,
            };
            sim.client(name, first.run());
            continue;
        }
        let (told, stops) = (Rc::clone(told), stops.clone());
        sim.client(name, async move {
            simulated::arrive(name);
            let working =
                stages.wait_for(|stage| matches!(stage, Stage::Working(_))).await?.clone();
            if let Stage::Working(world) = working {
                let access = Access { store, ..world.access.clone() };
                let world = World { access, random, ..*world };
                run_all(&world, crew, &stops, &told).await?;
            }
            ended.send_modify(|ended| *ended += 1);
            Ok(())
        });
    }
}

/// Runs a host's clients until they have ended, members of groups last.
async fn run_all(
    world: &World,
    crew: Crew,
    stops: &Stops,
    told: &RefCell<Told>,
) -> turmoil::Result {
    let members = Crew {
        producers: 0,
        assigned_consumers: 0,
        metadata_clients: 0,
        register_readers: 0,
        watchers: false,
        ..crew.clone()
    };
    let in_groups =
        World { random: world.random.fork(1_000), stop: stops.groups.clone(), ..world.clone() };
    let others = async {
        let done = run_clients(world, Crew { group_members: 0..0, ..crew }).await;
        told.borrow_mut().ended += 1;
        done
    };
    tokio::try_join!(others, run_clients(&in_groups, members))?;
    Ok(())
}

/// What the first host of clients is given.
struct First {
    store: streamhouse_store::Store,
    bucket: Bucket,
    random: Random,
    stage: watch::Sender<Stage>,
    all_ended: watch::Receiver<usize>,
    told: Rc<RefCell<Told>>,
    stops: Stops,
    crew: Crew,
}

impl First {
    async fn run(mut self) -> turmoil::Result {
        simulated::arrive(CLIENTS[0]);
        let recorder = Arc::new(Recorder::create(Path::new(HISTORY))?);
        self.told.borrow_mut().recorder = Some(Arc::clone(&recorder));
        self.bucket.record(Arc::clone(&recorder));
        let topics: Vec<LogTopic> = (0..TOPICS)
            .map(|number| LogTopic { name: format!("log-{number}").into(), partitions: PARTITIONS })
            .collect();
        let access = Access {
            controllers: hosts::addresses(),
            direct: hosts::addresses(),
            store: self.store.clone(),
            direct_store: self.store.clone(),
        };
        let asking = admin(&access.controllers)?;
        for topic in &topics {
            while let Err(error) =
                asking.create_topic(&topic.name, topic.partitions, BTreeMap::new()).await
            {
                tracing::info!(%error, "the cluster does not serve yet");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let world = World {
            access,
            topics: topics.into(),
            recorder: Arc::clone(&recorder),
            random: self.random.clone(),
            rate: RATE,
            stop: self.stops.others.clone(),
        };
        self.stage.send_replace(Stage::Working(Box::new(world.clone())));
        self.told.borrow_mut().working = true;
        run_all(&world, self.crew, &self.stops, &self.told).await?;
        self.all_ended.wait_for(|ended| *ended == CLIENTS.len() - 1).await?;
        let drained = drain_and_probe(&world).await?;
        self.told.borrow_mut().problems.extend(drained.problems);
        let audited = audit(&world).await?;
        let mut told = self.told.borrow_mut();
        told.problems.extend(audited.problems.iter().map(|problem| format!("{problem:?}")));
        told.audited = true;
        Ok(())
    }
}

/// The history's part of the verdict.
fn judge(told: &Told, late: Option<Late>, verdict: &mut Verdict) {
    verdict.violations.extend(told.problems.iter().map(|one| ("audit".to_owned(), one.clone())));
    let Some(recorder) = &told.recorder else { return };
    let history = match recorder.finish() {
        Ok(history) => history,
        Err(error) => {
            verdict.violations.push(("harness".to_owned(), error.to_string()));
            return;
        }
    };
    let of_clients = history.events.iter().filter(|event| event.process != HARNESS);
    verdict.operations = of_clients.filter(|event| event.outcome == Outcome::Ok).count();
    if let Some(mut late) = late {
        let partition = |topic| (0..PARTITIONS).map(move |number| (topic, number).into());
        let all: Vec<Partition> = (0..TOPICS).flat_map(partition).collect();
        late.judge(&history, &all);
        verdict.took = late.took.iter().map(|(what, took)| (*what, took.as_secs_f64())).collect();
        verdict.violations.extend(late.violations.into_iter().map(|one| ("late".to_owned(), one)));
    }
    let report = check(&history);
    verdict.acknowledged = report.acknowledged;
    let undecided = report.undecided.iter().map(|key| ("undecided".to_owned(), key.clone()));
    verdict.violations.extend(undecided);
    if !told.audited {
        let detail = "it ended before everything was read and looked at".to_owned();
        verdict.violations.push(("stuck".to_owned(), detail));
    }
    for kind in report.kinds() {
        let first = report.anomalies.iter().find(|anomaly| anomaly.kind == kind);
        let detail = first.map_or_else(String::new, |anomaly| anomaly.detail.clone());
        verdict.violations.push((kind.to_string(), detail));
    }
}

impl Verdict {
    /// One line for whoever started this process.
    pub(crate) fn to_json(&self, seed: u64) -> serde_json::Value {
        let violations: Vec<_> = self
            .violations
            .iter()
            .map(|(name, detail)| serde_json::json!({"name": name, "detail": detail}))
            .collect();
        serde_json::json!({
            "seed": seed,
            "seconds": self.seconds,
            "operations": self.operations,
            "acknowledged": self.acknowledged,
            "faults": self.done.faults,
            "crashes": self.done.crashes,
            "coincided": self.done.coincided,
            "crashes_coincided": self.done.crashes_coincided,
            "kinds": self.done.kinds,
            "wrong_times": self.done.wrong_times,
            "struck": self.struck,
            "lost": self.done.lost,
            "looks": self.looks,
            "took": self.took,
            "state": self.state,
            "violations": violations,
        })
    }
}
