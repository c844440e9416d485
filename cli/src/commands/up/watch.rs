//! The foreground: tells which processes end, stops them all when asked to.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::local::cluster::{self, Children};
use crate::local::folder::{Folder, Lock};
use crate::local::process::ProcessId;
use crate::local::record::{Member, Record};
use crate::output;
use crate::signals::StopSignals;

const POLL: Duration = Duration::from_millis(250);

/// Watches until the cluster was stopped: by a signal to this process, or by `streamhouse down`.
pub(super) async fn until_stopped(
    folder: &Folder,
    mut record: Record,
    mut children: Children,
    mut signals: StopSignals,
) -> anyhow::Result<()> {
    let mut alive = BTreeMap::new();
    loop {
        match Record::load(folder) {
            // Another `up` may have started anew what had ended.
            Ok(Some(newer)) => record = newer,
            Ok(None) => {
                output::say(format!("{} is gone: stopping the cluster", folder.record().display()));
                return stop(folder, record, &mut children, &mut signals).await;
            }
            // What was known a moment ago is still the best to go by.
            Err(error) => tracing::warn!(%error, "the cluster's record cannot be read"),
        }
        let now = running(&record);
        if !record.stopping {
            tell_changes(folder, &alive, &now);
        }
        alive = now;
        if alive.is_empty() {
            output::say("the cluster was stopped");
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => children.reap(),
            signal = signals.next() => {
                output::say(format!("{signal}: stopping the cluster; once more kills it"));
                return stop(folder, record, &mut children, &mut signals).await;
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
        output::say(format!(
            "{member} (pid {}) has ended; `streamhouse up --data {}` starts it again (log: {})",
            process.pid,
            folder.path().display(),
            folder.log(*member).display()
        ));
    }
    // The first look finds what was told of before.
    for (member, process) in now.iter().filter(|_| !before.is_empty()) {
        if before.get(member) != Some(process) {
            output::say(format!("{member} runs, pid {}", process.pid));
        }
    }
}

/// Stops all processes, whatever has become of the data folder: those of its record, or of the last one known.
async fn stop(
    folder: &Folder,
    known: Record,
    children: &mut Children,
    signals: &mut StopSignals,
) -> anyhow::Result<()> {
    let (lock, record) = tokio::select! {
        announced = announce(folder, known.clone()) => announced,
        _ = signals.again() => {
            kill(&known);
            return Ok(());
        }
    };
    let stopping = async {
        match &lock {
            Ok(lock) => cluster::stop(lock, &record, children).await,
            Err(_) => cluster::stop_unlocked(&record, children).await,
        }
    };
    tokio::select! {
        stopped = stopping => {
            for member in stopped.killed {
                output::say(format!("{member} did not stop in time and was killed"));
            }
            output::say("stopped");
        }
        _ = signals.again() => kill(&record),
    }
    Ok(())
}

fn kill(record: &Record) {
    for process in record.processes.values() {
        process.signal(Signal::SIGKILL);
    }
    output::say("killed");
}

/// Tells other commands that the cluster is being stopped, if that can be told.
async fn announce(folder: &Folder, known: Record) -> (anyhow::Result<Lock>, Record) {
    let lock = folder.lock().await;
    let found = Record::load(folder).ok().flatten();
    let there = found.is_some();
    let mut record = found.unwrap_or(known);
    if let (Ok(_), true) = (&lock, there) {
        record.stopping = true;
        if let Err(error) = record.save(folder) {
            tracing::warn!(%error, "the cluster's record cannot be written");
        }
    }
    if let Err(error) = &lock {
        tracing::warn!(%error, "stopping without the lock");
    }
    (lock, record)
}
