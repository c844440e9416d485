//! The course of a run: load → rotating faults, a quarter of the time calm → all healed → every partition drained →
//! one fresh write and read per partition → audit → the checker → the report. However it ends, what there is of its history
//! is checked and reported.

mod bounds;
mod clients;
mod drain;
mod final_audit;
mod judge;
mod measure;
mod panics;
mod recovery;
mod report;
mod schedule;
mod standstill;
mod timeline;
mod valid;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use bounds::Judged;
pub use drain::{Drained, drain_and_probe};
pub use final_audit::audit;
pub use judge::judge;
pub use measure::Gaps;
pub use report::{Counts, FaultRun, RunReport, Verdict};
pub use standstill::Stood;

use crate::audit::AuditReport;
use crate::clock;
use crate::cluster::{Cluster, Shape, Storage, admin};
use crate::error::ChaosError;
use crate::faults::{self, Needs};
use crate::random::Random;
use crate::recorder::Recorder;
use crate::workload::{Crew, LogTopic, World};
use clients::Clients;
use schedule::{Rotated, Scene};
use standstill::{Standstill, Watcher};

/// How long a new cluster may take until it takes writes.
const START: Duration = Duration::from_secs(120);
/// How long clients go on once all is healed, so that it shows how fast each is served again.
const AFTERWARDS: Duration = Duration::from_secs(6);
/// How long the drain may take, all its bounds together; the audit has as long as the run had, too.
const LOOKED_AT: Duration = Duration::from_secs(900);
/// Where data and logs of all processes are, in the run's folder.
const CLUSTER: &str = "cluster";
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
    if !plan.left_out().is_empty() {
        let left_out = plan.left_out().join(", ");
        progress(&format!("there is no time for {left_out}"));
    }
    make_folder(&options.folder)?;
    progress(&format!("seed {seed}, folder {}", options.folder.display()));
    let recorder = Arc::new(Recorder::create(&options.folder.join("history.jsonl"))?);
    let watcher = Watcher::start(Arc::clone(&recorder))?;
    let trial = Trial { options, seed, layers, recorder, watcher, progress };
    let (mut cluster, mut course) = (None, Course::default());
    let held = tokio::select! {
        held = trial.hold(plan, &mut cluster, &mut course, &interrupt) => held,
        () = interrupt.cancelled() => Err(ChaosError::Interrupted),
    };
    let logs = trial.options.folder.join(CLUSTER);
    let fallen = cluster.iter_mut().flat_map(Cluster::fallen);
    let fallen = fallen.map(|(node, code)| {
        let words = panics::last_words(&logs, &node.file_name());
        format!("{node} ended by itself, exit {code}; {words}")
    });
    course.problems.extend(fallen);
    // This heals all: its processes end, and with them their links and disks.
    drop(cluster);
    course.problems.extend(panics::search(&logs));
    course.standstill = trial.watcher.seen();
    trial.judge(course, held)
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
    watcher: Watcher,
    progress: Progress,
}

/// What has come of a run so far.
#[derive(Default)]
struct Course {
    /// The cluster served: from then on what there is of it is reported.
    begun: bool,
    rotated: Rotated,
    /// When clients were told to end.
    rotated_until: Option<Duration>,
    problems: Vec<String>,
    standstill: Standstill,
    audit: AuditReport,
}

impl Course {
    /// What is wrong with the cluster is a problem, and the run goes on; all else breaks it off.
    fn take<T>(&mut self, came_of: Result<T, ChaosError>) -> Result<Option<T>, ChaosError> {
        match came_of {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_of_cluster() => {
                self.problems.push(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Waits for a phase, which has its bounds, unless a call in it never returns.
async fn within<T>(
    bound: Duration,
    phase: &str,
    work: impl Future<Output = Result<T, ChaosError>>,
) -> Result<T, ChaosError> {
    let late = |_| ChaosError::Finding(format!("{phase} did not end within {bound:?}"));
    tokio::time::timeout(bound, work).await.map_err(late)?
}

impl Trial {
    async fn hold(
        &self,
        plan: schedule::Plan,
        cluster: &mut Option<Cluster>,
        course: &mut Course,
        interrupt: &CancellationToken,
    ) -> Result<(), ChaosError> {
        let random = Random::new(self.seed);
        let cluster = cluster.insert(self.start(random.fork(1)).await?);
        course.begun = true;
        let world = self.world(cluster, random.fork(2), interrupt).await?;
        let groups =
            World { stop: interrupt.child_token(), random: random.fork(4), ..world.clone() };
        let mut clients = Clients::start(&world);
        let mut members = Clients::start_groups(&groups);
        let (recorder, partitions) = (&*self.recorder, world.partitions());
        let (watcher, progress) = (&self.watcher, &self.progress);
        let scene = Scene { partitions: &partitions, recorder, watcher, progress };
        tokio::select! {
            rotated = plan.rotate(cluster, &scene, &mut course.rotated) => rotated?,
            // Clients end when they are told to; before that only by a failure of their own.
            error = clients.failed() => return Err(error),
            error = members.failed() => return Err(error),
        }
        (self.progress)("all healed; clients finish");
        tokio::time::sleep(AFTERWARDS).await;
        // What clients do after that is to end.
        course.rotated_until = Some(recorder.elapsed());
        world.stop.cancel();
        course.take(clients.end().await)?;
        // The groups have nothing new to read, and must get to the end of it.
        course.problems.extend(recovery::groups(&world).await);
        groups.stop.cancel();
        course.take(members.end().await)?;
        self.look(&world, course).await
    }

    /// Reads everything, and looks at what the cluster has and keeps.
    async fn look(&self, world: &World, course: &mut Course) -> Result<(), ChaosError> {
        (self.progress)("every partition is drained, then written and read once more");
        let drained = within(LOOKED_AT, "the drain", drain_and_probe(world)).await;
        let drained = course.take(drained)?;
        course.problems.extend(drained.into_iter().flat_map(|drained| drained.problems));
        (self.progress)("audit: controllers against each other, index against bucket");
        let audit = within(LOOKED_AT + self.options.time, "the audit", self::audit(world)).await;
        course.audit = course.take(audit)?.unwrap_or_default();
        Ok(())
    }

    /// However the run ended, what there is of its history is checked, though it be in no file.
    fn judge(self, course: Course, held: Result<(), ChaosError>) -> Result<RunReport, ChaosError> {
        let (history, unwritten) = self.recorder.end();
        let unfinished = match held {
            Err(error) if !course.begun => return Err(error),
            held => held.err().into_iter().chain(unwritten).collect(),
        };
        (self.progress)("checking the history");
        let checked = judge(&history);
        report::write(&self.options, self.seed, &history, checked, course, unfinished)
    }

    async fn start(&self, random: Random) -> Result<Cluster, ChaosError> {
        let shape = Shape {
            controllers: self.options.controllers,
            agents: self.options.agents,
            binary: self.options.binary.clone(),
            folder: self.options.folder.join(CLUSTER),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Operation, Outcome};

    fn trial(folder: &Path, recorder: Recorder) -> Trial {
        let options = Options {
            time: Duration::from_secs(60),
            seed: None,
            faults: "kill-leader".to_owned(),
            controllers: 3,
            agents: 3,
            storage: Storage::S3,
            rate: 4,
            folder: folder.to_owned(),
            binary: PathBuf::new(),
        };
        let progress: Progress = Arc::new(|_| ());
        let recorder = Arc::new(recorder);
        let watcher = Watcher::start(Arc::clone(&recorder)).unwrap();
        Trial { options, seed: 1, layers: false, recorder, watcher, progress }
    }

    fn begun() -> Course {
        Course { begun: true, ..Course::default() }
    }

    #[test]
    fn a_run_of_which_there_is_nothing_yet_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = || Recorder::create(&folder.path().join("history.jsonl")).unwrap();
        let interrupted = || Err(ChaosError::Interrupted);
        let early = trial(folder.path(), recorder()).judge(Course::default(), interrupted());
        assert!(matches!(early, Err(ChaosError::Interrupted)));
        let report = trial(folder.path(), recorder()).judge(begun(), interrupted()).unwrap();
        assert_eq!(report.verdict, Verdict::Unfinished);
        assert!(folder.path().join("report.json").exists());
        assert!(folder.path().join("timeline.svg").exists());
    }

    #[test]
    fn what_was_found_is_told_though_nothing_can_be_written() {
        let recorder = || Recorder::create(Path::new("/dev/full")).unwrap();
        let nowhere = Path::new("/dev/null/run");
        let note = |trial: &Trial| trial.recorder.record(1, Outcome::Ok, Operation::Crash);
        let fine = trial(nowhere, recorder());
        note(&fine);
        let report = fine.judge(begun(), Ok(())).unwrap();
        assert_eq!(report.verdict, Verdict::Unfinished);
        assert!(report.unfinished.unwrap().starts_with("writing the history"));
        let failed = trial(nowhere, recorder());
        note(&failed);
        let course = Course { problems: vec!["agent 1 ended by itself".to_owned()], ..begun() };
        assert_eq!(failed.judge(course, Ok(())).unwrap().verdict, Verdict::Failed);
    }
}
