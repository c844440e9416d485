//! What is done to the cluster, when, and for how long: all of it drawn from the seed.

use crate::fault::Fault;
use crate::hosts::{self, CLIENTS, Shared};
use crate::links::Links;
use crate::store::{Bucket, Trouble};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use streamhouse_chaos::{Operation, Random};
use streamhouse_host::simulated;
use turmoil::Sim;

/// Faults at once, of which the seed chooses.
const MOST: [usize; 4] = [1, 2, 2, 3];
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

/// What is drawn, before it is decided on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Draw {
    Crash,
    Restart,
    Cut,
    Slow,
    Skew,
    Store,
    Unanswered,
    Latency,
}

/// Of this every seed has some, in an order of its own, as far as its time goes.
const DUE: [Draw; 6] =
    [Draw::Skew, Draw::Skew, Draw::Store, Draw::Store, Draw::Cut, Draw::Unanswered];
/// What comes after it, as often as it stands here.
const THEN: [Draw; 14] = [
    Draw::Crash,
    Draw::Crash,
    Draw::Restart,
    Draw::Cut,
    Draw::Cut,
    Draw::Cut,
    Draw::Slow,
    Draw::Skew,
    Draw::Store,
    Draw::Store,
    Draw::Store,
    Draw::Unanswered,
    Draw::Unanswered,
    Draw::Latency,
];

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
    /// Faults, and crashes among them, that began while another one was in place.
    pub(crate) coincided: u64,
    pub(crate) crashes_coincided: u64,
    /// How often what.
    pub(crate) kinds: BTreeMap<&'static str, u64>,
    /// How often somebody was told a wrong time of day.
    pub(crate) wrong_times: u64,
    /// Writes that power cuts took, by the column families that they had changed.
    pub(crate) lost: BTreeMap<String, u64>,
    /// Who did not end when asked to.
    pub(crate) unended: Vec<String>,
}

pub(crate) struct Nemesis {
    random: Random,
    next: Duration,
    most: usize,
    due: Vec<Draw>,
    active: Vec<Active>,
    links: Links,
    pub(crate) done: Done,
}

impl Nemesis {
    pub(crate) fn new(mut random: Random, begin: Duration) -> Self {
        let most = random.choose(&MOST).copied().unwrap_or(1);
        let mut due = DUE.to_vec();
        random.shuffle(&mut due);
        let (active, links, done) = (Vec::new(), Links::default(), Done::default());
        Self { random, next: begin, most, due, active, links, done }
    }

    /// Ends what is over and begins what is due.
    pub(crate) fn go_on(&mut self, sim: &mut Sim<'_>, rig: &Shared, bucket: &Bucket) {
        let now = sim.elapsed();
        while let Some(at) = self.active.iter().position(|active| active.is_over(sim, now)) {
            let over = self.active.swap_remove(at);
            if let Fault::Restart(machine) = &over.fault
                && sim.is_host_running(machine.as_str())
            {
                self.done.unended.push(format!("{machine} did not end for {RESTART:?}"));
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
        if self.active.len() >= self.most {
            return;
        }
        let draw = self.draw();
        let fault = self.fault(draw, rig);
        if self.active.iter().any(|one| one.fault.excludes(&fault)) {
            return;
        }
        if self.due.last() == Some(&draw) {
            self.due.pop();
        }
        let done = &mut self.done;
        done.faults += 1;
        done.coincided += u64::from(!self.active.is_empty());
        done.crashes_coincided += u64::from(!self.active.is_empty() && fault.is_crash());
        *done.kinds.entry(fault.kind()).or_default() += 1;
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
        let (name, detail) = (fault.kind().to_owned(), fault.detail());
        bucket.note(Operation::Fault { fault: name, detail });
        self.begin(sim, rig, bucket, &fault);
        self.active.push(Active { fault, until });
    }

    /// All is well again.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>, rig: &Shared, bucket: &Bucket) {
        for active in std::mem::take(&mut self.active) {
            self.end(sim, rig, bucket, &active.fault);
        }
    }

    /// The first that meets another one is a crash, so that every seed that has faults at once has such a one.
    fn draw(&mut self) -> Draw {
        let meets = !self.active.is_empty() && self.done.crashes_coincided == 0;
        if meets || self.done.faults.is_multiple_of(CRASH_EVERY) {
            return Draw::Crash;
        }
        let then = self.random.choose(&THEN).copied();
        self.due.last().copied().or(then).unwrap_or(Draw::Crash)
    }

    fn fault(&mut self, draw: Draw, rig: &Shared) -> Fault {
        match draw {
            Draw::Crash => self.crash(rig),
            Draw::Restart => {
                Fault::Restart(self.one(&[hosts::controllers(), hosts::agents()].concat()))
            }
            Draw::Cut => self.cut(rig),
            Draw::Slow => {
                let latest = Duration::from_millis(self.random.within(200..4_000));
                Fault::Slow(self.one(&hosts::controllers()), latest)
            }
            Draw::Skew => {
                let by = [HOUR_MS, -HOUR_MS, 90_000, -90_000, 5_000];
                let by = self.random.choose(&by).copied().unwrap_or(HOUR_MS);
                let all = [hosts::controllers(), hosts::agents()].concat();
                let leader = Self::leader(rig).filter(|_| self.random.below(2) == 0);
                Fault::Skew(leader.unwrap_or_else(|| self.one(&all)), by)
            }
            Draw::Store => self.store(),
            Draw::Unanswered => Fault::Unanswered(self.one(&hosts::agents())),
            Draw::Latency => Fault::Latency(Duration::from_millis(self.random.within(20..400))),
        }
    }

    fn store(&mut self) -> Fault {
        let trouble = self.random.choose(&Trouble::ALL).copied().unwrap_or(Trouble::Silence);
        let percent = [20, 50, 100][self.random.below(3) as usize];
        let who = match self.random.below(4) {
            // Only clients read.
            _ if matches!(trouble, Trouble::Truncated | Trouble::BitFlip) => CLIENTS.to_vec(),
            0 => return Fault::Store(hosts::agents(), trouble, percent),
            // Clients write nothing.
            1 if trouble != Trouble::Conflict => CLIENTS.to_vec(),
            _ => return Fault::Store(vec![self.one(&hosts::agents())], trouble, percent),
        };
        Fault::Store(who.into_iter().map(str::to_owned).collect(), trouble, percent)
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
        let (these, those) = match self.random.below(9) {
            // The leader from the other controllers only, so that clients still ask it, or from everybody.
            0 | 8 => (vec![leader.clone()], others(&[&all], &leader)),
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
        // Before anything ends, so that nobody is told.
        self.links.cut(sim, fault.cuts());
        match fault {
            Fault::Crash { machines, .. } => {
                for machine in machines {
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
            Fault::Cut { .. } | Fault::Unanswered(_) => {}
            Fault::Slow(machine, latest) => simulated::slow(machine, Some(*latest)),
            Fault::Skew(machine, by_ms) => {
                simulated::skew(machine, *by_ms);
            }
            Fault::Store(who, trouble, percent) => {
                who.iter().for_each(|host| bucket.trouble(host, *trouble, *percent));
            }
            Fault::Latency(most) => sim.set_max_message_latency(*most),
        }
    }

    fn end(&mut self, sim: &mut Sim<'_>, rig: &Shared, bucket: &Bucket, fault: &Fault) {
        tracing::info!(?fault, "is over");
        self.links.mend(sim, fault.cuts());
        match fault {
            Fault::Crash { machines, .. } => {
                machines.iter().for_each(|machine| sim.bounce(machine.as_str()));
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
            Fault::Cut { .. } | Fault::Unanswered(_) => {}
            Fault::Slow(machine, _) => simulated::slow(machine, None),
            Fault::Skew(machine, _) => self.done.wrong_times += simulated::skew(machine, 0),
            Fault::Store(who, ..) => who.iter().for_each(|host| bucket.heal(host)),
            Fault::Latency(_) => sim.set_max_message_latency(crate::trial::LATENCY),
        }
        let (name, detail) = (fault.kind().to_owned(), fault.detail());
        bucket.note(Operation::Heal { fault: name, detail });
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
        let keep = |unsynced| match random.below(3) {
            0 => 0,
            1 => unsynced,
            _ => random.below(unsynced as u64 + 1) as usize,
        };
        let lost = rocksdb::power_cut(hosts::database(machine), keep);
        tracing::info!(machine, ?lost, "has no power");
        for (family, writes) in lost {
            *self.done.lost.entry(family).or_default() += writes;
        }
        for file in UNSYNCED {
            if random.below(2) == 0 {
                // Agents have none.
                let _ = std::fs::remove_file(Path::new(machine).join(file));
            }
        }
    }
}
