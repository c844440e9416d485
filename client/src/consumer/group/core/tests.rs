use super::*;

fn key(partition: u32) -> Key {
    (TopicId::from_bytes([1; 16]), partition)
}

fn told_as_of(core: &mut Core, applied: u64, grants: &[(u32, u32, bool)]) -> Steps {
    let grant = |&(partition, epoch, revoking): &(u32, u32, bool)| {
        (key(partition), Grant { epoch, revoking })
    };
    core.told(applied, grants.iter().map(grant).collect())
}

fn told(core: &mut Core, grants: &[(u32, u32, bool)]) -> Steps {
    told_as_of(core, core.applied + 1, grants)
}

/// One that has given up partition 0, of epoch 5, as of log index 10. The release is under way.
fn releasing() -> Core {
    let mut core = Core::default();
    told_as_of(&mut core, 9, &[(0, 5, false)]);
    told_as_of(&mut core, 10, &[(0, 5, true)]);
    assert_eq!(core.given_up(&[key(0)]).release, [(key(0), 5)]);
    core
}

#[test]
fn a_partition_is_given_back_only_after_poll_gave_it_up() {
    let mut core = Core::default();
    let steps = told(&mut core, &[(0, 1, false), (1, 1, false)]);
    assert_eq!(steps.assigned, [key(0), key(1)]);
    let steps = told(&mut core, &[(0, 1, false), (1, 1, true)]);
    assert_eq!((steps.revoked, steps.release), (vec![key(1)], vec![]));
    // Said again while poll is still at it: nothing new.
    assert_eq!(told(&mut core, &[(0, 1, false), (1, 1, true)]), Steps::default());
    assert_eq!(core.given_up(&[key(1)]).release, [(key(1), 1)]);
    assert_eq!(told(&mut core, &[(0, 1, false)]), Steps::default());
}

#[test]
fn what_is_asked_for_before_it_was_read_goes_as_it_came() {
    let mut core = Core::default();
    let steps = told(&mut core, &[(0, 4, true)]);
    assert_eq!(steps, Steps { release: vec![(key(0), 4)], ..Steps::default() });
}

#[test]
fn what_may_stay_after_all_is_read_on_or_read_anew() {
    let mut core = Core::default();
    told(&mut core, &[(0, 1, false)]);
    told(&mut core, &[(0, 1, true)]);
    // Poll has not come to it yet; when it does, it reads it again.
    assert_eq!(told(&mut core, &[(0, 1, false)]), Steps::default());
    assert_eq!(core.given_up(&[key(0)]).assigned, [key(0)]);
}

#[test]
fn what_is_being_released_is_not_read_again_before_its_answer() {
    let mut core = releasing();
    // Its target has left: it may stay. Another one joins, and is the target when the release is applied, late.
    assert_eq!(told_as_of(&mut core, 12, &[(0, 5, false)]), Steps::default());
    assert_eq!(told_as_of(&mut core, 14, &[(0, 5, true)]), Steps::default());
    assert_eq!(told_as_of(&mut core, 15, &[]), Steps::default());
    assert_eq!(core.released(&[(key(0), 5)], 15), Steps::default());
    // And the other way round: the answer overtakes all that was said before.
    let mut core = releasing();
    assert_eq!(core.released(&[(key(0), 5)], 15), Steps::default());
    let steps = told_as_of(&mut core, 12, &[(0, 5, false)]);
    assert_eq!(steps, Steps { ask: true, ..Steps::default() });
    assert_eq!(told_as_of(&mut core, 14, &[(0, 5, true)]), Steps::default());
    assert_eq!(told_as_of(&mut core, 15, &[]), Steps::default());
}

#[test]
fn a_release_without_effect_leaves_the_partition_to_be_read_anew() {
    // It was not asked for any more when the release was applied, and nothing has changed since.
    let mut core = releasing();
    assert_eq!(told_as_of(&mut core, 12, &[(0, 5, false)]), Steps::default());
    let steps = core.released(&[(key(0), 5)], 15);
    assert_eq!(steps, Steps { ask: true, ..Steps::default() });
    assert_eq!(told_as_of(&mut core, 15, &[(0, 5, false)]).assigned, [key(0)]);
    // Or something has, and the word of that came before the answer.
    let mut core = releasing();
    told_as_of(&mut core, 16, &[(0, 5, false)]);
    assert_eq!(core.released(&[(key(0), 5)], 15).assigned, [key(0)]);
    // Asked for once more, it is released once more.
    let mut core = releasing();
    core.released(&[(key(0), 5)], 15);
    assert_eq!(told_as_of(&mut core, 16, &[(0, 5, true)]).release, [(key(0), 5)]);
}

#[test]
fn an_answer_of_which_nothing_is_told_is_a_doubt_until_the_leader_is_asked() {
    // It may stay, and is asked for again, while the release is on its way; the answer is that of its first try, which
    // came between the two and changed nothing.
    let mut core = releasing();
    told_as_of(&mut core, 12, &[(0, 5, false)]);
    told_as_of(&mut core, 20, &[(0, 5, true)]);
    assert!(!core.doubts());
    assert_eq!(core.released(&[(key(0), 5)], 25), Steps::default());
    assert!(core.doubts());
    assert_eq!(told_as_of(&mut core, 26, &[(0, 5, true)]).release, [(key(0), 5)]);
    assert!(!core.doubts());
}

#[test]
fn a_release_outlives_what_the_member_forgets() {
    let mut core = releasing();
    assert_eq!(core.forget(), Steps::default());
    assert_eq!(told_as_of(&mut core, 12, &[(0, 5, false)]), Steps::default());
    // A later grant of the same partition is not what was released.
    assert_eq!(told_as_of(&mut core, 13, &[(0, 7, false)]).assigned, [key(0)]);
    // Nor does another membership's release count.
    let mut core = releasing();
    core.forget();
    core.begin();
    assert_eq!(told_as_of(&mut core, 12, &[(0, 5, false)]).assigned, [key(0)]);
}

#[test]
fn a_late_word_of_poll_is_not_about_what_came_after() {
    let mut core = Core::default();
    told(&mut core, &[(0, 1, false)]);
    told(&mut core, &[(0, 1, true)]);
    told(&mut core, &[(0, 9, false)]);
    assert_eq!(told(&mut core, &[(0, 9, true)]).revoked, [key(0)]);
    // Of the first time that it was asked for; since then it was lost, and is read again.
    assert_eq!(core.given_up(&[key(0)]), Steps::default());
    assert_eq!(core.given_up(&[key(0)]).release, [(key(0), 9)]);
    // The same after all was lost; but a word that will not come is not waited for.
    let mut core = Core::default();
    for _ in 0..3 {
        told(&mut core, &[(0, 1, false)]);
        told(&mut core, &[(0, 1, true)]);
        core.forget();
    }
    told(&mut core, &[(0, 1, false)]);
    told(&mut core, &[(0, 1, true)]);
    assert!(core.unasked(&key(0)));
    assert_eq!(core.given_up(&[key(0), key(0)]), Steps::default());
    assert_eq!(core.given_up(&[key(0)]).release, [(key(0), 1)]);
}

#[test]
fn another_grant_of_the_same_partition_is_a_loss_first() {
    let mut core = Core::default();
    told(&mut core, &[(0, 1, false)]);
    let steps = told(&mut core, &[(0, 9, false)]);
    assert_eq!((steps.lost, steps.assigned), (vec![key(0)], vec![key(0)]));
    assert_eq!(told(&mut core, &[]).lost, [key(0)]);
}

#[test]
fn after_all_was_lost_the_leader_s_word_begins_anew() {
    let mut core = Core::default();
    told(&mut core, &[(0, 1, false), (1, 1, false)]);
    told(&mut core, &[(0, 1, true), (1, 1, false)]);
    core.given_up(&[key(0)]);
    assert_eq!(core.forget().lost, [key(1)]);
    // A late word of poll about what it had then means nothing.
    assert_eq!(core.given_up(&[key(1)]), Steps::default());
    assert_eq!(told(&mut core, &[(1, 1, false)]).assigned, [key(1)]);
}
