//! What is done to the cluster, when, and for how long: all of it drawn from the seed.

use crate::hosts::{self, CLIENTS, Shared};
use crate::store::{Bucket, Trouble};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use streamhouse_chaos::Random;
use streamhouse_host::simulated;
use turmoil::Sim;

/// Faults at once.
const MOST: usize = 2;
/// Every so many faults there is a crash.
const CRASH_EVERY: u64 = 3;
/// From one fault to the next, and how long one lasts, in milliseconds.
const PAUSE: std::ops::Range<u64> = 500..5_000;
const LASTS: std::ops::Range<u64> = 500..9_000;
/// How long an agent goes unanswered: for a commit or more. And how long it is cut off then: until its session of three
/// seconds is over, and not so long that producers have turned to another agent before it is back.
const UNANSWERED: std::ops::Range<u64> = 300..800;
const CUT_OFF: std::ops::Range<u64> = 3_300..4_500;
/// What a restart in good order may take: more than all that a process waits for as it ends.
const RESTART: Duration = Duration::from_secs(25);
const HOUR_MS: i64 = 3_600_000;
/// What a power cut may take from a controller beside its database: what it never synced.
const UNSYNCED: [&str; 1] = ["synced"];

/// All kinds of faults.
pub(crate) const KINDS: [&str; 19] = [
    "power cut",
    "power and network cut",
    "restart",
    "link cut",
    "link cut one way",
    "link held",
    "unanswered, then cut off",
    "slow disk",
    "wrong time of day",
    "latency",
    Trouble::InternalError.name(),
    Trouble::SlowDown.name(),
    Trouble::Unreachable.name(),
    Trouble::Silence.name(),
    Trouble::LostAnswer.name(),
    Trouble::Conflict.name(),
    Trouble::Truncated.name(),
    Trouble::BitFlip.name(),
    Trouble::Slow.name(),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// The power is cut; or the power and the network, so that nobody is told that connections are over.
    Crash { machines: Vec<String>, silent: bool },
    /// It is stopped in good order, and started again.
    Restart(String),
    /// Nothing comes through between these and those; or nothing from these to those.
    Cut { these: Vec<String>, those: Vec<String>, one_way: bool },
    /// What is sent between these and those is kept, and delivered in the end.
    Hold { these: Vec<String>, those: Vec<String> },
    /// What the controllers send to this agent is lost, while they hear it and do what it asks; after that it is cut off
    /// from them, and comes back to ask what became of it when its session is over.
    Unanswered(String),
    /// The disk, and other threads, are late by up to this.
    Slow(String, Duration),
    /// The clock's time of day is off.
    Skew(String, i64),
    /// Requests to the store fail.
    Store(Vec<String>, Trouble, u64),
    /// Messages take up to this.
    Latency(Duration),
}

struct Active {
    fault: Fault,
    until: Duration,
}

impl Active {
    /// Its time has come, or what ends in good order has ended.
    fn is_over(&self, sim: &mut Sim<'_>, now: Duration) -> bool {
        match &self.fault {
            Fault::Restart(machine) if !sim.is_host_running(machine.as_str()) => true,
            _ => self.until <= now,
        }
    }
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) faults: u64,
    pub(crate) crashes: u64,
    /// How often what.
    pub(crate) kinds: BTreeMap<&'static str, u64>,
    /// Who did not end when asked to.
    pub(crate) hung: Vec<String>,
}

pub(crate) struct Nemesis {
    random: Random,
    next: Duration,
    active: Vec<Active>,
    pub(crate) done: Done,
}

impl Nemesis {
    pub(crate) fn new(random: Random, begin: Duration) -> Self {
        Self { random, next: begin, active: Vec::new(), done: Done::default() }
    }

    /// Ends what is over and begins what is due.
    pub(crate) fn go_on(&mut self, sim: &mut Sim<'_>, rig: &Shared, bucket: &Bucket) {
        let now = sim.elapsed();
        while let Some(at) = self.active.iter().position(|active| active.is_over(sim, now)) {
            let over = self.active.swap_remove(at);
            if let Fault::Restart(machine) = &over.fault
                && sim.is_host_running(machine.as_str())
            {
                self.done.hung.push(format!("{machine} did not end for {RESTART:?}"));
            }
            self.end(sim, rig, bucket, &over.fault);
            if let Fault::Unanswered(agent) = over.fault {
                let (these, those) = (vec![agent], hosts::controllers());
                let cut = Fault::Cut { these, those, one_way: false };
                let lasts = self.random.within(CUT_OFF);
                self.start(sim, rig, bucket, cut, now + Duration::from_millis(lasts));
            }
        }
        if now < self.next {
            return;
        }
        self.next = now + Duration::from_millis(self.random.within(PAUSE));
        if self.active.len() >= MOST {
            return;
        }
        let fault = self.draw(rig);
        let held: BTreeSet<_> = self.active.iter().flat_map(|one| machines(&one.fault)).collect();
        if machines(&fault).iter().any(|machine| held.contains(machine)) {
            return;
        }
        self.done.faults += 1;
        *self.done.kinds.entry(kind(&fault)).or_default() += 1;
        let until = match fault {
            Fault::Restart(_) => now + RESTART,
            Fault::Unanswered(_) => now + Duration::from_millis(self.random.within(UNANSWERED)),
            _ => now + Duration::from_millis(self.random.within(LASTS)),
        };
        self.start(sim, rig, bucket, fault, until);
    }

    fn start(
        &mut self,
        sim: &mut Sim<'_>,
        rig: &Shared,
        bucket: &Bucket,
        fault: Fault,
        until: Duration,
    ) {
        tracing::info!(?fault, "begins");
        self.begin(sim, rig, bucket, &fault);
        self.active.push(Active { fault, until });
    }

    /// All is well again.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>, rig: &Shared, bucket: &Bucket) {
        for active in std::mem::take(&mut self.active) {
            self.end(sim, rig, bucket, &active.fault);
        }
    }

    fn draw(&mut self, rig: &Shared) -> Fault {
        if self.done.faults.is_multiple_of(CRASH_EVERY) {
            return self.crash(rig);
        }
        match self.random.below(14) {
            0 | 1 => self.crash(rig),
            2 => Fault::Restart(self.one(&[hosts::controllers(), hosts::agents()].concat())),
            3..=5 => self.cut(rig),
            6 => {
                let latest = Duration::from_millis(self.random.within(200..4_000));
                Fault::Slow(self.one(&hosts::controllers()), latest)
            }
            7 => {
                let by = [HOUR_MS, -HOUR_MS, 90_000, -90_000, 5_000];
                let by = self.random.choose(&by).copied().unwrap_or(HOUR_MS);
                let all = [hosts::controllers(), hosts::agents()].concat();
                let leader = Self::leader(rig).filter(|_| self.random.below(2) == 0);
                Fault::Skew(leader.unwrap_or_else(|| self.one(&all)), by)
            }
            8..=10 => {
                let trouble = self.random.choose(&Trouble::ALL).copied();
                let percent = [20, 50, 100][self.random.below(3) as usize];
                let who = match self.random.below(4) {
                    0 => hosts::agents(),
                    1 => CLIENTS.map(str::to_owned).to_vec(),
                    _ => vec![self.one(&hosts::agents())],
                };
                Fault::Store(who, trouble.unwrap_or(Trouble::Silence), percent)
            }
            11 | 12 => Fault::Unanswered(self.one(&hosts::agents())),
            _ => Fault::Latency(Duration::from_millis(self.random.within(20..400))),
        }
    }

    fn one(&mut self, of: &[String]) -> String {
        self.random.choose(of).cloned().unwrap_or_default()
    }

    fn leader(rig: &Shared) -> Option<String> {
        let rig = rig.borrow();
        let leads =
            |node: &streamhouse_controller::raft::RaftNode| node.leadership().borrow().is_leader;
        rig.nodes.iter().find(|(_, node)| leads(node)).map(|(id, _)| hosts::controller(*id))
    }

    fn crash(&mut self, rig: &Shared) -> Fault {
        let all = hosts::controllers();
        let leader = Self::leader(rig).unwrap_or_else(|| all[0].clone());
        let machines = match self.random.below(8) {
            0..=2 => vec![leader],
            3 => vec![self.one(&all)],
            4 => all,
            5 => {
                let other = self.one(&all);
                BTreeSet::from([leader, other]).into_iter().collect()
            }
            6 => vec![self.one(&hosts::agents())],
            _ => hosts::agents(),
        };
        Fault::Crash { machines, silent: self.random.below(3) == 0 }
    }

    fn cut(&mut self, rig: &Shared) -> Fault {
        let (all, agents) = (hosts::controllers(), hosts::agents());
        let clients: Vec<String> = CLIENTS.map(str::to_owned).to_vec();
        let leader = Self::leader(rig).unwrap_or_else(|| all[0].clone());
        let others = |of: &[&[String]], but: &str| -> Vec<String> {
            of.concat().into_iter().filter(|name| name != but).collect()
        };
        let (these, those) = match self.random.below(8) {
            // The leader from the other controllers only, or from everybody.
            0 => (vec![leader.clone()], others(&[&all], &leader)),
            1 => (vec![leader.clone()], others(&[&all, &agents, &clients], &leader)),
            2 => {
                let one = self.one(&all);
                (vec![one.clone()], others(&[&all, &agents], &one))
            }
            3 => (vec![self.one(&agents)], all),
            4 => (vec![self.one(&agents)], clients),
            5 => (vec![leader], [agents, clients].concat()),
            6 => (vec![leader], vec![self.one(&clients)]),
            _ => {
                let client = self.one(&clients);
                (vec![client], all)
            }
        };
        match self.random.below(6) {
            0 | 1 => Fault::Cut { these, those, one_way: true },
            2 => Fault::Hold { these, those },
            _ => Fault::Cut { these, those, one_way: false },
        }
    }

    fn begin(&mut self, sim: &mut Sim<'_>, rig: &Shared, bucket: &Bucket, fault: &Fault) {
        match fault {
            Fault::Crash { machines, silent } => {
                for machine in machines {
                    if *silent {
                        others(machine)
                            .iter()
                            .for_each(|other| sim.partition(&**machine, &**other));
                    }
                    self.cut_power(sim, rig, machine);
                }
            }
            Fault::Hold { these, those } => {
                for this in these {
                    those.iter().for_each(|that| sim.hold(this.as_str(), that.as_str()));
                }
            }
            Fault::Restart(machine) => {
                if let Some(stop) = rig.borrow().stops.get(machine) {
                    stop.cancel();
                }
            }
            Fault::Cut { these, those, one_way } => {
                for this in these {
                    for that in those {
                        match one_way {
                            true => sim.partition_oneway(this.as_str(), that.as_str()),
                            false => sim.partition(this.as_str(), that.as_str()),
                        }
                    }
                }
            }
            Fault::Unanswered(agent) => {
                for controller in hosts::controllers() {
                    sim.partition_oneway(controller, agent.as_str());
                }
            }
            Fault::Slow(machine, latest) => simulated::slow(machine, Some(*latest)),
            Fault::Skew(machine, by_ms) => simulated::skew(machine, *by_ms),
            Fault::Store(who, trouble, percent) => {
                who.iter().for_each(|host| bucket.trouble(host, *trouble, *percent));
            }
            Fault::Latency(most) => sim.set_max_message_latency(*most),
        }
    }

    fn end(&mut self, sim: &mut Sim<'_>, rig: &Shared, bucket: &Bucket, fault: &Fault) {
        tracing::info!(?fault, "is over");
        match fault {
            Fault::Crash { machines, silent } => {
                for machine in machines {
                    if *silent {
                        others(machine).iter().for_each(|other| sim.repair(&**machine, &**other));
                    }
                    sim.bounce(machine.as_str());
                }
            }
            Fault::Hold { these, those } => {
                for this in these {
                    those.iter().for_each(|that| sim.release(this.as_str(), that.as_str()));
                }
            }
            Fault::Restart(machine) => {
                if sim.is_host_running(machine.as_str()) {
                    // It had its time.
                    self.cut_power(sim, rig, machine);
                }
                sim.bounce(machine.as_str());
            }
            Fault::Cut { these, those, one_way } => {
                for this in these {
                    for that in those {
                        match one_way {
                            true => sim.repair_oneway(this.as_str(), that.as_str()),
                            false => sim.repair(this.as_str(), that.as_str()),
                        }
                    }
                }
            }
            Fault::Unanswered(agent) => {
                for controller in hosts::controllers() {
                    sim.repair_oneway(controller, agent.as_str());
                }
            }
            Fault::Slow(machine, _) => simulated::slow(machine, None),
            Fault::Skew(machine, _) => simulated::skew(machine, 0),
            Fault::Store(who, ..) => who.iter().for_each(|host| bucket.heal(host)),
            Fault::Latency(_) => sim.set_max_message_latency(crate::trial::LATENCY),
        }
    }

    fn cut_power(&mut self, sim: &mut Sim<'_>, rig: &Shared, machine: &str) {
        self.done.crashes += 1;
        {
            let mut rig = rig.borrow_mut();
            rig.nodes.retain(|id, _| hosts::controller(*id) != machine);
            rig.stops.remove(machine);
        }
        sim.crash(machine);
        let random = &mut self.random;
        rocksdb::power_cut(hosts::database(machine), |unsynced| match random.below(3) {
            0 => 0,
            1 => unsynced,
            _ => random.below(unsynced as u64 + 1) as usize,
        });
        for file in UNSYNCED {
            if random.below(2) == 0 {
                // Agents have none.
                let _ = std::fs::remove_file(Path::new(machine).join(file));
            }
        }
    }
}

/// Those that a fault is about, which nothing else is done to meanwhile; of the network all are.
fn machines(fault: &Fault) -> Vec<String> {
    match fault {
        Fault::Crash { machines, silent: true } => {
            [&machines[..], &["the network".to_owned()]].concat()
        }
        Fault::Crash { machines, .. } | Fault::Store(machines, ..) => machines.clone(),
        Fault::Restart(machine) | Fault::Slow(machine, _) | Fault::Skew(machine, _) => {
            vec![machine.clone()]
        }
        Fault::Cut { .. } | Fault::Hold { .. } | Fault::Unanswered(_) => {
            vec!["the network".to_owned()]
        }
        Fault::Latency(_) => vec!["the latency".to_owned()],
    }
}

/// All machines but this one.
fn others(machine: &str) -> Vec<String> {
    let clients = CLIENTS.map(str::to_owned);
    let all = [&hosts::controllers()[..], &hosts::agents(), &clients].concat();
    all.into_iter().filter(|other| other != machine).collect()
}

/// What a fault is counted as, one of [`KINDS`].
fn kind(fault: &Fault) -> &'static str {
    match fault {
        Fault::Crash { silent: false, .. } => "power cut",
        Fault::Crash { silent: true, .. } => "power and network cut",
        Fault::Restart(_) => "restart",
        Fault::Cut { one_way: false, .. } => "link cut",
        Fault::Cut { one_way: true, .. } => "link cut one way",
        Fault::Hold { .. } => "link held",
        Fault::Unanswered(_) => "unanswered, then cut off",
        Fault::Slow(..) => "slow disk",
        Fault::Skew(..) => "wrong time of day",
        Fault::Store(_, trouble, _) => trouble.name(),
        Fault::Latency(_) => "latency",
    }
}
