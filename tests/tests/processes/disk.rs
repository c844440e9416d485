//! Controllers whose disks lose their power, hang and fail. `STREAMHOUSE_POWER_CUTS` says how many cuts are played.
use std::collections::BTreeSet;
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_tests::{LocalCluster, Random, Tail, in_bounds, unless_paused, until};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(60);
const LOG_DISK_FAILED: i32 = 74;

pub(crate) fn cuts(default: u64) -> u64 {
    std::env::var("STREAMHOUSE_POWER_CUTS").ok().map_or(default, |text| text.parse().unwrap())
}

pub(crate) fn client(runtime: &Runtime, address: &str) -> MetadataClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.connect_timeout(Duration::from_secs(1));
    let _inside = runtime.enter();
    MetadataClient::new(endpoint.connect_lazy())
}

/// Creates topics, one after another, until the controller is killed; those that were acknowledged.
async fn write(
    mut client: MetadataClient<Channel>,
    name: String,
    requester: [u8; 16],
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 1.. {
        let name = format!("{name}-{number}");
        let request = v1::CreateTopicRequest {
            request: Some(v1::RequestId { requester: requester.to_vec(), number }),
            name: name.clone(),
            partitions: 1,
            ..v1::CreateTopicRequest::default()
        };
        if client.create_topic(request).await.is_err() {
            break;
        }
        acknowledged.push(name);
    }
    acknowledged
}

/// What `ready` returns at last, and how long that took.
#[allow(clippy::disallowed_methods, reason = "a test measures")]
fn until_since<T>(what: &str, ready: impl FnMut() -> Option<T>) -> (Duration, T) {
    let begun = std::time::Instant::now();
    let value = until(what, PATIENCE, ready);
    (begun.elapsed(), value)
}

/// The topics, as of now, and the term of the controller at `address`; asked until it answers.
fn state(runtime: &Runtime, address: &str) -> (BTreeSet<String>, u64) {
    let mut client = client(runtime, address);
    until("the controllers answer", PATIENCE, || {
        runtime.block_on(async {
            let request = v1::ListTopicsRequest { linearizable: true };
            let topics = client.list_topics(request).await.ok()?.into_inner().topics;
            let status = client.get_controller(v1::GetControllerRequest {}).await.ok()?;
            let names = topics.into_iter().map(|topic| topic.name).collect();
            Some((names, status.into_inner().term))
        })
    })
}

/// Power cuts of all controllers at once, in the midst of writes.
fn play(controllers: usize, cuts: u64, tail: Tail) {
    const WRITERS: u8 = 4;
    let runtime = Runtime::new().unwrap();
    let mut cluster = LocalCluster::start_on_disks(controllers);
    let mut random = Random::new(7);
    let (mut acknowledged, mut last_term) = (BTreeSet::new(), 0);
    for cut in 0..cuts {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let at = 1 + usize::from(writer) % controllers;
                let client = client(&runtime, &cluster.controller_address(at).to_string());
                let mut requester = [writer; 16];
                requester[..8].copy_from_slice(&cut.to_be_bytes());
                runtime.spawn(write(client, format!("t-{cut}-{writer}"), requester))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(20 + random.below(120)));
        cluster.kill_all_controllers();
        for writer in writers {
            acknowledged.extend(runtime.block_on(writer).unwrap());
        }
        for n in 1..=controllers {
            cluster.disk(n).cut(&mut random, tail).unwrap();
        }
        for n in 1..=controllers {
            cluster.start_controller(n);
        }
        let (found, term) = state(&runtime, &cluster.controller_address(1).to_string());
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(
            lost.is_empty(),
            "cut {cut}: {} of {} lost: {lost:?}",
            lost.len(),
            acknowledged.len()
        );
        // A vote that was lost would be given again, in a term that has had its leader.
        assert!(term > last_term, "cut {cut}: term {term} after {last_term}");
        last_term = term;
    }
    println!("{cuts} power cuts, {} acknowledged writes, all there", acknowledged.len());
    assert!(!acknowledged.is_empty());
}

#[test]
fn a_power_cut_loses_nothing_acknowledged_and_no_vote() {
    play(1, cuts(30), Tail::Short);
}

#[test]
fn a_power_cut_with_torn_writes_loses_nothing_acknowledged() {
    play(1, cuts(20), Tail::Torn);
}

#[test]
fn a_power_cut_everywhere_at_once_loses_nothing_acknowledged() {
    play(3, cuts(60) / 6, Tail::Short);
}

#[test]
fn a_leader_whose_disk_hangs_is_replaced_and_one_whose_disk_fails_ends() {
    unless_paused(hangs_and_fails);
}

fn hangs_and_fails() -> Result<(), String> {
    let runtime = Runtime::new().unwrap();
    let mut cluster = LocalCluster::start_on_disks(3);
    let leader = cluster.leader();
    let other = 1 + leader % 3;
    let address = cluster.controller_address(other).to_string();
    let creating = |name: &str, number| {
        let mut client = client(&runtime, &address);
        let request = v1::CreateTopicRequest {
            request: Some(v1::RequestId { requester: vec![9; 16], number }),
            name: name.to_owned(),
            partitions: 1,
            ..v1::CreateTopicRequest::default()
        };
        async move { client.create_topic(request).await.is_ok() }
    };
    let create = |name: &str, number| runtime.block_on(creating(name, number));
    assert!(create("before", 1));

    cluster.disk(leader).stall().unwrap();
    // A disk is noticed to hang by what waits for it.
    let waiting = runtime.spawn(creating("during", 2));
    // As the others know it, each by itself: what waits for the new leader to serve comes later.
    let others = (1..=3).filter(|n| *n != leader).map(|n| cluster.controller_address(n));
    let mut others: Vec<_> = others.map(|at| client(&runtime, &at.to_string())).collect();
    let (begun, replaced) = until_since("another one leads", || {
        others.iter_mut().find_map(|other| {
            let asked = other.get_controller(v1::GetControllerRequest {});
            let known = runtime.block_on(asked).ok()?.into_inner().leader_id;
            (known != 0 && known != leader as u64).then_some(known)
        })
    });
    println!("replaced by controller {replaced} after {begun:?}");
    let in_time = in_bounds(begun < Duration::from_secs(3), || format!("replaced after {begun:?}"));
    let _ = runtime.block_on(waiting);
    until("a write succeeds while the old leader's disk hangs", PATIENCE, || {
        create("during", 2).then_some(())
    });

    // It works again, and follows.
    cluster.disk(leader).mend().unwrap();
    assert!(create("after", 3));
    until("the old leader has caught up", PATIENCE, || {
        let status = cluster.try_status()?;
        let all = status["controllers"].as_array()?.clone();
        let applied: BTreeSet<u64> = all.iter().filter_map(|c| c["applied"].as_u64()).collect();
        (all.iter().all(|c| c["role"] != "unreachable") && applied.len() == 1).then_some(())
    });

    // A sync that fails is the end of its process, by name.
    cluster.disk(leader).fail().unwrap();
    until("it has ended", PATIENCE, || {
        let _ = create("more", 4);
        cluster.has_ended(leader).then_some(())
    });
    assert_eq!(cluster.controller_exit(leader), Some(LOG_DISK_FAILED));
    assert!(cluster.controller_log(leader).contains("log-disk-failed"));
    cluster.disk(leader).mend().unwrap();
    cluster.start_controller(leader);
    cluster.wait_until_whole();
    in_time
}
