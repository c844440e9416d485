//! Controllers on disks that can lose their power, which make a snapshot every moment.
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Deref;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use streamhouse_tests::{LocalCluster, Random, Tail, binary, http_get};

const FLAGS: [&str; 4] = ["--snapshot-every", "100", "--keep-logs", "10"];

/// Controllers on disks that can lose their power, started with [`FLAGS`].
pub(super) struct Controllers {
    running: BTreeMap<usize, Life>,
    cluster: LocalCluster,
}

/// From a controller's start to its end.
struct Life {
    child: Child,
    /// Where its part of the log begins.
    log: usize,
    /// The manifest of its database when it began.
    manifest: Vec<u8>,
}

impl Deref for Controllers {
    type Target = LocalCluster;

    fn deref(&self) -> &LocalCluster {
        &self.cluster
    }
}

impl Controllers {
    pub(super) fn start(count: usize, partitions: u32) -> Self {
        let mut cluster = LocalCluster::start_on_disks(count);
        cluster.run(&["topic", "create", "t", "--partitions", &partitions.to_string()]).ok();
        cluster.kill_all_controllers();
        let mut all = Self { running: BTreeMap::new(), cluster };
        (1..=count).for_each(|n| all.start_again(n));
        all
    }

    fn start_again(&mut self, n: usize) {
        let peers = 1..=self.controller_count();
        let peers = peers.map(|id| format!("{id}={}", self.controller_address(id)));
        let (begin, manifest) = (self.controller_log(n).len(), self.manifest(n));
        let log = self.folder().join(format!("controller-{n}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(binary())
            .args(["controller", "--node-id", &n.to_string()])
            .args(["--peers", &peers.collect::<Vec<_>>().join(",")])
            .args(["--listen", &self.controller_address(n).to_string()])
            .args(["--http-listen", &self.http_address(n).to_string()])
            .arg("--data")
            .arg(self.controller_data(n))
            .args(FLAGS)
            .envs(self.disk(n).environment().unwrap())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(self.process_group())
            .spawn();
        self.running.insert(n, Life { child: child.unwrap(), log: begin, manifest });
    }

    /// What controller `n`'s database names as its manifest.
    fn manifest(&self, n: usize) -> Vec<u8> {
        std::fs::read(self.controller_data(n).join("db/CURRENT")).unwrap_or_default()
    }

    /// Takes the power from these, and gives it back.
    pub(super) fn cut(&mut self, victims: &[usize], random: &mut Random, tail: Tail) {
        for n in victims {
            self.running.get_mut(n).unwrap().child.kill().unwrap();
        }
        for n in victims {
            let mut life = self.running.remove(n).unwrap();
            life.child.wait().unwrap();
            self.keep_names(*n, &life);
            self.disk(*n).cut(random, tail).unwrap();
        }
        for n in victims {
            self.start_again(*n);
        }
    }

    /// SUBTLE: a file system may lose names that it was not told to keep, but not one and keep a later one of the same
    /// folder; the disk here knows no order, and never gives an overwritten file back. So when a database that was being
    /// opened has just put a new manifest in the place of the old one, the new one's name is there as well.
    fn keep_names(&self, n: usize, life: &Life) {
        let served = self.controller_log(n)[life.log..].contains("controller listens");
        if served || self.manifest(n) == life.manifest {
            return;
        }
        let kept = Command::new("sync")
            .arg(self.controller_data(n).join("db"))
            .envs(self.disk(n).environment().unwrap())
            .status();
        assert!(kept.unwrap().success());
    }

    /// None has ended by itself.
    pub(super) fn assert_alive(&mut self) {
        for (n, life) in &mut self.running {
            let ended = life.child.try_wait().unwrap();
            assert!(ended.is_none(), "controller {n} has ended: {ended:?}");
        }
    }

    /// How many snapshots were made so far.
    pub(super) fn snapshots(&self) -> usize {
        let of = |n| self.controller_log(n).matches("snapshot built").count();
        (1..=self.controller_count()).map(of).sum()
    }

    /// How large the log of controller `n` is.
    pub(super) fn log_bytes(&self, n: usize) -> Option<u64> {
        let (_, text) = http_get(self.http_address(n), "/metrics")?;
        let name = "streamhouse_controller_log_size_bytes ";
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok())?;
        Some(value as u64)
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        for life in self.running.values_mut() {
            // One that has ended already is as dead as it will be.
            let _ = life.child.kill();
            let _ = life.child.wait();
        }
    }
}
