//! The course of a run: load → rotating faults, a quarter of the time calm → all healed → every partition drained →
//! one fresh write and read per partition → audit → the checker → the report.

mod drain;
mod final_audit;
mod measure;
mod report;
mod schedule;
mod timeline;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use drain::{Drained, drain_and_probe};
pub use final_audit::audit;
pub use measure::Gaps;
pub use report::{Counts, FaultRun, RunReport, Verdict};

use crate::checker;
use crate::clock;
use crate::cluster::{Cluster, Shape, Storage, admin};
use crate::error::ChaosError;
use crate::faults::{self, Needs};
use crate::random::Random;
use crate::recorder::Recorder;
use crate::workload::{self, Crew, LogTopic, World};

/// How long a new cluster may take until it takes writes.
const START: Duration = Duration::from_secs(120);
/// How long a healed cluster may take to be whole.
const WHOLE: Duration = Duration::from_secs(120);
/// How long clients go on once all is healed, so that it shows how fast each is served again.
const AFTERWARDS: Duration = Duration::from_secs(6);
const TOPICS: u32 = 2;
const PARTITIONS: u32 = 4;

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long faults rotate.
    pub time: Duration,
    /// Decides the schedule, payloads and the clients' choices. `None`: any; it is told.
    pub seed: Option<u64>,
    /// Names with commas between, or `all`.
    pub faults: String,
    /// How many controllers, 1 to 9.
    pub controllers: usize,
    /// How many agents, 1 to 9.
    pub agents: usize,
    /// Where objects are kept.
    pub storage: Storage,
    /// Records a second, all producers together.
    pub rate: u64,
    /// Where history, logs, report and picture go; made if missing, and must be empty.
    pub folder: PathBuf,
    /// The `streamhouse` binary.
    pub binary: PathBuf,
}

/// Tells how far a run has got.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// Holds a run. Processes, ports and memory are given back however it ends; the folder is kept.
pub async fn run(
    options: Options,
    interrupt: CancellationToken,
    progress: Progress,
) -> Result<RunReport, ChaosError> {
    let named =
        faults::named(&options.faults, options.controllers, options.agents, options.storage)?;
    let seed = options.seed.unwrap_or_else(|| clock::wall().as_millis() as u64 % 1_000_000);
    let layers = named.iter().any(|spec| spec.needs == Needs::Compiler);
    let plan = schedule::Plan::new(named, options.time, seed)?;
    make_folder(&options.folder)?;
    progress(&format!("seed {seed}, folder {}", options.folder.display()));
    let recorder = Arc::new(Recorder::create(&options.folder.join("history.jsonl"))?);
    let trial = Trial { options, seed, layers, recorder, progress };
    tokio::select! {
        held = trial.hold(plan, &interrupt) => held,
        // Dropping the trial heals all: its processes end, and with them their links and disks.
        () = interrupt.cancelled() => Err(ChaosError::Interrupted),
    }
}

fn make_folder(folder: &Path) -> Result<(), ChaosError> {
    let io = || ChaosError::io(folder.display().to_string());
    std::fs::create_dir_all(folder).map_err(io())?;
    let mut entries = std::fs::read_dir(folder).map_err(io())?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(ChaosError::Usage(format!("{} is not empty", folder.display()))),
    }
}

struct Trial {
    options: Options,
    seed: u64,
    /// Some fault needs disks and clocks that can be broken.
    layers: bool,
    recorder: Arc<Recorder>,
    progress: Progress,
}

impl Trial {
    async fn hold(
        self,
        plan: schedule::Plan,
        interrupt: &CancellationToken,
    ) -> Result<RunReport, ChaosError> {
        let random = Random::new(self.seed);
        let mut cluster = self.start(random.fork(1)).await?;
        let world = self.world(&cluster, random.fork(2), interrupt).await?;
        let mut clients = JoinSet::new();
        let crew_world = world.clone();
        clients.spawn(async move { workload::run(&crew_world, Crew::default()).await });

        let rotated = tokio::select! {
            rotated = plan.rotate(&mut cluster, &self.recorder, &self.progress) => rotated?,
            // Clients end when they are told to; before that only by a failure of their own.
            Some(ended) = clients.join_next() => return Err(client_failed(ended)),
        };
        (self.progress)("all healed; clients finish");
        let whole = cluster.wait_until_whole(WHOLE).await;
        tokio::time::sleep(AFTERWARDS).await;
        // What clients do after that is to end.
        let rotated_until = self.recorder.elapsed();
        world.stop.cancel();
        while let Some(ended) = clients.join_next().await {
            ended.map_err(|error| ChaosError::Harness(format!("clients: {error}")))??;
        }
        (self.progress)("every partition is drained, then written and read once more");
        let drained = drain_and_probe(&world).await?;
        (self.progress)("audit: controllers against each other, index against bucket");
        let audit = self::audit(&world).await?;
        let fallen = cluster.fallen();
        drop(cluster);
        (self.progress)("checking the history");
        let history = self.recorder.finish()?;
        let verdict = checker::check(&history);
        let mut problems = Vec::new();
        problems.extend(whole.err().map(|error| error.to_string()));
        problems.extend(
            fallen.iter().map(|(node, code)| format!("{node} ended by itself, exit {code}")),
        );
        problems.extend(drained.problems);
        let ends = report::Ends { rotated, rotated_until, problems, audit };
        report::write(&self.options, self.seed, &history, verdict, ends)
    }

    async fn start(&self, random: Random) -> Result<Cluster, ChaosError> {
        let shape = Shape {
            controllers: self.options.controllers,
            agents: self.options.agents,
            binary: self.options.binary.clone(),
            folder: self.options.folder.join("cluster"),
            layers: self.layers,
            storage: self.options.storage,
        };
        let mut cluster = Cluster::start(shape, random, Arc::clone(&self.recorder)).await?;
        let took = cluster.wait_until_whole(START).await?;
        (self.progress)(&format!("the cluster serves after {:.1} s", took.as_secs_f64()));
        Ok(cluster)
    }

    async fn world(
        &self,
        cluster: &Cluster,
        random: Random,
        interrupt: &CancellationToken,
    ) -> Result<World, ChaosError> {
        let admin = admin(&cluster.access().direct)?;
        let topics: Vec<LogTopic> = (0..TOPICS)
            .map(|number| LogTopic { name: format!("log-{number}").into(), partitions: PARTITIONS })
            .collect();
        for topic in &topics {
            let made = admin.create_topic(&topic.name, topic.partitions, BTreeMap::new()).await;
            made.map_err(|error| ChaosError::Cluster(error.to_string()))?;
        }
        Ok(World {
            access: cluster.access().clone(),
            topics: topics.into(),
            recorder: Arc::clone(&self.recorder),
            random,
            rate: (self.options.rate / Crew::default().producers).max(1),
            stop: interrupt.child_token(),
        })
    }
}

fn client_failed(ended: Result<Result<(), ChaosError>, tokio::task::JoinError>) -> ChaosError {
    match ended {
        Ok(Ok(())) => ChaosError::Harness("the clients ended early".to_owned()),
        Ok(Err(error)) => error,
        Err(error) => ChaosError::Harness(format!("clients: {error}")),
    }
}
