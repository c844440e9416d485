//! The foreground: tells which processes end, stops them all when asked to.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::local::cluster::{self, Children};
use crate::local::folder::Folder;
use crate::local::process::ProcessId;
use crate::local::record::{Member, Record};
use crate::signals::StopSignals;

const POLL: Duration = Duration::from_millis(250);

/// Watches until the cluster was stopped: by a signal to this process, or by `streamhouse down`.
pub(super) async fn until_stopped(
    folder: &Folder,
    mut children: Children,
    mut signals: StopSignals,
) -> anyhow::Result<()> {
    let mut alive = BTreeMap::new();
    loop {
        // Another `up` may have started anew what had ended.
        let record = Record::load(folder)?.unwrap_or_else(|| Record::new(0, 0, 0, String::new()));
        let now = running(&record);
        if !record.stopping {
            tell_changes(folder, &alive, &now);
        }
        alive = now;
        if alive.is_empty() {
            eprintln!("the cluster was stopped");
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => children.reap(),
            signal = signals.next() => {
                eprintln!("{signal}: stopping the cluster; once more kills it");
                return stop(folder, &mut children, &mut signals).await;
            }
        }
    }
}

fn running(record: &Record) -> BTreeMap<Member, ProcessId> {
    let running = record.processes.iter().filter(|(_, process)| process.is_alive());
    running.map(|(member, process)| (*member, process.clone())).collect()
}

fn tell_changes(
    folder: &Folder,
    before: &BTreeMap<Member, ProcessId>,
    now: &BTreeMap<Member, ProcessId>,
) {
    for (member, process) in before.iter().filter(|(member, old)| now.get(member) != Some(old)) {
        eprintln!(
            "{member} (pid {}) has ended; `streamhouse up --data {}` starts it again (log: {})",
            process.pid,
            folder.path().display(),
            folder.log(*member).display()
        );
    }
    // The first look finds what was told of before.
    for (member, process) in now.iter().filter(|_| !before.is_empty()) {
        if before.get(member) != Some(process) {
            eprintln!("{member} runs, pid {}", process.pid);
        }
    }
}

async fn stop(
    folder: &Folder,
    children: &mut Children,
    signals: &mut StopSignals,
) -> anyhow::Result<()> {
    let lock = folder.lock().await?;
    let Some(mut record) = Record::load(folder)? else { return Ok(()) };
    record.stopping = true;
    record.save(folder)?;
    tokio::select! {
        stopped = cluster::stop(&lock, &record, children) => {
            for member in stopped.killed {
                eprintln!("{member} did not stop in time and was killed");
            }
            eprintln!("stopped");
        }
        _ = signals.next() => {
            for process in record.processes.values() {
                process.signal(Signal::SIGKILL);
            }
            eprintln!("killed");
        }
    }
    Ok(())
}
