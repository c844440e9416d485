//! The simulated machine. All hosts of one simulation share a thread, and on it what [`begin`] set up.

pub mod net;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::{Handle, Id};

/// How late work may be that has a thread of its own.
const LATEST: Duration = Duration::from_millis(4);
/// When every simulation begins, since 1970.
const BEGIN: Duration = Duration::from_secs(1_800_000_000);

struct Machine {
    random: StdRng,
    /// How long the simulation has run, for whoever asks between the hosts' turns.
    elapsed: Duration,
    /// Which host a runtime is.
    names: HashMap<Id, String>,
    hosts: HashMap<String, Host>,
}

#[derive(Default)]
struct Host {
    /// How far its time of day is off, and how often that was told.
    skew_ms: i64,
    told: u64,
    /// How late its threads may be, if not as usual.
    latest: Option<Duration>,
}

thread_local! {
    static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

fn with<T>(ask: impl FnOnce(&mut Machine) -> T) -> T {
    MACHINE.with_borrow_mut(|machine| {
        ask(machine.as_mut().expect("a simulation has begun on this thread"))
    })
}

/// Begins a simulation on this thread.
pub fn begin(seed: u64) {
    let machine = Machine {
        random: StdRng::seed_from_u64(seed),
        elapsed: Duration::ZERO,
        names: HashMap::new(),
        hosts: HashMap::new(),
    };
    MACHINE.set(Some(machine));
}

/// Whatever runs on this runtime is the host `name`. Called first thing by whatever a host runs.
pub fn arrive(name: &str) {
    with(|machine| machine.names.insert(Handle::current().id(), name.to_owned()));
}

/// Says how long the simulation has run: of itself it tells that only to hosts, and only in their turns.
pub fn pass(elapsed: Duration) {
    with(|machine| machine.elapsed = elapsed);
}

/// How long the simulation has run, on whatever thread that is asked.
pub fn elapsed() -> Duration {
    let between = || MACHINE.with_borrow(|machine| machine.as_ref().map(|machine| machine.elapsed));
    turmoil::sim_elapsed().or_else(between).unwrap_or_default()
}

/// Sets a host's time of day off. How often it was told a wrong one until now, since it last was set.
pub fn skew(name: &str, by_ms: i64) -> u64 {
    with(|machine| {
        let host = machine.hosts.entry(name.to_owned()).or_default();
        host.skew_ms = by_ms;
        std::mem::take(&mut host.told)
    })
}

/// Lets what has a thread of its own on a host, its disk above all, be late by up to this, or by no more than usual.
pub fn slow(name: &str, latest: Option<Duration>) {
    with(|machine| machine.hosts.entry(name.to_owned()).or_default().latest = latest);
}

impl Machine {
    fn host(&mut self) -> Option<&mut Host> {
        self.hosts.get_mut(self.names.get(&Handle::try_current().ok()?.id())?)
    }

    /// How far the time of day is off for whoever asks.
    fn skew_ms(&mut self) -> i64 {
        let Some(host) = self.host() else { return 0 };
        host.told += u64::from(host.skew_ms != 0);
        host.skew_ms
    }

    fn lateness(&mut self) -> Duration {
        let latest = self.host().and_then(|host| host.latest).unwrap_or(LATEST);
        self.random.random_range(Duration::ZERO..=latest)
    }
}

pub(crate) fn wall() -> SystemTime {
    let now = UNIX_EPOCH + BEGIN + elapsed();
    let skew_ms = with(Machine::skew_ms);
    let skew = Duration::from_millis(skew_ms.unsigned_abs());
    if skew_ms < 0 { now - skew } else { now + skew }
}

#[allow(
    clippy::disallowed_methods,
    reason = "where the simulation's time begins; only differences to it are told"
)]
pub(crate) fn shared() -> Instant {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    *BEGUN.get_or_init(Instant::now) + elapsed()
}

/// What a thread of its own would do, when it comes to it.
pub(crate) async fn late<T>(work: impl FnOnce() -> T) -> T {
    lateness().await;
    work()
}

/// Waits until a thread of this host's, or its disk, comes to it.
pub(crate) async fn lateness() {
    tokio::time::sleep(with(Machine::lateness)).await;
}
