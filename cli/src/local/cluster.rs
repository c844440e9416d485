//! Starting and stopping the processes of a local cluster.
//!
//! They are started in process groups of their own, so that Ctrl-C at the terminal reaches only the command that
//! watches them, and it can stop them in order: agents first, which flush and hand over, then controllers.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;

use super::folder::{Folder, Lock};
use super::process::ProcessId;
use super::record::{Member, Record};
use crate::clock;
use crate::exit::{Failure, Kind};
use crate::logs::LogFormat;

/// How long processes get to stop cleanly before they are killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// How long a port of a process that has ended may take to become free.
const PORT_PATIENCE: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(50);

/// How much of a log is shown when its process ends unasked.
const LOG_TAIL_LINES: usize = 5;

/// What the processes are to log, and how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Logs<'a> {
    pub(crate) level: Option<&'a str>,
    pub(crate) format: LogFormat,
}

/// Processes that this command started itself, and so must reap.
#[derive(Default)]
pub(crate) struct Children(Vec<Child>);

impl Children {
    /// Takes note of those that have ended, so that none stays a zombie.
    pub(crate) fn reap(&mut self) {
        self.0.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

/// Starts every member that does not run, and remembers each as it is started. If one cannot be, those that were are
/// stopped again.
pub(crate) async fn start_missing(
    folder: &Folder,
    lock: &Lock,
    record: &mut Record,
    logs: Logs<'_>,
) -> anyhow::Result<(Vec<Member>, Children)> {
    let missing: Vec<Member> = record.members().filter(|m| record.running(*m).is_none()).collect();
    for member in &missing {
        let http = record.http(*member);
        for address in [Some(record.address(*member)), http].into_iter().flatten() {
            require_free_port(record, *member, address).await?;
        }
    }
    record.stopping = false;
    record.save(folder)?;
    let mut children = Children::default();
    for member in &missing {
        if let Err(error) = start(folder, record, *member, logs, &mut children) {
            stop_members(lock, record, &missing, &mut children).await;
            return Err(error);
        }
    }
    Ok((missing, children))
}

fn start(
    folder: &Folder,
    record: &mut Record,
    member: Member,
    logs: Logs<'_>,
    children: &mut Children,
) -> anyhow::Result<()> {
    let child = spawn(folder, record, member, logs)?;
    record.processes.insert(member, ProcessId::of(child.id()));
    children.0.push(child);
    record.save(folder)
}

/// SUBTLE: a killed process counts as ended as soon as its main thread is; its sockets close with the last of its
/// threads, a moment later. So a port that was this member's own may take that moment to become free.
async fn require_free_port(
    record: &Record,
    member: Member,
    address: SocketAddr,
) -> anyhow::Result<()> {
    let patience =
        if record.processes.contains_key(&member) { PORT_PATIENCE } else { Duration::ZERO };
    let deadline = clock::now() + patience;
    loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                return Err(error).with_context(|| format!("{member} cannot listen on {address}"));
            }
            Err(_) if clock::now() < deadline => tokio::time::sleep(POLL).await,
            Err(_) => return Err(port_taken(address.port(), member).into()),
        }
    }
}

fn port_taken(port: u16, member: Member) -> Failure {
    let message = format!(
        "port {port} for {member} is taken by another process: stop that, or choose another --base-port for a new data \
         folder"
    );
    Failure::new(Kind::Failed, message)
}

fn spawn(
    folder: &Folder,
    record: &Record,
    member: Member,
    logs: Logs<'_>,
) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("the path of this program")?;
    let log_path = folder.log(member);
    let naming = || format!("log {}", log_path.display());
    let output = OpenOptions::new().create(true).append(true).open(&log_path);
    let output = output.with_context(naming)?;
    let errors = output.try_clone().with_context(naming)?;
    let mut command = Command::new(program);
    command.args(arguments(folder, record, member)).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
    // What tells other commands where the cluster is must not tell its own processes.
    command.env_remove("STREAMHOUSE_CONTROLLERS").env_remove("STREAMHOUSE_LOG");
    if let Some(level) = logs.level {
        command.args(["--log", level]);
    }
    command.args(["--log-format", &logs.format.to_string()]);
    command.spawn().with_context(|| format!("starting {member}"))
}

fn arguments(folder: &Folder, record: &Record, member: Member) -> Vec<String> {
    let address = record.address(member).to_string();
    let mut arguments = match member {
        Member::Controller(number) => {
            let peers = record.controller_addresses().into_iter().zip(1..);
            let peers: Vec<String> = peers.map(|(peer, id)| format!("{id}={peer}")).collect();
            let data = folder.data(member).display().to_string();
            let node_id = number.to_string();
            ["controller", "--node-id", &node_id, "--peers", &peers.join(","), "--data", &data]
                .map(str::to_owned)
                .to_vec()
        }
        Member::Agent(_) => {
            let controllers = record.controller_addresses().join(",");
            ["agent", "--controllers", &controllers, "--store", &record.store]
                .map(str::to_owned)
                .to_vec()
        }
    };
    arguments.extend(["--listen".to_owned(), address]);
    if let Some(http) = record.http(member) {
        arguments.extend(["--http-listen".to_owned(), http.to_string()]);
    }
    arguments
}

/// The last lines of a member's log, for telling why it ended.
pub(crate) fn log_tail(folder: &Folder, member: Member) -> String {
    let text = fs::read(folder.log(member)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// What stopping came to.
#[derive(Debug, Default)]
pub(crate) struct Stopped {
    pub(crate) cleanly: Vec<Member>,
    pub(crate) killed: Vec<Member>,
}

/// Stops those of `members` that run, as [`stop`] does.
pub(crate) async fn stop_members(
    lock: &Lock,
    record: &Record,
    members: &[Member],
    children: &mut Children,
) -> Stopped {
    let mut only = record.clone();
    only.processes.retain(|member, _| members.contains(member));
    stop(lock, &only, children).await
}

/// Stops every process of the cluster that runs: agents first, then controllers.
pub(crate) async fn stop(_lock: &Lock, record: &Record, children: &mut Children) -> Stopped {
    stop_unlocked(record, children).await
}

/// As [`stop`], where the lock cannot be had because the data folder is gone.
pub(crate) async fn stop_unlocked(record: &Record, children: &mut Children) -> Stopped {
    let running: Vec<(Member, ProcessId)> = record
        .processes
        .iter()
        .filter(|(_, process)| process.is_alive())
        .map(|(member, process)| (*member, process.clone()))
        .collect();
    let (agents, controllers): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|(member, _)| matches!(member, Member::Agent(_)));
    let mut stopped = Stopped::default();
    for group in [agents, controllers] {
        stop_group(group, children, &mut stopped).await;
    }
    stopped
}

async fn stop_group(
    group: Vec<(Member, ProcessId)>,
    children: &mut Children,
    stopped: &mut Stopped,
) {
    for (_, process) in &group {
        process.signal(Signal::SIGTERM);
        // One that was stopped by SIGSTOP would not hear the first.
        process.signal(Signal::SIGCONT);
    }
    let deadline = clock::now() + STOP_PATIENCE;
    let mut left = group;
    while !left.is_empty() && clock::now() < deadline {
        tokio::time::sleep(POLL).await;
        children.reap();
        left.retain(|(member, process)| {
            let alive = process.is_alive();
            if !alive {
                stopped.cleanly.push(*member);
            }
            alive
        });
    }
    for (member, process) in left {
        process.signal(Signal::SIGKILL);
        while process.is_alive() {
            tokio::time::sleep(POLL).await;
            children.reap();
        }
        stopped.killed.push(member);
    }
}
