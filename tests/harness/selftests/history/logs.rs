//! Tests of the checkers of watches, caches, locks, elections, counters and transfers.

use super::{History, broken, ms};
use crate::history::counter::Tally;
use crate::history::election::{Turn, turns};
use crate::history::lock::{Fenced, TermRecord, fenced, term_log};
use crate::history::transfers::sums;
use crate::history::watch::{Lookup, Observed, Watched, cached};
use crate::history::{Expected, Outcome, Rule, Seen, Stored};

fn put(key: &str, revision: u64) -> Observed {
    Observed::Put { key: key.into(), revision, value: revision * 10 }
}

fn removed(key: &str, revision: u64) -> Observed {
    Observed::Removed { key: key.into(), revision }
}

fn stored(key: &str, revision: u64) -> Stored {
    Stored { key: key.into(), revision, value: Some(revision * 10), at: ms(0) }
}

fn log(reported: &[Observed]) -> Vec<(std::time::Duration, Observed)> {
    reported.iter().cloned().map(|reported| (ms(0), reported)).collect()
}

fn reported(reported: &[Observed], last: &[Stored]) -> Vec<(Rule, Vec<usize>)> {
    broken(&Watched::of(&log(reported)).in_order().last(last).check())
}

#[test]
fn complete_ordered_watch_passes() {
    let events = [
        put("a", 1),
        removed("b", 2),
        Observed::Ready,
        put("b", 3),
        removed("a", 4),
        Observed::Resync,
        put("b", 3),
        Observed::Resync,
        put("b", 3),
        Observed::Ready,
        put("a", 5),
    ];
    assert_eq!(reported(&events, &[stored("a", 5), stored("b", 3)]), []);
}

#[test]
fn repeated_or_reordered_event_is_caught() {
    let all = [stored("a", 2), stored("b", 3)];
    let events = [put("a", 1), Observed::Ready, put("a", 2), put("b", 3)];
    assert_eq!(reported(&events, &all), []);
    let twice = [put("a", 1), Observed::Ready, put("a", 2), put("b", 3), put("b", 3)];
    assert_eq!(reported(&twice, &all), [(Rule::EventsGrow, vec![3, 4]), (Rule::EventsGrow, vec![3, 4])]);
    let swapped = [put("a", 1), Observed::Ready, put("b", 3), put("a", 2)];
    assert_eq!(reported(&swapped, &all), [(Rule::EventsGrow, vec![2, 3])]);
    let coalesced = broken(&Watched::of(&log(&swapped)).last(&all).check());
    assert_eq!(coalesced, []);
    let old = [put("a", 2), Observed::Ready, put("b", 3), put("a", 1)];
    let found = reported(&old, &all);
    assert!(
        found.contains(&(Rule::EventsGrow, vec![0, 3])) && found.contains(&(Rule::Converges, vec![3])),
        "{found:?}"
    );
}

#[test]
fn old_entry_delivered_as_new_is_caught() {
    let events = log(&[Observed::Ready, put("a", 4), put("a", 6)]);
    assert_eq!(broken(&Watched::of(&events).since(4).check()), [(Rule::NothingOldIsNew, vec![1])]);
    let relisted = [put("a", 2), Observed::Ready, Observed::Resync, put("a", 1), Observed::Ready];
    assert_eq!(reported(&relisted, &[stored("a", 1)]), [(Rule::NothingOldIsNew, vec![0, 3])]);
    let otherwise = [put("a", 2), Observed::Ready, Observed::Resync, removed("a", 2), Observed::Ready];
    assert_eq!(reported(&otherwise, &[]), [(Rule::NothingOldIsNew, vec![0, 3])]);
}

#[test]
fn repeated_or_missing_ready_is_caught() {
    let twice = [Observed::Ready, put("a", 1), Observed::Ready];
    assert_eq!(reported(&twice, &[stored("a", 1)]), [(Rule::Discipline, vec![2])]);
    let never = [Observed::Ready, Observed::Resync, put("a", 1)];
    assert_eq!(reported(&never, &[stored("a", 1)]), [(Rule::Discipline, vec![3])]);
}

#[test]
fn watch_with_missed_entry_does_not_converge() {
    let events = [put("a", 1), put("b", 2), Observed::Ready];
    assert_eq!(reported(&events, &[stored("a", 1)]), [(Rule::Converges, vec![1])]);
    assert_eq!(reported(&events, &[stored("a", 1), stored("b", 3)]), [(Rule::Converges, vec![1])]);
    assert_eq!(reported(&events, &[stored("a", 1), stored("b", 2), stored("c", 3)]), [(Rule::Converges, vec![])]);
}

#[test]
fn cache_returning_to_old_revision_is_caught() {
    let look_up =
        |seen: Option<u64>| Lookup { key: "a".into(), seen: seen.map(|revision| Seen { revision, value: 0 }) };
    assert_eq!(broken(&cached(&[look_up(Some(1)), look_up(Some(1)), look_up(None), look_up(Some(3))])), []);
    let back = [look_up(Some(1)), look_up(Some(3)), look_up(None), look_up(Some(1))];
    assert_eq!(broken(&cached(&back)), [(Rule::NothingOldIsNew, vec![1, 3])]);
}

fn term_record(fence: u64, valid: std::ops::Range<u64>) -> TermRecord {
    let taken = ms(valid.start);
    TermRecord { client: 0, lock: "l".into(), fence, taken, valid: Some((ms(valid.start), ms(valid.end))) }
}

#[test]
fn non_overlapping_guards_pass() {
    let never_valid = TermRecord { valid: None, ..term_record(2, 0..0) };
    assert_eq!(
        broken(&term_log(&[term_record(1, 0..10), never_valid, term_record(3, 10..20), term_record(7, 30..40)])),
        []
    );
    let other = TermRecord { lock: "other".into(), ..term_record(1, 5..15) };
    assert_eq!(broken(&term_log(&[term_record(1, 0..10), other])), []);
}

#[test]
fn overlapping_guards_are_caught() {
    assert_eq!(broken(&term_log(&[term_record(1, 0..10), term_record(2, 9..20)])), [(Rule::OneHolder, vec![0, 1])]);
    // The overlap is found even if another acquisition lies between.
    let long = [term_record(1, 0..100), term_record(2, 10..20), term_record(3, 30..40)];
    assert_eq!(broken(&term_log(&long)), [(Rule::OneHolder, vec![0, 1]), (Rule::OneHolder, vec![0, 2])]);
}

#[test]
fn non_increasing_fences_are_caught() {
    assert_eq!(broken(&term_log(&[term_record(5, 0..10), term_record(4, 20..30)])), [(Rule::FencesGrow, vec![0, 1])]);
    assert_eq!(broken(&term_log(&[term_record(5, 0..10), term_record(5, 20..30)])), [(Rule::FencesGrow, vec![0, 1])]);
}

#[test]
fn accepted_stale_write_is_caught() {
    let held = [term_record(1, 0..10), term_record(2, 20..40)];
    let under = |term_record, op| Fenced { term_record, op };
    let history = |stale: Outcome, at: std::ops::Range<u64>| {
        History::default().written(5..10, Expected::Anything, 5).written(25..30, Expected::Anything, 6).write(
            at,
            Expected::Anything,
            stale,
        )
    };
    let check = |history: &History| broken(&fenced(&history.0, &held, &[under(0, 0), under(1, 1), under(0, 2)]));
    assert_eq!(check(&history(Outcome::Refused, 15..35)), []);
    // The bucket accepted the write after one with a newer fencing token, although its call came in time.
    assert_eq!(check(&history(Outcome::Written(7), 15..35)), [(Rule::StaleIsFenced, vec![1, 2])]);
    // The write came in time.
    assert_eq!(check(&history(Outcome::Written(4), 3..4)), []);
    // The call came after the other guard was granted, but before the first write with the newer token.
    let only_stale = History::default().written(22..24, Expected::Anything, 5);
    assert_eq!(broken(&fenced(&only_stale.0, &held, &[under(0, 0)])), [(Rule::StaleIsFenced, vec![0])]);
}

#[test]
fn overlapping_or_decreasing_terms_are_caught() {
    let (start, stop) = (|of, term| (of, Turn::Started(term)), |of, term| (of, Turn::Stopped(term)));
    assert_eq!(broken(&turns(&[start(0, 3), stop(0, 3), start(1, 5), start(0, 8), stop(1, 5)])), []);
    assert_eq!(broken(&turns(&[start(0, 3), start(0, 4)])), [(Rule::StopsBeforeStart, vec![0, 1])]);
    assert_eq!(broken(&turns(&[start(0, 3), stop(0, 2)])), [(Rule::StopsBeforeStart, vec![1])]);
    assert_eq!(broken(&turns(&[start(0, 3), stop(0, 3), start(1, 3)])), [(Rule::FencesGrow, vec![0, 2])]);
    assert_eq!(broken(&turns(&[start(0, 3), stop(0, 3), start(1, 2)])), [(Rule::FencesGrow, vec![0, 2])]);
}

#[test]
fn wrong_counter_total_is_caught() {
    let mut tally = Tally::default();
    tally.acknowledged(5);
    tally.unknown(2);
    tally.unknown(-1);
    let other = Tally { acknowledged: -2, ..Tally::default() };
    for (value, rules) in [(1, 1), (2, 0), (5, 0), (6, 1)] {
        let found = tally.and(other).check(value);
        assert_eq!(broken(&found), vec![(Rule::Counted, vec![]); rules], "{value}");
    }
}

#[test]
fn changing_sum_is_caught() {
    assert_eq!(broken(&sums(100, &[100, 100])), []);
    assert_eq!(broken(&sums(100, &[100, 95, 100])), [(Rule::SumIsConstant, vec![1])]);
}
