//! Small histories with one planted violation each.

use super::{ANYTHING, History, NOTHING, broken, ms};
use crate::history::{Expected, Freshness, Outcome, Rule, Stored, VersionOrder, Wgl};

fn order(history: &History) -> Vec<(Rule, Vec<usize>)> {
    broken(&VersionOrder::of(&history.0).check().violations)
}

/// Returns whether the search finds a valid order, with or without the reads of the leader.
fn linearizable(history: &History, reads: bool) -> bool {
    let search = Wgl::of(&history.0);
    let searched = if reads { search.with_leader_reads() } else { search }.check();
    assert!(searched.given_up.is_empty(), "{searched}");
    searched.violations.is_empty()
}

fn after(revision: u64) -> Expected {
    Expected::Revision(revision)
}

#[test]
fn revision_acknowledged_twice_is_caught() {
    let history = History::default().written(0..10, ANYTHING, 1).written(5..15, ANYTHING, 1);
    assert_eq!(order(&history), [(Rule::OneWriteARevision, vec![0, 1])]);
    assert!(!linearizable(&history, false));
}

#[test]
fn stale_acknowledgement_is_caught() {
    // The third write is acknowledged with a revision that is lower than that of the second.
    let history =
        History::default().written(0..10, ANYTHING, 1).written(20..30, ANYTHING, 9).written(40..50, ANYTHING, 5);
    assert_eq!(order(&history), [(Rule::RealTimeOrder, vec![1, 2])]);
    assert!(!linearizable(&history, false));
}

#[test]
fn concurrent_writes_may_have_either_order() {
    let history = History::default().written(0..10, ANYTHING, 2).written(10..20, ANYTHING, 1);
    assert_eq!(order(&history), []);
    assert!(linearizable(&history, false));
}

#[test]
fn order_spans_all_keys_of_the_bucket() {
    let mut history = History::default().written(0..10, ANYTHING, 2).written(20..30, ANYTHING, 1);
    history.0[1].key = "other".into();
    assert_eq!(order(&history), [(Rule::RealTimeOrder, vec![0, 1])]);
}

#[test]
fn compare_and_set_skipping_a_write_is_caught() {
    let history =
        History::default().written(0..10, ANYTHING, 1).written(20..40, ANYTHING, 2).written(30..50, after(1), 3);
    assert_eq!(order(&history), [(Rule::CompareAndSet, vec![1, 2])]);
    assert!(!linearizable(&history, false));
}

#[test]
fn compare_and_set_on_unwritten_revision_is_caught() {
    let history = History::default().written(0..10, ANYTHING, 1).written(20..30, after(5), 6);
    assert_eq!(order(&history), [(Rule::CompareAndSet, vec![1])]);
    assert!(!linearizable(&history, false));
    // Valid if a write of unknown outcome may have that revision.
    let history = History::default().written(0..10, ANYTHING, 1).write(5..6, ANYTHING, Outcome::Unknown).written(
        20..30,
        after(5),
        6,
    );
    assert_eq!(order(&history), []);
    assert!(linearizable(&history, false));
}

#[test]
fn create_over_existing_record_is_caught() {
    let history = History::default().written(0..10, NOTHING, 1).written(20..30, NOTHING, 2);
    assert_eq!(order(&history), [(Rule::Creation, vec![0, 1])]);
    assert!(!linearizable(&history, false));
    // Valid if a removal of unknown outcome may lie between them.
    let removed = |time| History::default().written(0..10, NOTHING, 1).remove(time, ANYTHING, Outcome::Unknown);
    let history = removed(15..16).written(20..30, NOTHING, 3);
    assert_eq!(order(&history), []);
    assert!(linearizable(&history, false));
    let history = removed(35..36).written(20..30, NOTHING, 3);
    assert_eq!(order(&history), [(Rule::Creation, vec![0, 2])]);
    assert!(!linearizable(&history, false));
}

#[test]
fn visible_refused_write_is_caught() {
    for outcome in [Outcome::Refused, Outcome::Failed] {
        let history = History::default().written(0..10, ANYTHING, 1).write(20..30, after(1), outcome).read(
            40..50,
            Freshness::Any,
            Some((1, 2)),
        );
        assert_eq!(order(&history), [(Rule::RefusedIsNeverSeen, vec![2, 1])]);
    }
}

#[test]
fn unknown_write_is_applied_at_most_once() {
    let unknown = || History::default().written(0..10, ANYTHING, 1).write(20..30, ANYTHING, Outcome::Unknown);
    let seen = |revision| Some((1, revision));
    let history = unknown().read(40..50, Freshness::Any, seen(3)).read(60..70, Freshness::Any, seen(5));
    assert_eq!(order(&history), [(Rule::AppliedOnce, vec![3, 1])]);
    // An observed write took effect: a compare-and-set write must not skip it.
    let history = unknown().read(40..50, Freshness::Any, seen(3)).written(60..70, after(1), 4);
    assert_eq!(order(&history), [(Rule::CompareAndSet, vec![1, 3])]);
    assert!(!linearizable(&history, false));
    // An unobserved write may have had no effect.
    let history = unknown().written(60..70, after(1), 4);
    assert_eq!(order(&history), []);
    assert!(linearizable(&history, false));
}

#[test]
fn read_of_unwritten_value_is_caught() {
    let seen = |seen| History::default().written(10..20, ANYTHING, 1).read(30..40, Freshness::Any, Some(seen));
    assert_eq!(order(&seen((7, 1))), [(Rule::SeenWasWritten, vec![1])]);
    assert_eq!(order(&seen((0, 2))), [(Rule::SeenWasWritten, vec![1, 0])]);
    let history = History::default().written(50..60, ANYTHING, 1).read(30..40, Freshness::Any, Some((0, 1)));
    assert_eq!(order(&history), [(Rule::SeenWasWritten, vec![1, 0])]);
}

#[test]
fn read_staler_than_requested_is_caught() {
    let two = || History::default().written(0..10, ANYTHING, 1).written(20..30, ANYTHING, 2);
    let history = two().read(40..50, Freshness::Any, Some((0, 1))).read(40..50, Freshness::Leader, Some((0, 1)));
    let checked = VersionOrder::of(&history.0).check();
    assert_eq!(broken(&checked.violations), []);
    assert_eq!((checked.any.stale, checked.any.longest), (1, ms(10)));
    assert_eq!((checked.leader.stale, checked.leader.longest), (1, ms(10)));
    let checked = VersionOrder::of(&history.0).leader_is_fresh().check();
    assert_eq!(broken(&checked.violations), [(Rule::Freshness, vec![3, 1])]);
    assert!(!linearizable(&history, true));
    // The requested revision may belong to another key.
    for rank in [2, 3] {
        for seen in [Some((0, 1)), None] {
            let history = two().read(25..50, Freshness::AtLeast(rank), seen);
            assert_eq!(order(&history), [(Rule::Freshness, vec![2, 1])]);
        }
        let history = two().read(25..50, Freshness::AtLeast(rank), None).remove(45..60, ANYTHING, Outcome::Unknown);
        assert_eq!(order(&history), []);
    }
    assert_eq!(order(&two().read(25..50, Freshness::AtLeast(1), Some((0, 1)))), []);
}

#[test]
fn lost_acknowledged_write_is_caught() {
    let history = History::default().written(0..10, ANYTHING, 1).written(20..30, ANYTHING, 2);
    let stored = |revision, value| Stored { key: "k".into(), revision, value, at: ms(99) };
    let last = |last: &[Stored]| broken(&VersionOrder::of(&history.0).last(last).check().violations);
    assert_eq!(last(&[stored(2, Some(1))]), []);
    assert_eq!(last(&[stored(1, Some(0))]), [(Rule::NothingIsLost, vec![1])]);
    assert_eq!(last(&[]), [(Rule::NothingIsLost, vec![1])]);
    // A delete marker without a removal in the history.
    assert_eq!(last(&[stored(3, None)]), [(Rule::SeenWasWritten, vec![]), (Rule::NothingIsLost, vec![1])]);
}

#[test]
fn observed_removal_resolves_unknown_outcome() {
    let history = History::default().written(0..10, ANYTHING, 1).remove(20..30, ANYTHING, Outcome::Unknown);
    let reported = [Stored { key: "k".into(), revision: 2, value: None, at: ms(40) }];
    let checked = VersionOrder::of(&history.0).reported(&reported).check();
    assert_eq!((broken(&checked.violations), checked.settled), (vec![], 1));
    let history = History(history.0).written(50..60, after(1), 3);
    let checked = VersionOrder::of(&history.0).reported(&reported).check();
    assert_eq!(broken(&checked.violations), [(Rule::CompareAndSet, vec![1, 2])]);
}

#[test]
fn unfounded_refusal_is_reported() {
    let history = History::default().written(0..10, ANYTHING, 1).write(20..30, after(1), Outcome::Refused);
    assert_eq!(VersionOrder::of(&history.0).check().unfounded, [1]);
    let history = History(history.0).written(25..40, ANYTHING, 2);
    assert!(VersionOrder::of(&history.0).check().unfounded.is_empty());
}

#[test]
fn abandoned_search_is_reported() {
    let history = History::default().written(0..10, ANYTHING, 1).written(20..30, ANYTHING, 2);
    let searched = Wgl::of(&history.0).steps(1).check();
    assert_eq!((searched.given_up, searched.violations.len()), (vec!["k".to_owned()], 0));
}

#[test]
#[should_panic(expected = "given up")]
fn abandoned_search_fails_the_assertion() {
    Wgl::of(&History::default().written(0..10, ANYTHING, 1).0).steps(0).check().assert_linearizable();
}
