//! `streamhouse cluster verify`: the controllers against each other, the segment index against the bucket.

use std::time::Duration;

use anyhow::Context as _;
use streamhouse_chaos::{Audit, AuditReport, NoWitness, Problem};
use streamhouse_client::Admin;
use streamhouse_store::{Store, StoreOptions};

use crate::controllers::{CONNECT_TIMEOUT, Controllers};
use crate::exit::{self, Failure, Kind};
use crate::output::{self, Format};

/// BOUND: problems told to people, and objects that no index names; programs get all (of these, the first thousand).
const TOLD: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Fetch every slice of every partition and check its checksum, not only that its object is there. Reads the whole
    /// log once.
    #[arg(long)]
    deep: bool,
    /// Where the data lies. Default: where the cluster says; options and keys come from the environment.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// How long the controllers may take to be seen at one applied index, and for how long what is refused for now is
    /// asked again.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    wait: Duration,
    #[command(flatten)]
    controllers: Controllers,
}

/// Prints what was found, and fails if anything is not as it must be.
pub(super) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let controllers = args.controllers.resolve()?;
    let store = open(&args, &controllers).await?;
    let audit = Audit { controllers, store, deep: args.deep, patience: args.wait };
    let report = audit.run(&mut NoWitness).await?;
    let printed = format.print(&report, |report| human(report, args.deep));
    exit::after_printing(printed, outcome(&report.problems))
}

fn outcome(problems: &[Problem]) -> anyhow::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    // A controller that is away damages nothing.
    let unknown = problems.iter().all(|problem| matches!(problem, Problem::NotCompared { .. }));
    let (kind, what) = match unknown {
        true => (Kind::Unavailable, "nothing is damaged, but not all could be compared"),
        false => (Kind::Damaged, "not everything is as it must be"),
    };
    let count = output::counted(problems.len() as u64, "problem");
    Err(Failure::new(kind, format!("{what}: {count}")).into())
}

async fn open(args: &Args, controllers: &[String]) -> anyhow::Result<Store> {
    let url = match &args.store {
        Some(url) => url.clone(),
        None => {
            let admin = Admin::builder()
                .controllers(controllers.iter().cloned())
                .connect_timeout(CONNECT_TIMEOUT)
                .build()?;
            let message = "the cluster does not know where its data lies: no agent has registered";
            let url = admin.cluster().await?.store_url;
            url.ok_or_else(|| Failure::new(Kind::Unavailable, message))?
        }
    };
    StoreOptions::new().reader().open(&url).context("the object store")
}

fn human(report: &AuditReport, deep: bool) -> String {
    let count = output::count;
    let mut lines = vec![
        match report.replicas.identical_at {
            Some(index) => format!(
                "{} controllers, identical at index {index}",
                report.replicas.controllers.len()
            ),
            None => "the controllers are not proven identical".to_owned(),
        },
        format!(
            "{} entries of {} partitions of {} topics, in {} objects",
            count(report.entries),
            count(report.partitions),
            count(report.topics),
            count(report.indexed_objects)
        ),
        format!(
            "{} objects in the bucket, {}; {} of them, {}, in no index",
            count(report.listed_objects),
            output::bytes(report.listed_bytes),
            count(report.unreferenced_objects),
            output::bytes(report.unreferenced_bytes)
        ),
    ];
    if deep {
        lines.push(format!(
            "{} slices read and checked, {}",
            count(report.verified_slices),
            output::bytes(report.verified_bytes)
        ));
    }
    lines.extend(report.unreferenced.iter().take(TOLD).map(|key| format!("in no index: {key}")));
    if report.unreferenced_objects > TOLD as u64 {
        lines.push(format!("and {} more", count(report.unreferenced_objects - TOLD as u64)));
    }
    lines.extend(
        report.problems.iter().take(TOLD).map(|found| format!("PROBLEM {}", problem(found))),
    );
    if report.problems.len() > TOLD {
        lines.push(format!("and {} more", report.problems.len() - TOLD));
    }
    lines.join("\n")
}

fn problem(problem: &Problem) -> String {
    match problem {
        Problem::ReplicaDivergence { applied, hashes } => {
            let hashes: Vec<_> = hashes.iter().map(|(id, hash)| format!("{id}: {hash}")).collect();
            format!("the controllers differ at index {applied}: {}", hashes.join(", "))
        }
        Problem::NotCompared { reason } => format!("the controllers were not compared: {reason}"),
        Problem::NotDense { at, expected, found } => {
            format!("the index of {at} goes on at offset {found}, expected {expected}")
        }
        Problem::DanglingIndex { object, at, base } => {
            format!("the index of {at} from offset {base} names {object}, which is not there")
        }
        Problem::CorruptSlice { object, at, base, reason } => {
            format!("the slice of {at} from offset {base} in {object}: {reason}")
        }
    }
}
