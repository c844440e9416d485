//! What all seeds of a run came to, and what keeps it from proving what it should.

use crate::FAULTS_LAST;
use crate::fault::{CLOCK_JUMP, KINDS};
use crate::invariants::LOOKED_AT;
use crate::late::ASKED;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a seed must have been, to count: seconds, operations that succeeded and records acknowledged among them,
/// faults and crashes among them.
const LEAST: [(&str, f64); 5] = [
    ("seconds", 60.0),
    ("operations", 1_000.0),
    ("acknowledged", 200.0),
    ("faults", 5.0),
    ("crashes", 1.0),
];
/// So many seeds must have seen every kind of fault, what it does, and what it takes.
const ALL_KINDS: u64 = 50;
/// Column families of which power cuts must have taken something.
const FAMILIES: [&str; 3] = ["log", "raft", "state"];

/// A count by name.
#[derive(Default)]
struct Tally(BTreeMap<String, (f64, u64)>);

impl Tally {
    /// Of one seed.
    fn add(&mut self, counts: &Value) {
        for (name, count) in counts.as_object().into_iter().flatten() {
            self.note(name, count.as_f64().unwrap_or(0.0));
        }
    }

    fn note(&mut self, name: &str, count: f64) {
        let (sum, seeds) = self.0.entry(name.to_owned()).or_default();
        *sum += count;
        *seeds += u64::from(count > 0.0);
    }

    fn seeds(&self, name: &str) -> u64 {
        self.0.get(name).map_or(0, |(_, seeds)| *seeds)
    }

    fn told(&self) -> String {
        let one = |(name, (sum, seeds)): (&String, &(f64, u64))| {
            format!("{name} {sum:.0} (in {seeds} seeds)")
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) done: u64,
    sums: [f64; LEAST.len()],
    least: [Option<f64>; LEAST.len()],
    kinds: Tally,
    /// What faults did: requests in trouble, wrong times of day told.
    effects: Tally,
    coincided: Tally,
    lost: Tally,
    looks: Tally,
    /// The longest, with whose seed it is.
    took: BTreeMap<&'static str, (f64, u64)>,
    pub(crate) failed: Vec<u64>,
}

impl Totals {
    pub(crate) fn add(&mut self, verdict: &Value) {
        self.done += 1;
        for (at, (name, _)) in LEAST.iter().enumerate() {
            let value = verdict[*name].as_f64().unwrap_or(0.0);
            self.sums[at] += value;
            self.least[at] = Some(self.least[at].map_or(value, |least| least.min(value)));
        }
        self.kinds.add(&verdict["kinds"]);
        self.effects.add(&verdict["struck"]);
        self.effects.note(CLOCK_JUMP, verdict["wrong_times"].as_f64().unwrap_or(0.0));
        let struck = verdict["struck"].as_object().is_some_and(|struck| !struck.is_empty());
        self.effects.note(ANY_STORE, f64::from(u8::from(struck)));
        self.coincided.note("faults", verdict["coincided"].as_f64().unwrap_or(0.0));
        self.coincided.note("crashes", verdict["crashes_coincided"].as_f64().unwrap_or(0.0));
        self.lost.add(&verdict["lost"]);
        self.looks.add(&verdict["looks"]);
        for what in ASKED {
            let took = verdict["took"][what].as_f64().unwrap_or(0.0);
            let longest = self.took.entry(what).or_default();
            if took > longest.0 {
                *longest = (took, verdict["seed"].as_u64().unwrap_or(0));
            }
        }
    }

    /// Prints them; what keeps the run from proving what it should.
    pub(crate) fn tell(&self, seconds: u64) -> Vec<String> {
        let mut short = Vec::new();
        for ((name, asked), (sum, least)) in LEAST.iter().zip(self.sums.iter().zip(self.least)) {
            let least = least.unwrap_or(0.0);
            println!("{name}: {sum:.0} in all, {least:.0} at the least");
            // Shorter runs, when they are asked for, prove less.
            if seconds >= FAULTS_LAST && least < *asked {
                short.push(format!("a seed had {least:.0} {name}, {asked:.0} are due"));
            }
        }
        println!("faults: {}", self.kinds.told());
        println!("begun while another was in place: {}", self.coincided.told());
        println!("what they did, in requests and in times of day told: {}", self.effects.told());
        println!("unsynced writes lost, by column family: {}", self.lost.told());
        println!("invariants held against something: {}", self.looks.told());
        let took = |(what, (took, seed)): (&&str, &(f64, u64))| {
            format!("{what} {took:.2} s (seed {seed})")
        };
        let took: Vec<_> = self.took.iter().map(took).collect();
        println!("longest after the last healing: {}", took.join(", "));
        let blind = LOOKED_AT.into_iter().filter(|what| self.looks.seeds(what) < self.done);
        short.extend(blind.map(|what| format!("a seed never looked at {what}")));
        if self.done >= ALL_KINDS {
            short.extend(self.too_few());
        }
        short
    }

    /// What should have happened in so many seeds.
    fn too_few(&self) -> Vec<String> {
        let never = |tally: &Tally, name: &str| tally.seeds(name) == 0;
        let most = |tally: &Tally, name: &str| 2 * tally.seeds(name) > self.done;
        let mut short = Vec::new();
        for kind in KINDS {
            let stores = kind.starts_with("store-");
            if never(&self.kinds, kind) {
                short.push(format!("no seed had a fault {kind}"));
            } else if (stores || kind == CLOCK_JUMP) && never(&self.effects, kind) {
                short.push(format!("no fault {kind} did anything"));
            }
        }
        for what in [CLOCK_JUMP, ANY_STORE].into_iter().filter(|what| !most(&self.effects, what)) {
            short.push(format!("{what} did something in {} seeds only", self.effects.seeds(what)));
        }
        if !most(&self.coincided, "crashes") {
            short.push("in most seeds no crash met another fault".to_owned());
        }
        let kept = FAMILIES.into_iter().filter(|family| never(&self.lost, family));
        short.extend(kept.map(|family| format!("no power cut took anything of {family}")));
        short
    }
}

/// Troubles of the store, whichever.
const ANY_STORE: &str = "any of the store";
