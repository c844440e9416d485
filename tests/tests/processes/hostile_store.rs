//! A store that refuses every second request for a while, or all of them, under a cluster of real processes: no
//! producer fails, no record is lost or doubled, no agent grows, and afterwards everything flows.
//!
//! For some seconds by default; `make test-store` takes a minute, and prints what was seen.
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use streamhouse_store::endpoint::{Endpoint, Weather};
use streamhouse_tests::{LocalCluster, Running, Setup, Stopwatch, until};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(90);
/// What the processes of an agent may hold: its buffer, the messages on their way to it and their decoded fields, the
/// objects being uploaded, and itself.
const CEILING_BYTES: u64 = 512 << 20;

/// What a producer sent.
struct Sent {
    records: u64,
    /// Sent once more after a time-out of the producer's own, which a producer that is not idempotent may not do
    /// without writing them twice.
    doubtful: u64,
}

struct Stage {
    runtime: Runtime,
    endpoint: Endpoint,
    cluster: LocalCluster,
}

fn stage() -> Stage {
    let runtime = Runtime::new().unwrap();
    let endpoint = runtime.block_on(Endpoint::start(Arc::new(InMemory::new()))).unwrap();
    let setup = Setup {
        agent_flags: &["--flush-interval", "20ms", "--buffer-bytes", "33554432"],
        store: Some(("s3://bucket/prefix".to_owned(), endpoint.options())),
        ..Setup::default()
    };
    let cluster = LocalCluster::start_as(3, 2, &setup);
    cluster.run(&["topic", "create", "t", "--partitions", "4"]).ok();
    Stage { runtime, endpoint, cluster }
}

fn seconds() -> Duration {
    let set = std::env::var("STREAMHOUSE_STORE_SECONDS").ok();
    Duration::from_secs(set.map_or(6, |seconds| seconds.parse().expect("a number of seconds")))
}

impl Stage {
    /// Sends lines without end, until the weather has changed and changed back; how many.
    fn through(&self, weather: Weather) -> Sent {
        let mut producer = self.cluster.spawn_command(&["produce", "t", "--output", "json"]);
        let mut sent = self.feed(&mut producer, 0, 1_000);
        // It is at its work.
        until("records are acknowledged", PATIENCE, || {
            (self.cluster.records("t") > 0).then_some(())
        });
        self.endpoint.faults().set(weather);
        let lasts = Stopwatch::start();
        while lasts.elapsed() < seconds() {
            sent = self.feed(&mut producer, sent, 100);
            // As fast as such a load comes: the buffers are to hold it.
            std::thread::sleep(Duration::from_millis(50));
        }
        let (requests, refused) = self.endpoint.faults().counts();
        self.endpoint.faults().set(Weather::Fair);
        println!("{weather:?} for {:?}: {refused} of {requests} requests refused", seconds());
        let healed = Stopwatch::start();
        sent = self.feed(&mut producer, sent, 1_000);
        drop(producer.child.stdin.take());
        let report = producer.finish().ok().json();
        println!("the last of {sent} records was acknowledged after {:?}", healed.elapsed());
        assert_eq!(report["failed"], 0, "{report}");
        assert_eq!(report["acknowledged"].as_u64(), Some(sent), "{report}");
        assert!(refused > 0, "the store has refused something");
        Sent { records: sent, doubtful: report["ambiguous_records"].as_u64().unwrap_or(0) }
    }

    fn feed(&self, producer: &mut Running, from: u64, count: u64) -> u64 {
        let lines: String = (from..from + count).map(|n| format!("{n}\n")).collect();
        let stdin = producer.child.stdin.as_mut().expect("its input is open");
        stdin.write_all(lines.as_bytes()).expect("the producer lives");
        from + count
    }

    fn assert_each_once(&self, sent: &Sent) {
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        for line in self.cluster.run(&["consume", "t", "--to-end"]).ok().lines() {
            *seen.entry(std::str::from_utf8(&line).unwrap().parse().unwrap()).or_default() += 1;
        }
        assert_eq!(seen.len() as u64, sent.records, "records in the log");
        let again: u64 = seen.values().map(|count| count - 1).sum();
        assert!(again <= sent.doubtful, "{again} are in the log again, {} may be", sent.doubtful);
    }

    fn assert_well(&self) {
        for n in 1..=2 {
            let peak = self.cluster.peak_agent_memory(n);
            println!("agent {n} had {} MiB at the most", peak >> 20);
            assert!(peak < CEILING_BYTES, "agent {n} had {peak} bytes");
        }
        let status = self.cluster.try_status().expect("the cluster answers");
        let agents = status["agents"].as_array().expect("a list of agents").len();
        assert_eq!(agents, 2, "no agent has gone");
    }

    /// How long it takes to write and acknowledge some records.
    fn probe(&self) -> Duration {
        let lines: String = (0..2_000).map(|n| format!("probe-{n}\n")).collect();
        let took = Stopwatch::start();
        self.cluster.run(&["topic", "create", "probe", "--partitions", "4"]);
        self.cluster.run_with_input(&["produce", "probe"], lines.as_bytes()).ok();
        took.elapsed()
    }
}

#[test]
fn a_store_that_refuses_every_second_request_fails_nobody() {
    let stage = stage();
    let before = stage.probe();
    let sent = stage.through(Weather::Throttling);
    let after = stage.probe();
    println!("2,000 records took {before:?} before and {after:?} afterwards");
    assert!(after < before * 10 + Duration::from_secs(10), "it has not recovered");
    stage.assert_each_once(&sent);
    stage.assert_well();
    drop(stage.cluster);
    stage.runtime.shutdown_background();
}

#[test]
fn an_outage_of_the_store_is_waited_out() {
    let stage = stage();
    let before = stage.probe();
    let sent = stage.through(Weather::Out);
    let after = stage.probe();
    println!("2,000 records took {before:?} before and {after:?} afterwards");
    assert!(after < before * 10 + Duration::from_secs(10), "it has not recovered");
    stage.assert_each_once(&sent);
    stage.assert_well();
    drop(stage.cluster);
    stage.runtime.shutdown_background();
}
