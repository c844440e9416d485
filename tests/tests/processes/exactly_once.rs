//! DEDUP, seen from outside: whatever dies between a record and its acknowledgement, the record is in the log once, in
//! order, at the offset that was promised, and nothing is left in doubt.
//!
//! Every test has an idempotent producer, as they are by default, send numbered records while the cluster suffers, and
//! then reads everything back.
use crate::promised::{Load, PATIENCE, STEP, assert_exactly_once, holder, moved};
use streamhouse_client::producer::ProduceError;
use streamhouse_tests::{LocalCluster, Setup, until};

/// A cluster of three controllers and two agents, and a topic.
fn cluster(partitions: &str) -> LocalCluster {
    cluster_as(partitions, &Setup::default())
}

fn cluster_as(partitions: &str, setup: &Setup<'_>) -> LocalCluster {
    let cluster = LocalCluster::start_as(3, 2, setup);
    cluster.run(&["topic", "create", "t", "--partitions", partitions]).ok();
    cluster
}

/// With doors, and the agents' own words of what they are answered.
fn cluster_with_doors() -> LocalCluster {
    let log = "info,streamhouse_agent=debug";
    cluster_as("1", &Setup { doors: true, agent_flags: &["--log", log], ..Setup::default() })
}

/// Lets the cluster commit what its agent is not told of: from here on it hears no controller.
fn commit_unheard(cluster: &LocalCluster, load: &mut Load) {
    let agent = cluster.agent_pid(holder(cluster));
    // Nothing is on its way.
    load.feed(1);
    until("all is committed", PATIENCE, || {
        (cluster.records("t") as usize == load.fed()).then_some(())
    });
    let before = cluster.records("t");
    cluster.doors().deafen(agent);
    load.feed(STEP);
    until("the commit is applied", PATIENCE, || (cluster.records("t") > before).then_some(()));
}

#[test]
fn a_commit_that_was_applied_and_whose_answer_is_lost() {
    let cluster = cluster_with_doors();
    let mut load = Load::start(&cluster, "a", None);
    load.flow(&cluster);
    for _ in 0..3 {
        commit_unheard(&cluster, &mut load);
        cluster.doors().cut();
        load.flow(&cluster);
    }
    assert_exactly_once(&cluster, &[&load.acknowledged()]);
}

#[test]
fn a_leader_killed_between_apply_and_its_answer() {
    let mut cluster = cluster_with_doors();
    let mut load = Load::start(&cluster, "a", None);
    load.flow(&cluster);
    for _ in 0..2 {
        let leader = cluster.leader();
        commit_unheard(&cluster, &mut load);
        // What it had to say is lost with it.
        cluster.kill_controller(leader);
        cluster.doors().cut();
        load.flow(&cluster);
        cluster.start_controller(leader);
        cluster.wait_until_whole();
    }
    assert_exactly_once(&cluster, &[&load.acknowledged()]);
}

#[test]
fn leaders_killed_in_a_flood_of_commits() {
    let mut cluster = cluster("2");
    let mut load = Load::start(&cluster, "a", None);
    for _ in 0..4 {
        load.flow(&cluster);
        let leader = cluster.leader();
        load.feed(STEP);
        cluster.kill_controller(leader);
        load.feed(STEP);
        until("another one leads", PATIENCE, || {
            let leads = cluster.try_status()?["leader"].as_u64()?;
            (leads != leader as u64).then_some(())
        });
        cluster.start_controller(leader);
        cluster.wait_until_whole();
    }
    assert_exactly_once(&cluster, &[&load.acknowledged()]);
}

#[test]
fn an_agent_that_never_tells_what_it_committed() {
    let mut cluster = cluster("1");
    let mut load = Load::start(&cluster, "a", None);
    for _ in 0..3 {
        load.flow(&cluster);
        let doomed = holder(&cluster);
        // Stopped in the flood, it has commits that were applied and acknowledgements that were not sent.
        load.feed(STEP);
        cluster.stop_agent(doomed);
        moved(&cluster, doomed);
        cluster.kill_agent(doomed);
        load.flow(&cluster);
        cluster.start_agent(doomed);
        cluster.wait_until_whole();
    }
    assert_exactly_once(&cluster, &[&load.acknowledged()]);
}

#[test]
fn an_agent_killed_when_its_commit_was_applied_and_it_does_not_know() {
    let mut cluster = cluster_with_doors();
    let mut load = Load::start(&cluster, "a", None);
    load.flow(&cluster);
    let doomed = holder(&cluster);
    commit_unheard(&cluster, &mut load);
    cluster.kill_agent(doomed);
    cluster.doors().cut();
    moved(&cluster, doomed);
    // The producer sends it all again, to another agent.
    load.flow(&cluster);
    assert_exactly_once(&cluster, &[&load.acknowledged()]);
}

#[test]
fn an_agent_whose_session_ended_meanwhile_goes_on_with_old_batches() {
    let cluster = cluster("1");
    let mut load = Load::start(&cluster, "a", None);
    for _ in 0..3 {
        load.flow(&cluster);
        let stopped = holder(&cluster);
        load.feed(STEP);
        cluster.stop_agent(stopped);
        moved(&cluster, stopped);
        load.flow(&cluster);
        // Its uploads land late, and its commits come from a session that is no more.
        cluster.continue_agent(stopped);
        load.flow(&cluster);
    }
    assert_exactly_once(&cluster, &[&load.acknowledged()]);
}

#[test]
fn a_producer_that_takes_over_a_name_fences_the_one_before_with_its_batches_on_their_way() {
    let cluster = cluster("1");
    let mut first = Load::start(&cluster, "first", Some("loader"));
    first.flow(&cluster);
    let stopped = holder(&cluster);
    cluster.stop_agent(stopped);
    // On their way to an agent that does nothing.
    first.feed(STEP);
    let mut second = Load::start(&cluster, "second", Some("loader"));
    // However long that took, and whoever has taken the first's batches meanwhile: these come too late.
    first.feed(STEP);
    moved(&cluster, stopped);
    second.flow(&cluster);
    // What the first has in the agent that was stopped comes too late, and it may send nothing more.
    first.feed(STEP);
    cluster.continue_agent(stopped);
    let (old, new) = (first.end(), second.acknowledged());
    let fenced = |error: &ProduceError| matches!(error, ProduceError::Fenced { .. });
    let fenced = old.iter().filter(|sent| sent.result.as_ref().is_err_and(fenced)).count();
    assert!(fenced > 0, "the first is told");
    assert_exactly_once(&cluster, &[&old, &new]);
}
