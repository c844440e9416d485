//! `streamhouse down`: stops a local cluster cleanly.

use std::path::PathBuf;

use serde::Serialize;

use super::up::DEFAULT_DATA;
use crate::exit::{Failure, Kind};
use crate::local::cluster::{self, Children, Stopped};
use crate::local::folder::Folder;
use crate::local::record::{Member, Record};
use crate::output::Format;

/// Agents flush and hand over first, then the controllers stop. Stopping what does not run is no error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's data folder. Default: streamhouse-data.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What `down --output json` prints.
#[derive(Debug, Serialize)]
struct Report {
    data: PathBuf,
    stopped: Vec<Member>,
    /// Those that did not stop in time.
    killed: Vec<Member>,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let named = args.data.is_some();
    let data = args.data.unwrap_or_else(|| DEFAULT_DATA.into());
    let stopped = match Folder::find(&data)? {
        Some(folder) => stop(&folder).await?,
        None if named => {
            let message = format!("there is no folder {}", data.display());
            return Err(Failure::new(Kind::Name, message).into());
        }
        None => Stopped::default(),
    };
    let report = Report { data, stopped: stopped.cleanly, killed: stopped.killed };
    format.print(&report, human)
}

async fn stop(folder: &Folder) -> anyhow::Result<Stopped> {
    // Where no cluster ever was, nothing is left behind either.
    if Record::load(folder)?.is_none() {
        return Ok(Stopped::default());
    }
    let lock = folder.lock().await?;
    let Some(mut record) = Record::load(folder)? else { return Ok(Stopped::default()) };
    record.stopping = true;
    record.save(folder)?;
    Ok(cluster::stop(&lock, &record, &mut Children::default()).await)
}

fn human(report: &Report) -> String {
    let data = report.data.display();
    if report.stopped.is_empty() && report.killed.is_empty() {
        return format!("nothing runs on {data}");
    }
    let names =
        |members: &[Member]| members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!("stopped {}; the data stays in {data}", names(&report.stopped));
    if !report.killed.is_empty() {
        text.push_str(&format!(
            "\nkilled, as they did not stop in time: {}",
            names(&report.killed)
        ));
    }
    text
}
