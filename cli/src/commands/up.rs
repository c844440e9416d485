//! `streamhouse up`: a local cluster, started or completed, and watched until interrupted.

mod plan;
mod ready;
mod watch;

use std::path::PathBuf;

use serde::Serialize;

use crate::exit::StdoutClosed;
use crate::local::cluster::{self, Logs};
use crate::local::folder::Folder;
use crate::local::record::{Member, Record};
use crate::output::{self, Format};
use crate::signals::StopSignals;

/// Where a local cluster keeps its data unless told otherwise.
pub(crate) const DEFAULT_DATA: &str = "streamhouse-data";

/// On data that a cluster was started on before it starts whatever does not run and goes on.
///
/// In the foreground it watches the processes until Ctrl-C, which stops them cleanly; it never restarts one by itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many controllers; for good. Default: 3.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    controllers: Option<u16>,
    /// How many agents. Default: 2.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    agents: Option<u16>,
    /// The folder for everything the cluster keeps.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// Where the objects go, for good. Default: the folder `objects` in the data folder.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Controllers listen on the ports behind this one, agents a hundred above them, and two hundred above them
    /// controllers answer over HTTP; for good. Default: 7600.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_000))]
    base_port: Option<u16>,
    /// Return when the cluster is ready; `streamhouse down` stops it.
    #[arg(long)]
    detach: bool,
}

/// What `up --output json` prints when the cluster is ready.
#[derive(Debug, Serialize)]
struct Running {
    data: PathBuf,
    store: String,
    controllers: Vec<Process>,
    agents: Vec<Process>,
    /// Which of them were not running before.
    started: Vec<Member>,
    export: String,
}

#[derive(Debug, Serialize)]
struct Process {
    id: u16,
    address: String,
    /// Where it answers `/healthz`, `/readyz` and `/metrics`; controllers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    pid: i32,
}

pub(crate) async fn run(args: Args, format: Format, logs: Logs<'_>) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let folder = Folder::create(&args.data)?;
    let lock = folder.lock().await?;
    let mut record = plan::reconcile(&args, &folder, Record::load(&folder)?)?;
    let (started, mut children) = cluster::start_missing(&folder, &lock, &mut record, logs).await?;

    let ready = tokio::select! {
        ready = ready::wait(&folder, &record, &mut children) => ready,
        signal = signals.next() => Err(anyhow::anyhow!("interrupted by {signal} before the cluster was ready")),
    };
    let told = ready.and_then(|()| {
        let printed = format.print(&running(&folder, &record, &started), human);
        // The cluster runs, whether or not somebody reads about it.
        printed.or_else(|error| if error.is::<StdoutClosed>() { Ok(()) } else { Err(error) })
    });
    if let Err(error) = told {
        // What this command started it does not leave behind half done.
        cluster::stop_members(&lock, &record, &started, &mut children).await;
        return Err(error);
    }
    drop(lock);
    if args.detach {
        return Ok(());
    }
    output::say("Ctrl-C stops the cluster; its data stays");
    watch::until_stopped(&folder, record, children, signals).await
}

fn running(folder: &Folder, record: &Record, started: &[Member]) -> Running {
    let process = |member, id| Process {
        id,
        address: record.address(member).to_string(),
        http: record.http(member).map(|address| address.to_string()),
        pid: record.processes.get(&member).map_or(0, |process| process.pid),
    };
    Running {
        data: folder.path().to_owned(),
        store: record.store.clone(),
        controllers: (1..=record.controllers).map(|n| process(Member::Controller(n), n)).collect(),
        agents: (1..=record.agents).map(|n| process(Member::Agent(n), n)).collect(),
        started: started.to_vec(),
        export: format!(
            "export STREAMHOUSE_CONTROLLERS={}",
            record.controller_addresses().join(",")
        ),
    }
}

fn human(running: &Running) -> String {
    let mut table = output::table(["process", "address", "http", "pid", ""]);
    let controllers = running.controllers.iter().map(|p| (Member::Controller(p.id), p));
    let agents = running.agents.iter().map(|p| (Member::Agent(p.id), p));
    for (member, process) in controllers.chain(agents) {
        let new = if running.started.contains(&member) { "started" } else { "was running" };
        table.add_row([
            member.to_string(),
            process.address.clone(),
            output::or_dash(process.http.clone()),
            process.pid.to_string(),
            new.to_owned(),
        ]);
    }
    format!(
        "{table}\ndata   {}\nstore  {}\n\n{}",
        running.data.display(),
        running.store,
        running.export
    )
}
