//! A cluster of real processes: any of them can be killed, stopped, continued and started again.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::MutexGuard;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use streamhouse_chaos::Disk;
use tempfile::TempDir;

use crate::binary::{self, Finished, binary, run_with};
use crate::doors::Doors;
use crate::guard::{self, Guardian};
use crate::ports::free_ports;
use crate::wait::until;

/// How long a cluster may take to get over whatever was done to it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Controllers and agents are numbered from 1.
#[derive(Debug)]
pub struct LocalCluster {
    controllers: Vec<SocketAddr>,
    agents: Vec<SocketAddr>,
    /// Where the controllers answer over HTTP.
    http: Vec<SocketAddr>,
    /// What every controller is started with besides.
    flags: Vec<String>,
    /// What every agent is started with besides.
    agent_flags: Vec<String>,
    /// The object store, if it is another than a folder of the cluster's, and what processes must know to reach it.
    store: Option<(String, Vec<(String, String)>)>,
    /// Those that joined later, and whom they asked.
    joins: BTreeMap<usize, String>,
    /// Controllers have disks that can lose their power.
    disks: bool,
    /// By whose addresses everybody knows the controllers, if not by their own.
    doors: Option<(Doors, Vec<SocketAddr>)>,
    processes: BTreeMap<(Role, usize), Child>,
    // Dropped in this order: processes first, then what they used.
    guardian: Guardian,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// What a cluster is made of, where it is not the usual.
#[derive(Clone, Debug, Default)]
pub struct Setup<'a> {
    /// Flags for every controller.
    pub controller_flags: &'a [&'a str],
    /// Flags for every agent.
    pub agent_flags: &'a [&'a str],
    /// The store's URL, and the environment with which it is reached.
    pub store: Option<(String, Vec<(String, String)>)>,
    /// Controllers are reached through [`Doors`].
    pub doors: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Controller,
    Agent,
}

impl LocalCluster {
    /// A new cluster that can take writes.
    ///
    /// # Panics
    ///
    /// If it cannot within a minute.
    pub fn start(controllers: usize, agents: usize) -> Self {
        Self::start_with(controllers, agents, false, &Setup::default())
    }

    /// The same, made otherwise.
    pub fn start_as(controllers: usize, agents: usize, setup: &Setup<'_>) -> Self {
        Self::start_with(controllers, agents, false, setup)
    }

    /// The same, with these flags for every controller.
    pub fn start_with_flags(controllers: usize, agents: usize, flags: &[&str]) -> Self {
        let setup = Setup { controller_flags: flags, ..Setup::default() };
        Self::start_with(controllers, agents, false, &setup)
    }

    /// The same without agents, each controller on a disk that can lose its power: see [`Disk`].
    pub fn start_on_disks(controllers: usize) -> Self {
        Self::start_with(controllers, 0, true, &Setup::default())
    }

    fn start_with(controllers: usize, agents: usize, disks: bool, setup: &Setup<'_>) -> Self {
        let alone = guard::one_at_a_time();
        let mut addresses: Vec<SocketAddr> = free_ports(controllers * 3 + agents)
            .into_iter()
            .map(|port| (Ipv4Addr::LOCALHOST, port).into())
            .collect();
        let agent_addresses = addresses.split_off(controllers * 3);
        let before = addresses.split_off(controllers * 2);
        let http = addresses.split_off(controllers);
        let doors = setup.doors.then(|| (Doors::open(&before, &addresses), before));
        let mut cluster = Self {
            controllers: addresses,
            agents: agent_addresses,
            http,
            flags: setup.controller_flags.iter().map(ToString::to_string).collect(),
            agent_flags: setup.agent_flags.iter().map(ToString::to_string).collect(),
            store: setup.store.clone(),
            joins: BTreeMap::new(),
            disks,
            doors,
            processes: BTreeMap::new(),
            guardian: Guardian::of_a_group(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            _alone: alone,
        };
        for n in 1..=controllers {
            cluster.start_controller(n);
        }
        for n in 1..=agents {
            cluster.start_agent(n);
        }
        cluster.wait_until_whole();
        cluster
    }

    /// Everything the cluster keeps.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder that is its object store.
    pub fn objects(&self) -> PathBuf {
        self.folder().join("objects")
    }

    /// The process group that ends with the cluster.
    pub fn process_group(&self) -> i32 {
        self.guardian.group()
    }

    /// How many controllers there are.
    pub fn controller_count(&self) -> usize {
        self.controllers.len()
    }

    /// All controllers, as `--controllers` takes them.
    pub fn controllers(&self) -> String {
        list(&self.controllers)
    }

    /// Where agent `n` listens.
    pub fn agent_address(&self, n: usize) -> SocketAddr {
        self.agents[n - 1]
    }

    /// Which agent listens there.
    pub fn agent_at(&self, address: &str) -> Option<usize> {
        let found = self.agents.iter().position(|agent| agent.to_string() == address);
        found.map(|index| index + 1)
    }

    /// Starts controller `n`, on the data it may have.
    pub fn start_controller(&mut self, n: usize) {
        let known = self.doors.as_ref().map_or(&self.controllers, |(_, doors)| doors);
        let founders = known.iter().zip(1..).filter(|(_, n)| !self.joins.contains_key(n));
        let peers = founders.map(|(address, id)| format!("{id}={address}"));
        let peers = peers.collect::<Vec<_>>().join(",");
        let data = self.folder().join(format!("controller-{n}"));
        let data = data.to_str().expect("the folder's name is text").to_owned();
        let listen = self.controllers[n - 1].to_string();
        let id = n.to_string();
        let joins = self.joins.get(&n).cloned();
        let http = self.http[n - 1].to_string();
        let mut args = vec!["controller", "--listen", &listen, "--data", &data];
        args.extend(["--http-listen", &http]);
        let flags = self.flags.clone();
        args.extend(flags.iter().map(String::as_str));
        match &joins {
            Some(seeds) => args.extend(["--join", seeds]),
            None => args.extend(["--node-id", &id, "--peers", &peers]),
        }
        self.spawn(Role::Controller, n, &args);
    }

    /// Starts one more controller, which is to join; returns its number here. (Its id is the cluster's to choose.)
    pub fn join_controller(&mut self) -> usize {
        let ports = free_ports(2);
        let seeds = self.controllers();
        self.controllers.push((Ipv4Addr::LOCALHOST, ports[0]).into());
        self.http.push((Ipv4Addr::LOCALHOST, ports[1]).into());
        let n = self.controllers.len();
        self.joins.insert(n, seeds);
        self.start_controller(n);
        n
    }

    /// What stands before the controllers.
    ///
    /// # Panics
    ///
    /// If the cluster was made without.
    pub fn doors(&self) -> &Doors {
        &self.doors.as_ref().expect("it was made with doors").0
    }

    /// The process of agent `n`.
    pub fn agent_pid(&self, n: usize) -> u32 {
        self.processes.get(&(Role::Agent, n)).expect("it was started").id()
    }

    /// Where controller `n` listens.
    pub fn controller_address(&self, n: usize) -> SocketAddr {
        self.controllers[n - 1]
    }

    /// Where controller `n` answers over HTTP.
    pub fn http_address(&self, n: usize) -> SocketAddr {
        self.http[n - 1]
    }

    /// The process of controller `n`.
    pub fn controller_pid(&self, n: usize) -> u32 {
        self.processes.get(&(Role::Controller, n)).expect("it was started").id()
    }

    /// The disk of controller `n`.
    pub fn disk(&self, n: usize) -> Disk {
        Disk::under(&self.controller_data(n))
    }

    /// Whether controller `n` has ended.
    pub fn has_ended(&mut self, n: usize) -> bool {
        let child = self.processes.get_mut(&(Role::Controller, n)).expect("it was started");
        child.try_wait().expect("it can be waited for").is_some()
    }

    /// The data folder of controller `n`.
    pub fn controller_data(&self, n: usize) -> PathBuf {
        self.folder().join(format!("controller-{n}"))
    }

    /// Waits for controller `n`, which ends by itself; its exit code.
    pub fn controller_exit(&mut self, n: usize) -> Option<i32> {
        let mut child = self.processes.remove(&(Role::Controller, n)).expect("it was started");
        until("the controller ends by itself", PATIENCE, || {
            child.try_wait().expect("it can be waited for").map(|status| status.code())
        })
    }

    /// What controller `n` has logged so far.
    pub fn controller_log(&self, n: usize) -> String {
        let path = self.folder().join(format!("controller-{n}.log"));
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Stops controller `n` as an operator would.
    pub fn stop_controller(&mut self, n: usize) {
        self.signal(Role::Controller, n, Signal::SIGTERM);
        assert_eq!(self.controller_exit(n), Some(0), "a controller that is stopped exits with 0");
    }

    /// Starts agent `n`.
    pub fn start_agent(&mut self, n: usize) {
        let folder = || format!("file://{}", self.objects().display());
        let store = self.store.as_ref().map_or_else(folder, |(url, _)| url.clone());
        let listen = self.agents[n - 1].to_string();
        let controllers = match &self.doors {
            Some((_, doors)) => list(doors),
            None => self.controllers(),
        };
        let mut args =
            vec!["agent", "--controllers", &controllers, "--listen", &listen, "--store", &store];
        let flags = self.agent_flags.clone();
        args.extend(flags.iter().map(String::as_str));
        self.spawn(Role::Agent, n, &args);
    }

    fn spawn(&mut self, role: Role, n: usize, args: &[&str]) {
        let path = self.folder().join(format!("{role:?}-{n}.log").to_lowercase());
        let log = File::options().create(true).append(true).open(path).expect("a log file");
        let environment = match role {
            Role::Controller if self.disks => {
                self.disk(n).environment().expect("a C compiler is there")
            }
            Role::Controller | Role::Agent => Vec::new(),
        };
        let child = Command::new(binary())
            .args(args)
            .envs(environment)
            .envs(self.store_environment())
            .env_remove("STREAMHOUSE_CONTROLLERS")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .process_group(self.guardian.group())
            .spawn()
            .expect("the binary starts");
        self.processes.insert((role, n), child);
    }

    /// How the store is reached.
    fn store_environment(&self) -> impl Iterator<Item = (String, String)> {
        self.store.iter().flat_map(|(_, environment)| environment.clone())
    }

    /// What agent `n` has logged so far.
    pub fn agent_log(&self, n: usize) -> String {
        let path = self.folder().join(format!("agent-{n}.log"));
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// The most memory that controller `n` has had resident, in bytes.
    pub fn peak_memory(&self, n: usize) -> u64 {
        self.peak_memory_of(Role::Controller, n)
    }

    /// The most memory that agent `n` has had resident, in bytes.
    pub fn peak_agent_memory(&self, n: usize) -> u64 {
        self.peak_memory_of(Role::Agent, n)
    }

    fn peak_memory_of(&self, role: Role, n: usize) -> u64 {
        let pid = self.processes[&(role, n)].id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.expect("the kernel tells in KiB") << 10
    }

    /// `kill -9` for controller `n`.
    pub fn kill_controller(&mut self, n: usize) {
        self.kill(Role::Controller, n);
    }

    /// `kill -9` for agent `n`.
    pub fn kill_agent(&mut self, n: usize) {
        self.kill(Role::Agent, n);
    }

    /// `kill -9` for all controllers, as close to at once as signals go.
    pub fn kill_all_controllers(&mut self) {
        for n in 1..=self.controllers.len() {
            self.signal(Role::Controller, n, Signal::SIGKILL);
        }
        for n in 1..=self.controllers.len() {
            self.kill(Role::Controller, n);
        }
    }

    /// SIGSTOP: controller `n` does nothing until [`continue_controller_process`](Self::continue_controller_process).
    pub fn stop_controller_process(&self, n: usize) {
        self.signal(Role::Controller, n, Signal::SIGSTOP);
    }

    /// SIGCONT: controller `n` goes on as if nothing had been.
    pub fn continue_controller_process(&self, n: usize) {
        self.signal(Role::Controller, n, Signal::SIGCONT);
    }

    /// SIGSTOP: agent `n` does nothing until [`continue_agent`](Self::continue_agent).
    pub fn stop_agent(&self, n: usize) {
        self.signal(Role::Agent, n, Signal::SIGSTOP);
    }

    /// SIGCONT: agent `n` goes on as if nothing had been.
    pub fn continue_agent(&self, n: usize) {
        self.signal(Role::Agent, n, Signal::SIGCONT);
    }

    fn signal(&self, role: Role, n: usize, signal: Signal) {
        let child = self.processes.get(&(role, n)).expect("the process was started");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("the process is there");
    }

    fn kill(&mut self, role: Role, n: usize) {
        let mut child = self.processes.remove(&(role, n)).expect("the process was started");
        child.kill().expect("the process is there");
        child.wait().expect("it ends");
    }

    /// Runs a command of this cluster to its end.
    pub fn run(&self, args: &[&str]) -> Finished {
        self.run_with_input(args, b"")
    }

    /// Runs a command of this cluster with that input.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Finished {
        let mut environment: Vec<_> = self.store_environment().collect();
        environment.push(("STREAMHOUSE_CONTROLLERS".to_owned(), self.controllers()));
        let environment = environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        run_with(args, &environment.collect::<Vec<_>>(), input)
    }

    /// Starts a command of this cluster, with pipes for its input, output and errors.
    pub fn spawn_command(&self, args: &[&str]) -> Running {
        let child = Command::new(binary())
            .args(args)
            .envs(self.store_environment())
            .env("STREAMHOUSE_CONTROLLERS", self.controllers())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(self.guardian.group())
            .spawn()
            .expect("the binary starts");
        Running { args: args.iter().map(ToString::to_string).collect(), child }
    }

    /// What `status` says, if it says anything.
    pub fn try_status(&self) -> Option<Value> {
        let status = self.run(&["status", "--output", "json"]);
        // Without a leader it fails, and tells what it can.
        (status.code == Some(0) || !status.stdout.is_empty()).then(|| status.json())
    }

    /// What `topic describe` says about every partition.
    pub fn partitions(&self, topic: &str) -> Vec<Value> {
        let description = self.run(&["topic", "describe", topic, "--output", "json"]).ok().json();
        description["partitions"].as_array().expect("a list of partitions").clone()
    }

    /// How many records a topic holds.
    pub fn records(&self, topic: &str) -> u64 {
        let partitions = self.partitions(topic);
        partitions.iter().filter_map(|partition| partition["high_watermark"].as_u64()).sum()
    }

    /// The controller that leads.
    ///
    /// # Panics
    ///
    /// If none does for a minute.
    pub fn leader(&self) -> usize {
        until("a controller leads", PATIENCE, || {
            let status = self.try_status()?;
            status["leader"].as_u64().map(|id| id as usize)
        })
    }

    /// Waits until all processes that were started are at their work.
    ///
    /// # Panics
    ///
    /// If they are not within a minute.
    pub fn wait_until_whole(&self) {
        until("every process serves", PATIENCE, || {
            let status = self.try_status()?;
            let serving = |what: &str, role: Role| {
                let pids = pids(&status[what]);
                let started = self.processes.iter().filter(|((r, _), _)| *r == role);
                started.into_iter().all(|(_, child)| pids.contains(&child.id().into()))
            };
            let whole = status["leader"].is_u64()
                && serving("controllers", Role::Controller)
                && serving("agents", Role::Agent);
            whole.then_some(())
        });
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn pids(list: &Value) -> Vec<u64> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|process| process["pid"].as_u64()).collect()
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            // A process that has ended already is as dead as it will be.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}

impl LocalCluster {
    /// The ends of all logs, for whoever has to find out what went wrong.
    fn print_logs(&self) {
        const LINES: usize = 40;
        let files = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        for path in
            files.map(|file| file.path()).filter(|p| p.extension().is_some_and(|e| e == "log"))
        {
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LINES)..];
            eprintln!("--- {}\n{}", path.display(), tail.join("\n"));
        }
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    args: Vec<String>,
    /// Its process.
    pub child: Child,
}

impl Running {
    /// Waits for its end; its input must have been closed or taken.
    pub fn finish(self) -> Finished {
        let output = self.child.wait_with_output().expect("the binary ends");
        binary::Finished::of(&self.args, output)
    }
}
