//! Lease news by term, epoch and applied index.

use super::leases::{Change, Leases, Place};
use super::testing::partition;
use streamhouse_proto::v1::{AttachResponse, Lease, LostLease};

fn lease(number: u32, epoch: u32, next_offset: u64) -> Lease {
    Lease {
        partition: Some(partition(number).to_wire()),
        epoch,
        epoch_start_offset: next_offset,
        next_offset,
        revoking: false,
    }
}

fn news(term: u64, applied: u64, full: bool, leases: Vec<Lease>) -> AttachResponse {
    AttachResponse { leader: true, term, applied, full, leases, ..Default::default() }
}

fn lost(number: u32, epoch: u32, address: &str) -> LostLease {
    LostLease { partition: Some(partition(number).to_wire()), epoch, address: address.to_owned() }
}

#[test]
fn only_the_newest_leader_is_believed() {
    let mut leases = Leases::default();
    let follower = AttachResponse { leader: false, ..news(9, 1, true, vec![lease(0, 1, 0)]) };
    assert_eq!(leases.merge(&follower), []);
    leases.merge(&news(2, 10, true, vec![lease(0, 1, 0)]));
    assert_eq!(leases.merge(&news(1, 11, true, vec![lease(1, 1, 0)])), []);
    assert!(leases.admits(partition(0)) && !leases.admits(partition(1)));
}

#[test]
fn a_full_set_replaces_what_was_held() {
    let mut leases = Leases::default();
    leases.merge(&news(1, 10, true, vec![lease(0, 1, 0), lease(1, 1, 0)]));
    let changes = leases.merge(&news(2, 11, true, vec![lease(1, 1, 0), lease(2, 1, 0)]));
    assert_eq!(changes, [Change::Updated(partition(2)), Change::Lost(partition(0))]);
    assert_eq!(leases.held(), 2);
}

#[test]
fn a_new_leader_that_lags_takes_nothing_away() {
    let mut leases = Leases::default();
    leases.merge(&news(1, 10, true, vec![lease(0, 1, 0)]));
    leases.merge(&news(2, 8, true, vec![]));
    assert!(leases.admits(partition(0)));
}

#[test]
fn an_epoch_never_goes_back_and_offsets_in_it_are_ours_to_count() {
    let mut leases = Leases::default();
    let id = partition(0);
    leases.merge(&news(1, 10, true, vec![lease(0, 5, 100)]));
    let first = Place { epoch: 5, epoch_start_offset: 100, base_offset: 100 };
    assert_eq!(leases.assign(id, 10), first);
    // The same epoch again, from a leader that has not seen our slice yet, and an older one.
    leases.merge(&news(2, 11, true, vec![lease(0, 5, 100)]));
    leases.merge(&news(2, 12, false, vec![lease(0, 4, 90)]));
    assert_eq!(leases.assign(id, 1).base_offset, 110);
}

#[test]
fn a_raised_epoch_waits_for_the_answers_of_the_old_one() {
    let mut leases = Leases::default();
    let id = partition(0);
    leases.merge(&news(1, 10, true, vec![lease(0, 5, 0)]));
    leases.assign(id, 10);
    assert!(leases.readiness(id).open);
    leases.merge(&news(1, 11, false, vec![lease(0, 6, 0)]));
    assert!(!leases.readiness(id).open);
    leases.settle(id);
    assert!(leases.readiness(id).open);
    let again = Place { epoch: 6, epoch_start_offset: 0, base_offset: 0 };
    assert_eq!(leases.assign(id, 10), again);
}

#[test]
fn a_lost_lease_names_its_new_holder_and_comes_back_only_with_a_new_epoch() {
    let mut leases = Leases::default();
    let id = partition(0);
    leases.merge(&news(1, 10, true, vec![lease(0, 5, 0)]));
    let message = AttachResponse { lost: vec![lost(0, 6, "b:1")], ..news(1, 11, false, vec![]) };
    assert_eq!(leases.merge(&message), [Change::Lost(id)]);
    assert_eq!(leases.not_holder(id).address, "b:1");
    leases.merge(&news(1, 12, false, vec![lease(0, 5, 0)]));
    assert!(!leases.admits(id));
    leases.merge(&news(1, 13, false, vec![lease(0, 7, 3)]));
    assert!(leases.admits(id));
    // The loss told late.
    let message = AttachResponse { lost: vec![lost(0, 6, "b:1")], ..news(1, 14, false, vec![]) };
    assert_eq!(leases.merge(&message), []);
    assert!(leases.admits(id));
}

#[test]
fn a_revoked_lease_admits_nothing_but_is_flushed() {
    let mut leases = Leases::default();
    let id = partition(0);
    leases.merge(&news(1, 10, true, vec![lease(0, 5, 0)]));
    let revoking = Lease { revoking: true, ..lease(0, 5, 0) };
    leases.merge(&news(1, 11, false, vec![revoking]));
    let readiness = leases.readiness(id);
    assert!(!leases.admits(id) && readiness.open && readiness.revoked && readiness.quiet);
    assert_eq!(leases.release(id), 5);
    assert!(!leases.readiness(id).open && !leases.readiness(id).leaving);
    assert_eq!((leases.held(), leases.unreleased()), (1, 0));
}

#[test]
fn a_commit_s_answer_raises_the_epoch_once() {
    let mut leases = Leases::default();
    let id = partition(0);
    leases.merge(&news(1, 10, true, vec![lease(0, 5, 0)]));
    leases.raise(id, 6, 40);
    assert_eq!(leases.assign(id, 5).base_offset, 40);
    leases.raise(id, 6, 40);
    assert_eq!(leases.assign(id, 5).base_offset, 45);
}

#[test]
fn a_full_set_in_parts_takes_nothing_away_before_its_last() {
    let mut leases = Leases::default();
    let all = (0..4).map(|number| lease(number, 1, 0)).collect();
    leases.merge(&news(1, 10, true, all));
    let part = |full, more, leases| AttachResponse { more, ..news(2, 11, full, leases) };
    assert_eq!(leases.merge(&part(true, true, vec![lease(0, 1, 0)])), []);
    assert_eq!(leases.merge(&part(false, true, vec![lease(2, 1, 0)])), []);
    assert_eq!(leases.held(), 4);
    let changes = leases.merge(&part(false, false, vec![lease(3, 1, 0)]));
    assert_eq!(changes, [Change::Lost(partition(1))]);
    // A list that was broken off counts for nothing.
    leases.merge(&AttachResponse { more: true, ..news(2, 12, true, vec![lease(0, 1, 0)]) });
    let changes = leases.merge(&news(3, 13, true, vec![lease(2, 1, 0)]));
    assert_eq!(changes, [Change::Lost(partition(0)), Change::Lost(partition(3))]);
}

#[test]
fn a_lease_given_back_under_a_revocation_that_was_called_off_is_used_again() {
    let mut leases = Leases::default();
    let id = partition(0);
    leases.merge(&news(1, 10, true, vec![Lease { revoking: true, ..lease(0, 5, 0) }]));
    leases.release(id);
    // Told once more that it is revoked: it stays given back.
    leases.merge(&news(1, 11, false, vec![Lease { revoking: true, ..lease(0, 5, 0) }]));
    assert_eq!(leases.unreleased(), 0);
    assert_eq!(leases.merge(&news(1, 12, false, vec![lease(0, 5, 0)])), [Change::Updated(id)]);
    assert!(leases.admits(id));
}
