//! FENCE, RETRY, DENSE, ONCE: what a commit may do.

use crate::machine::{Machine, accepted, key, processed, slice_at};
use streamhouse_controller::state::command::{CommandBody, ObjectCommit, ObjectContents};
use streamhouse_controller::state::reply::{ObjectReply, Refusal};
use streamhouse_controller::state::segments::{object, segments_from};

fn cluster_with_one_partition() -> (Machine, u64, [u8; 16]) {
    let mut machine = Machine::new();
    let session = machine.session("a:1");
    let topic = machine.topic("orders", 1);
    (machine, session, topic)
}

#[test]
fn accepted_slices_move_the_high_watermark_and_stand_in_the_index() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let p = key(topic, 0);
    let slice = machine.slice(p, 10);
    accepted(machine.commit(session, 1, vec![slice]));
    let slice = machine.slice(p, 5);
    accepted(machine.commit(session, 2, vec![slice]));

    assert_eq!(machine.partition(p).next_offset, 15);
    let entries = segments_from(&machine.kv, &p, 12, 10).unwrap();
    assert_eq!(entries.len(), 1, "the entry that holds offset 12");
    assert_eq!((entries[0].0, entries[0].1.last_offset), (10, 14));
    assert_eq!(segments_from(&machine.kv, &p, 15, 10).unwrap(), []);
    assert_eq!(object(&machine.kv, session, 1).unwrap().map(|o| o.live), Some(1));
}

#[test]
fn a_commit_by_an_ended_session_is_refused() {
    let (mut machine, stale, topic) = cluster_with_one_partition();
    let p = key(topic, 0);
    let slice = machine.slice(p, 10);
    let heir = machine.session("b:1");
    machine.run(CommandBody::EndSession { session: stale });
    assert_eq!(machine.partition(p).holder, heir);

    let reply = machine.commit(stale, 1, vec![slice]);
    assert_eq!(reply, ObjectReply::Refused(Refusal::SessionEnded(stale)));
    assert_eq!(machine.partition(p).next_offset, 0);
}

#[test]
fn a_commit_by_another_instance_of_the_same_number_is_refused() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let p = key(topic, 0);
    let contents = ObjectContents::Written(vec![machine.slice(p, 10)]);
    let object = ObjectCommit { sequence: 1, size: 1_000, contents };
    let refused = ObjectReply::Refused(Refusal::SessionEnded(session));
    assert_eq!(machine.commit_as([77; 16], session, object.clone()), refused);
    assert_eq!(machine.partition(p).next_offset, 0);
    accepted(machine.commit_object(session, object.clone()));
    // Nor is it told what became of the other's commit.
    assert_eq!(machine.commit_as([77; 16], session, object), refused);
}

#[test]
fn a_commit_applied_before_the_session_ended_is_answered_as_it_was() {
    // RETRY: the duplicate check comes before the fence check.
    let (mut machine, session, topic) = cluster_with_one_partition();
    let slice = machine.slice(key(topic, 0), 10);
    let first = machine.commit(session, 1, vec![slice.clone()]);
    machine.run(CommandBody::EndSession { session });
    let retried = machine.commit(session, 1, vec![slice]);
    assert_eq!(first, retried);
    assert_eq!(machine.partition(key(topic, 0)).next_offset, 10, "applied once");
}

#[test]
fn a_result_that_is_no_longer_kept_is_an_unknown_outcome_never_fenced() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let first = machine.slice(key(topic, 0), 1);
    accepted(machine.commit(session, 1, vec![first.clone()]));
    for sequence in 2..=66 {
        let slice = machine.slice(key(topic, 0), 1);
        accepted(machine.commit(session, sequence, vec![slice]));
    }
    let reply = machine.commit(session, 1, vec![first.clone()]);
    assert_eq!(reply, ObjectReply::Refused(Refusal::OutcomeUnknown));

    // A day after the session's end nothing of it is known.
    machine.run(CommandBody::EndSession { session });
    machine.time_ms += 25 * 3_600_000;
    machine.finish_work();
    let reply = machine.commit(session, 66, vec![first]);
    assert_eq!(reply, ObjectReply::Refused(Refusal::OutcomeUnknown));
}

#[test]
fn the_last_64_results_are_kept() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let mut replies = Vec::new();
    for sequence in 1..=64 {
        let slice = machine.slice(key(topic, 0), 1);
        replies.push((machine.commit(session, sequence, vec![slice.clone()]), slice));
    }
    for (sequence, (reply, slice)) in (1..).zip(replies) {
        assert_eq!(machine.commit(session, sequence, vec![slice]), reply);
    }
}

#[test]
fn a_commit_out_of_order_is_refused_without_effect() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let slice = machine.slice(key(topic, 0), 10);
    let reply = machine.commit(session, 2, vec![slice.clone()]);
    assert_eq!(reply, ObjectReply::Refused(Refusal::OutOfOrder { expected: 1 }));
    accepted(machine.commit(session, 1, vec![slice]));
}

#[test]
fn a_refused_slice_of_the_current_epoch_raises_it_so_that_all_behind_it_falls() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let p = key(topic, 0);
    let epoch = machine.partition(p).lease_epoch;
    // Offsets 5.. although the next is 0, and one in flight behind it.
    let wrong = slice_at(p, epoch, 5, 10);
    let behind = slice_at(p, epoch, 0, 10);

    let reply = processed(machine.commit(session, 1, vec![wrong]));
    assert_eq!(reply[0].refusal, Some(Refusal::Stale));
    assert_eq!(reply[0].lease_epoch, epoch + 1);
    assert!(reply[0].still_holder);

    let reply = processed(machine.commit(session, 2, vec![behind]));
    assert_eq!(reply[0].refusal, Some(Refusal::Stale), "it would have fitted but for its epoch");
    assert_eq!(reply[0].lease_epoch, epoch + 1, "a stale slice does not raise it again");

    let slice = machine.slice(p, 10);
    accepted(machine.commit(session, 3, vec![slice]));
}

#[test]
fn a_refused_slice_does_not_fail_its_neighbours() {
    let mut machine = Machine::new();
    let session = machine.session("a:1");
    let (gone, kept) = (machine.topic("gone", 1), machine.topic("kept", 1));
    let slices = vec![machine.slice(key(gone, 0), 3), machine.slice(key(kept, 0), 4)];
    machine.run(CommandBody::DeleteTopic { name: "gone".into() });

    let replies = processed(machine.commit(session, 1, slices));
    assert!(matches!(replies[0].refusal, Some(Refusal::UnknownTopic(_))));
    assert_eq!(replies[1].refusal, None);
    assert_eq!(machine.partition(key(kept, 0)).next_offset, 4);
}

#[test]
fn an_abandoned_put_uses_up_its_number_and_raises_the_epochs() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let p = key(topic, 0);
    let given_up = machine.slice(p, 10);
    let contents = ObjectContents::Abandoned(vec![p]);
    let abandoned = ObjectCommit { sequence: 1, size: 0, contents };
    let reply = processed(machine.commit_object(session, abandoned));
    assert_eq!(reply[0].lease_epoch, given_up.lease_epoch + 1);

    // ONCE: the object that was given up can no longer be committed …
    let late = machine.commit(session, 1, vec![given_up.clone()]);
    assert_eq!(processed(late)[0].refusal, Some(Refusal::Stale));
    // … not even under another number.
    let late = machine.commit(session, 2, vec![given_up]);
    assert_eq!(processed(late)[0].refusal, Some(Refusal::Stale));
    assert_eq!(machine.partition(p).next_offset, 0);
}

#[test]
fn slices_that_cannot_be_are_refused() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let p = key(topic, 0);
    let mut backwards = machine.slice(p, 10);
    backwards.base_offset = 0;
    backwards.last_offset = u64::MAX;
    let reply = processed(machine.commit(session, 1, vec![backwards]));
    assert!(matches!(reply[0].refusal, Some(Refusal::Invalid(_))));

    let mut crowded = machine.slice(p, 10);
    crowded.record_count = 11;
    let reply = processed(machine.commit(session, 2, vec![crowded]));
    assert!(matches!(reply[0].refusal, Some(Refusal::Invalid(_))));
    assert_eq!(machine.partition(p).next_offset, 0);
}

#[test]
fn records_may_be_absent_inside_a_range() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let mut sparse = machine.slice(key(topic, 0), 10);
    sparse.record_count = 3;
    accepted(machine.commit(session, 1, vec![sparse]));
    assert_eq!(machine.partition(key(topic, 0)).next_offset, 10);
}

#[test]
fn slices_outside_their_object_are_refused() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let p = key(topic, 0);
    let mut outside = machine.slice(p, 10);
    outside.position = u64::MAX;
    let reply = processed(machine.commit(session, 1, vec![outside]));
    assert!(matches!(reply[0].refusal, Some(Refusal::Invalid(_))));
}

#[test]
fn a_partition_abandoned_twice_in_one_command_rises_once() {
    let (mut machine, session, topic) = cluster_with_one_partition();
    let p = key(topic, 0);
    let before = machine.partition(p).lease_epoch;
    let contents = ObjectContents::Abandoned(vec![p, p]);
    machine.commit_object(session, ObjectCommit { sequence: 1, size: 0, contents });
    assert_eq!(machine.partition(p).lease_epoch, before + 1);
}
