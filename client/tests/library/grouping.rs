//! A member of a consumer group, against a coordinator that says what the test wants.
use std::time::Duration;

use crate::world::member::Setting;
use crate::world::reading::{SOON, cluster, offsets, read};
use crate::world::until;
use streamhouse_client::consumer::{ConsumeError, ConsumerBuilder};
use streamhouse_client::{Consumer, TopicPartition};

/// After so long without a confirmed sign of life a [`short_lived`] member holds nothing any more.
const SESSION_TIMEOUT: Duration = Duration::from_millis(600);

fn short_lived(builder: ConsumerBuilder) -> ConsumerBuilder {
    builder.topics(["orders"]).session_timeout(SESSION_TIMEOUT)
}

#[tokio::test]
async fn what_is_asked_for_is_revoked_committed_and_only_then_released() {
    let mut setting = Setting::new(2).await;
    assert_eq!(setting.asked(), ["join", "assigned 0 1"]);
    setting.send(1).await;
    setting.read_to(1, 1).await;
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false), (1, 1, true)]));
    setting.poll_until("release 1@1").await;
    let expected = ["join", "assigned 0 1", "revoked 1", "commit 1", "release 1@1"];
    assert_eq!(setting.asked()[..5], expected);
    assert_eq!(setting.consumer.assignment(), [TopicPartition::new("orders", 0)]);
    let commit = setting.world.state.lock().commits[0].clone();
    // As the member that it is, of the epoch that it has heard of.
    assert_eq!((commit.member_id.len(), commit.member_epoch), (16, 1));
    // It goes on reading what stays.
    setting.send(0).await;
    setting.read_to(0, 1).await;
    setting.consumer.close().await.unwrap();
    let asked = setting.world.state.lock().groups.asked.clone();
    assert_eq!(asked[5..], ["revoked 0", "commit 0", "leave"]);
}

#[tokio::test]
async fn what_stays_is_read_on_while_what_goes_is_committed() {
    let mut setting = Setting::new(2).await;
    setting.send(1).await;
    setting.read_to(1, 1).await;
    setting.world.commits_held.send_replace(true);
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false), (1, 1, true)]));
    setting.poll_until("revoked 1").await;
    setting.send(1).await;
    setting.send(0).await;
    setting.read_to(0, 1).await;
    // Of what goes nothing is handed out any more, and it is not given up before its commit was answered.
    assert_eq!(setting.consumer.position("orders", 1), Some(1));
    assert_eq!(setting.asked(), ["join", "assigned 0 1", "revoked 1"]);
    setting.world.commits_held.send_replace(false);
    setting.poll_until("release 1@1").await;
    assert_eq!(setting.asked()[3..], ["commit 1", "release 1@1"]);
}

#[tokio::test]
async fn what_goes_is_gone_within_the_poll_that_its_commit_is_answered_in() {
    let options = |builder: ConsumerBuilder| builder.topics(["orders"]).max_poll_records(1);
    let mut setting = Setting::with(2, options).await;
    setting.send(1).await;
    setting.read_to(1, 1).await;
    for _ in 0..500 {
        setting.send(0).await;
    }
    setting.read_to(0, 1).await;
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false), (1, 1, true)]));
    // Each of these returns a record of what stays.
    let records = setting.poll_until("revoked 1").await;
    assert!(records > 0 && setting.consumer.position("orders", 0) < Some(500));
    until("it is released", || setting.asked().iter().any(|asked| asked == "release 1@1")).await;
}

#[tokio::test]
async fn of_a_deleted_topic_a_member_hears_that_it_is_lost_whoever_tells_first() {
    let mut setting = Setting::new(1).await;
    let agent = setting.world.state.lock().topics["orders"].1[0].agent.clone();
    setting.world.add_topic("gone", 1, &agent);
    setting.consumer.subscribe(["orders", "gone"]).await.unwrap();
    setting.poll_while(|setting| setting.consumer.assignment().len() < 2).await;
    setting.order(|groups| groups.mute = true);
    setting.world.state.lock().topics.remove("gone");
    setting.world.announce();
    // Those who know of segments tell first.
    for position in 1..=5 {
        setting.send(0).await;
        setting.read_to(0, position).await;
    }
    setting.order(|groups| groups.mute = false);
    setting.poll_until("lost 0").await;
    assert_eq!(setting.consumer.assignment(), [TopicPartition::new("orders", 0)]);
}

#[tokio::test]
async fn what_stays_is_read_on_while_what_comes_waits_for_commits() {
    let options = |builder: ConsumerBuilder| builder.topics(["orders"]).auto_commit(false);
    let mut setting = Setting::with(2, options).await;
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false)]));
    setting.poll_until("lost 1").await;
    setting.world.commits_held.send_replace(true);
    let first = setting.consumer.commit_async().unwrap();
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false), (1, 2, false)]));
    // It comes within the first of these. Polls that nobody waits for to the end leave nothing behind them.
    for _ in 0..100 {
        let poll = setting.consumer.poll(SOON);
        assert!(tokio::time::timeout(Duration::from_millis(5), poll).await.is_err());
    }
    let second = setting.consumer.commit_async().unwrap();
    setting.send(0).await;
    setting.read_to(0, 1).await;
    assert_eq!(setting.asked(), ["join", "assigned 0 1", "lost 1"]);
    setting.world.commits_held.send_replace(false);
    setting.poll_until("assigned 1").await;
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test]
async fn what_comes_again_begins_behind_a_commit_that_was_under_way() {
    let options = |builder: ConsumerBuilder| builder.topics(["orders"]).auto_commit(false);
    let mut setting = Setting::with(2, options).await;
    setting.send(1).await;
    setting.read_to(1, 1).await;
    setting.world.commits_held.send_replace(true);
    let commit = setting.consumer.commit_async().unwrap();
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false)]));
    setting.poll_until("lost 1").await;
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false), (1, 2, false)]));
    setting.poll_answers(3).await;
    assert_eq!(setting.asked(), ["join", "assigned 0 1", "lost 1"]);
    setting.world.commits_held.send_replace(false);
    setting.poll_until("assigned 1").await;
    commit.await.unwrap();
    assert_eq!(setting.consumer.position("orders", 1), Some(1));
}

#[tokio::test]
async fn a_member_whose_leaving_nobody_waits_for_commits_as_nobody_afterwards() {
    let options = |builder: ConsumerBuilder| builder.topics(["orders"]).auto_commit(false);
    let mut setting = Setting::with(1, options).await;
    let member = setting.member();
    setting.world.commits_held.send_replace(true);
    let first = setting.consumer.commit_async().unwrap();
    let leaving = tokio::time::timeout(Duration::from_millis(100), setting.consumer.unsubscribe());
    assert!(leaving.await.is_err());
    setting.consumer.assign([("orders", 0)]).await.unwrap();
    let second = setting.consumer.commit_async().unwrap();
    setting.world.commits_held.send_replace(false);
    first.await.unwrap();
    second.await.unwrap();
    let commits = setting.world.state.lock().commits.clone();
    let by: Vec<_> = commits.iter().map(|commit| &commit.member_id[..]).collect();
    assert_eq!(by, [&member[..], &[]]);
}

#[tokio::test]
async fn a_subscription_whose_first_assignment_nobody_waited_for_is_followed_by_poll() {
    let mut setting = Setting::with(1, |builder| builder).await;
    // The coordinator still computes: nothing is complete.
    setting.order(|groups| groups.assigning = true);
    let subscribe = setting.consumer.subscribe(["orders"]);
    assert!(tokio::time::timeout(Duration::from_millis(200), subscribe).await.is_err());
    setting.order(|groups| groups.assigning = false);
    setting.send(0).await;
    setting.read_to(0, 1).await;
}

#[tokio::test]
async fn what_is_being_released_is_not_read_again_before_that_is_answered() {
    let options = |builder: ConsumerBuilder| builder.topics(["orders"]).auto_commit(false);
    let mut setting = Setting::with(2, options).await;
    setting.world.releases_held.send_replace(true);
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false), (1, 1, true)]));
    setting.poll_until("release 1@1").await;
    // It may stay after all: but who can tell what comes of the release?
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false), (1, 1, false)]));
    setting.poll_answers(5).await;
    assert_eq!(setting.asked(), ["join", "assigned 0 1", "revoked 1", "release 1@1"]);
    // Nothing did.
    setting.world.releases_held.send_replace(false);
    setting.poll_until("assigned 1").await;
    assert_eq!(setting.asked()[4..], ["assigned 1"]);
    // And once more, with effect.
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false), (1, 1, true)]));
    setting.poll_while(|setting| setting.asked().len() < 7).await;
    setting.poll_answers(5).await;
    assert_eq!(setting.asked()[5..], ["revoked 1", "release 1@1"]);
}

#[tokio::test]
async fn an_answer_of_the_past_takes_nothing_and_gives_nothing() {
    // Nor is what it confirms heard: the session timeout is long enough for that.
    let mut setting = Setting::new(2).await;
    setting.world.state.lock().applied += 10;
    setting.order(|groups| groups.grants = Some(vec![(0, 1, false)]));
    setting.poll_until("lost 1").await;
    // From another stream to the same leader, say, on which this was said earlier.
    for grants in [vec![(0, 1, false), (1, 1, false)], vec![]] {
        setting.order(|groups| (groups.grants, groups.behind) = (Some(grants), 5));
        setting.poll_answers(5).await;
        assert_eq!(setting.asked(), ["join", "assigned 0 1", "lost 1"]);
    }
    setting.order(|groups| groups.behind = 0);
    setting.poll_until("lost 0").await;
}

#[tokio::test]
async fn a_member_past_its_session_timeout_hands_out_nothing_more() {
    let mut setting = Setting::with(1, short_lived).await;
    setting.order(|groups| groups.deaf = true);
    // Records come, but nobody confirms that the member lives.
    tokio::time::sleep(SESSION_TIMEOUT + Duration::from_millis(100)).await;
    setting.send(0).await;
    let records = setting.poll_until("lost 0").await;
    assert_eq!(records, 0);
    assert!(setting.consumer.assignment().is_empty());
    // What was lost is not committed.
    assert!(setting.world.state.lock().commits.is_empty());
    setting.order(|groups| groups.deaf = false);
    setting.read_to(0, 1).await;
}

#[tokio::test]
async fn a_member_stopped_with_records_in_hand_hands_out_none_of_them() {
    let options = |builder: ConsumerBuilder| short_lived(builder).max_poll_records(1);
    let mut setting = Setting::with(1, options).await;
    setting.world.append_object("orders", 0..1).await;
    // One batch of ten records: with the first the other nine are in hand.
    assert_eq!(offsets(&read(&mut setting.consumer, 1).await), [0]);
    assert!(setting.consumer.metrics().buffered_bytes > 0);
    // The process stands still, as under SIGSTOP: none of its tasks runs on this thread, none sees the time pass.
    setting.order(|groups| groups.deaf = true);
    std::thread::sleep(SESSION_TIMEOUT + Duration::from_millis(100));
    // GROUP: others may have been given the partition meanwhile. Poll sees that before any task tells it.
    for _ in 0..5 {
        assert_eq!(setting.consumer.poll(Duration::from_millis(20)).await.unwrap().len(), 0);
    }
    assert_eq!(setting.asked(), ["join", "assigned 0", "lost 0"]);
    assert!(setting.consumer.assignment().is_empty());
    assert!(setting.world.state.lock().commits.is_empty());
    // Heard again, it begins where the group stands.
    setting.order(|groups| groups.deaf = false);
    setting.read_to(0, 10).await;
    assert_eq!(setting.asked()[3..], ["assigned 0"]);
}

#[tokio::test]
async fn a_fenced_member_loses_everything_and_joins_as_another() {
    let mut setting = Setting::new(1).await;
    let first = setting.member();
    setting.order(|groups| groups.members.clear());
    setting.poll_until("lost 0").await;
    setting.poll_while(|setting| setting.consumer.assignment().is_empty()).await;
    // The task joins again at once, poll hears of the loss when it comes to it; but first.
    let heard: Vec<_> = setting.asked().into_iter().filter(|asked| asked != "join").collect();
    assert_eq!(heard, ["assigned 0", "lost 0", "assigned 0"]);
    assert_ne!(setting.member(), first);
}

#[tokio::test]
async fn a_member_that_does_not_poll_leaves_and_joins_again_when_it_does() {
    let interval = Duration::from_secs(1);
    let mut setting =
        Setting::with(1, |builder| builder.topics(["orders"]).max_poll_interval(interval)).await;
    until("a leave", || setting.asked().contains(&"leave".to_owned())).await;
    setting.send(0).await;
    setting.read_to(0, 1).await;
    let asked = setting.asked();
    let at = |what: &str| asked.iter().rposition(|asked| asked == what);
    assert!(at("leave") < at("join") && at("lost 0") < at("assigned 0"), "{asked:?}");
}

#[tokio::test]
async fn an_unknown_topic_is_told_when_joining() {
    let (world, controller, _producer) = cluster(1).await;
    let builder = Consumer::builder().controllers([&*controller]).object_store(world.store());
    let error = builder.group_id("g").topics(["none"]).build().await.unwrap_err();
    assert!(matches!(error, ConsumeError::UnknownTopic { .. }), "{error}");
}

#[tokio::test]
async fn a_commit_goes_out_in_the_name_of_the_member_that_asked_for_it() {
    let mut setting = Setting::new(1).await;
    setting.send(0).await;
    setting.read_to(0, 1).await;
    let first = setting.member();
    // One is on its way and is not answered, the other waits behind it.
    setting.world.commits_held.send_replace(true);
    let pending = [(); 2].map(|()| setting.consumer.commit_async().unwrap());
    setting.order(|groups| groups.members.clear());
    setting.poll_until("lost 0").await;
    setting.poll_while(|setting| setting.consumer.assignment().is_empty()).await;
    assert_ne!(setting.member(), first);
    setting.world.commits_held.send_replace(false);
    for commit in pending {
        // What the controllers make of it is theirs to say: it is of a member that is no more (GROUP).
        let _ = commit.await;
    }
    let commits = setting.world.state.lock().commits.clone();
    assert!(commits.len() >= 2);
    assert!(commits.iter().all(|commit| commit.member_id == first), "{commits:?}");
}

#[tokio::test]
async fn a_subscription_that_was_not_taken_is_said_again() {
    let mut setting = Setting::new(1).await;
    let agent = setting.world.state.lock().topics["orders"].1[0].agent.clone();
    setting.world.add_topic("audit", 1, &agent);
    setting.order(|groups| groups.refuse_joins = 1);
    setting.consumer.subscribe(["orders", "audit"]).await.unwrap();
    let until = tokio::time::Instant::now() + SOON;
    let mut refused = 0;
    while setting.consumer.assignment().len() < 2 {
        assert!(tokio::time::Instant::now() < until, "{:?}", setting.asked());
        setting.world.announce();
        refused += usize::from(setting.consumer.poll(Duration::from_millis(20)).await.is_err());
    }
    assert_eq!(refused, 1, "told once");
}

#[tokio::test]
async fn a_member_attends_at_a_controller_that_took_another_s_place() {
    let mut setting = Setting::new(1).await;
    let new = setting.world.add_controller().await;
    // As many as before, and one of them is another.
    setting.order(|groups| groups.controllers = vec![new.clone()]);
    setting.poll_while(|setting| !setting.world.state.lock().groups.attended.contains(&new)).await;
}
