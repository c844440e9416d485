//! What the processes of a cluster on this machine have used of its CPUs, before and after.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use streamhouse_client::Admin;

use super::figures::rounded;

/// `/proc` counts CPU time in hundredths of a second on every architecture that we run on (proc(5), `USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds by process: `producer` (this one), `controller-1`, `agent-127.0.0.1:7701`.
pub(super) type CpuSeconds = BTreeMap<String, f64>;

/// The processes that can be looked at from here.
#[derive(Debug)]
pub(super) struct Processes {
    /// Names, process numbers, and what each had used at the start.
    all: Vec<(String, u32, f64)>,
}

impl Processes {
    /// This process and those of the cluster that run on this machine.
    pub(super) async fn find(admin: &Admin) -> anyhow::Result<Self> {
        let mut all = vec![("producer".to_owned(), std::process::id())];
        let controllers = admin.controllers().await?.into_iter();
        let controllers = controllers.filter(|c| is_here(&c.address, c.pid));
        all.extend(controllers.map(|c| (format!("controller-{}", c.id), c.pid)));
        let agents = admin.agents().await?.into_iter().filter(|a| is_here(&a.address, a.pid));
        all.extend(agents.map(|a| (format!("agent-{}", a.address), a.pid)));
        let used = |(name, pid)| used(pid).map(|seconds| (name, pid, seconds));
        Ok(Self { all: all.into_iter().filter_map(used).collect() })
    }

    /// What each has used since; those that ended meanwhile are left out.
    pub(super) fn since(&self) -> CpuSeconds {
        let used = self.all.iter().filter_map(|(name, pid, before)| {
            used(*pid).map(|now| (name.clone(), rounded(now - before)))
        });
        used.collect()
    }
}

/// A process at a loopback address is the one that has this number here, if it is the same program as this one.
fn is_here(address: &str, pid: u32) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    loopback && name(&pid.to_string()).is_some_and(|other| Some(other) == name("self"))
}

/// User and system time of all threads, in seconds.
fn used(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    ticks(&text).map(|ticks| ticks as f64 / TICKS_PER_SECOND)
}

/// Fields 14 and 15 of the line; the process's name in it may hold anything, so fields count from behind it.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let line = "7 (a) 1 (b) S 1 7 7 0 -1 4194304 90 0 0 0 250 31 0 0 20 0 3 0 100 1 1";
        assert_eq!(ticks(line), Some(281));
        assert_eq!(ticks("7 (cut off) S 1"), None);
    }

    #[test]
    fn only_processes_of_this_machine_are_looked_at() {
        assert!(!is_here("10.0.0.1:7601", std::process::id()));
        assert!(used(std::process::id()).is_some());
    }
}
