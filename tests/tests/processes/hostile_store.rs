//! A store that refuses every second request for a while, or all of them, under a cluster of real processes: no
//! producer fails, every record is there once, in order and at the offset that was promised, no agent grows, and
//! afterwards everything flows.
//!
//! For some seconds by default; `make test-store` takes a minute, and prints what was seen.
use std::sync::Arc;
use std::time::Duration;

use crate::promised::{Load, Sent, assert_exactly_once};
use object_store::memory::InMemory;
use streamhouse_store::endpoint::{Endpoint, Weather};
use streamhouse_tests::{LocalCluster, Setup, Stopwatch};
use tokio::runtime::Runtime;

/// What the processes of an agent may hold: its buffer, the messages on their way to it and their decoded fields, the
/// objects being uploaded, and itself.
const CEILING_BYTES: u64 = 512 << 20;

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
    /// Sends records without end, until the weather has changed and changed back. All of them are acknowledged.
    fn through(&self, weather: Weather) -> Vec<Sent> {
        let mut load = Load::start(&self.cluster, "a", None);
        // It is at its work.
        load.flow(&self.cluster);
        self.endpoint.faults().set(weather);
        let lasts = Stopwatch::start();
        while lasts.elapsed() < seconds() {
            load.feed(100);
            // As fast as such a load comes: the buffers are to hold it.
            std::thread::sleep(Duration::from_millis(50));
        }
        let (requests, refused) = self.endpoint.faults().counts();
        self.endpoint.faults().set(Weather::Fair);
        println!("{weather:?} for {:?}: {refused} of {requests} requests refused", seconds());
        assert!(refused > 0, "the store has refused something");
        let healed = Stopwatch::start();
        load.feed(1_000);
        let sent = load.acknowledged();
        println!(
            "the last of {} records was acknowledged after {:?}",
            sent.len(),
            healed.elapsed()
        );
        sent
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
    assert_exactly_once(&stage.cluster, &[&sent]);
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
    assert_exactly_once(&stage.cluster, &[&sent]);
    stage.assert_well();
    drop(stage.cluster);
    stage.runtime.shutdown_background();
}
