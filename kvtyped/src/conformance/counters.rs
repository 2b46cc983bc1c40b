//! Counters, for backends that support them.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::subject::{BackendUnderTest, key, put};
use crate::backend::{Deadline, RawCounters};
use crate::error::{ErrorKind, Outcome};
use crate::key::{Key, Pattern};

/// Creates counters. Returns `None` if the backend does not support counters, and checks that its capabilities agree.
async fn counters(subject: &BackendUnderTest) -> Option<Arc<dyn RawCounters>> {
    let able = subject.backend().capabilities(subject.deadline()).await.expect("the backend returns its capabilities");
    let made = subject.backend().counters(subject.config(|_| {}), subject.deadline()).await;
    let made = made.expect("the backend creates or does not support counters");
    assert_eq!(made.is_some(), able.counters, "{able:?}");
    made
}

async fn add(counters: &dyn RawCounters, on: &Key, delta: i128, deadline: Deadline) -> i128 {
    match counters.add(on, delta, deadline).await {
        Ok(total) => total,
        Err(error) => panic!("adding {delta} to {on:?} fails: {error:?}"),
    }
}

/// Counters are created under an unused name. A bucket of records has no counters.
pub async fn counters_and_records_use_separate_buckets(subject: &BackendUnderTest) {
    let bucket = subject.bucket(|_| {}).await;
    let config = bucket.raw.config().clone();
    let found = subject.backend().counters(config, subject.deadline()).await.expect("the backend answers");
    assert!(found.is_none(), "a bucket of records has no counters");
    bucket.write(put(&key("k"), "v")).await;

    let mut config = subject.config(|_| {});
    let able = subject.backend().capabilities(subject.deadline()).await.expect("the backend answers").counters;
    if !able {
        assert!(
            subject
                .backend()
                .counters(config.clone(), subject.deadline())
                .await
                .expect("the backend answers")
                .is_none()
        );
        let made = subject.backend().open(&config.name, subject.deadline()).await.expect("the backend answers");
        assert!(made.is_none(), "a backend without counters creates nothing");
        return;
    }
    let one = subject
        .backend()
        .counters(config.clone(), subject.deadline())
        .await
        .unwrap()
        .expect("the counters are created");
    let other =
        subject.backend().counters(config.clone(), subject.deadline()).await.unwrap().expect("the counters are found");
    add(&*one, &key("k"), 1, subject.deadline()).await;
    assert_eq!(add(&*other, &key("k"), 1, subject.deadline()).await, 2, "both handles use the same counters");
    let made = subject.backend().open(&config.name, subject.deadline()).await.unwrap().expect("the name is taken");
    let refused = made.write(put(&key("k"), "v"), subject.deadline()).await.expect_err("no records");
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused:?}");
    assert_eq!(refused.outcome(), Outcome::NotApplied);
    config.name = "not a name".into();
    let wrong = subject.backend().counters(config, subject.deadline()).await.expect_err("no name");
    assert!(matches!(wrong.kind(), ErrorKind::InvalidConfig { .. }), "{wrong:?}");
}

/// An increment returns the new total.
pub async fn increment_returns_the_new_total(subject: &BackendUnderTest) {
    let Some(counters) = counters(subject).await else { return };
    for (delta, total) in [(5, 5), (-7, -2), (0, -2), (2, 0)] {
        assert_eq!(add(&*counters, &key("a"), delta, subject.deadline()).await, total);
    }
    assert_eq!(add(&*counters, &key("b"), 1, subject.deadline()).await, 1, "counters are independent");
}

/// Every concurrent increment is counted once, and returns a unique total.
pub async fn concurrent_increments_count_once(subject: &BackendUnderTest) {
    let Some(counters) = counters(subject).await else { return };
    let on = key("a");
    let additions = (0..200).map(|_| add(&*counters, &on, 1, subject.deadline()));
    let mut totals: Vec<_> = futures::stream::iter(additions).buffer_unordered(16).collect().await;
    totals.sort_unstable();
    assert!(totals.into_iter().eq(1..=200), "each total is returned exactly once");
}

/// A counter does not wrap at the limits of `i64`.
pub async fn counter_exceeds_64_bits(subject: &BackendUnderTest) {
    let Some(counters) = counters(subject).await else { return };
    let large = i128::from(i64::MAX);
    add(&*counters, &key("a"), large, subject.deadline()).await;
    assert_eq!(add(&*counters, &key("a"), large, subject.deadline()).await, 2 * large);
    assert_eq!(add(&*counters, &key("a"), -4 * large, subject.deadline()).await, -2 * large);
    assert_eq!(counters.read(&key("a"), subject.deadline()).await.unwrap(), Some(-2 * large));
}

/// A read sees every acknowledged increment, and returns `None` for a counter without an increment.
pub async fn counter_read_sees_every_increment(subject: &BackendUnderTest) {
    let Some(counters) = counters(subject).await else { return };
    assert_eq!(counters.read(&key("a"), subject.deadline()).await.unwrap(), None);
    for total in 1..=20 {
        add(&*counters, &key("a"), 1, subject.deadline()).await;
        assert_eq!(counters.read(&key("a"), subject.deadline()).await.unwrap(), Some(total));
    }
}

/// A scan returns each counter that matches its pattern once.
pub async fn scan_yields_each_counter_once(subject: &BackendUnderTest) {
    let Some(counters) = counters(subject).await else { return };
    for (on, times) in [("a", 1), ("b", 2), ("x.a", 3), ("x.b", 1)] {
        for _ in 0..times {
            add(&*counters, &key(on), 10, subject.deadline()).await;
        }
    }
    let one = || Pattern::new().segment::<String>(None, "", "");
    let below = Pattern::new().literal("x").segment::<String>(None, "", "");
    for (pattern, wanted) in [(one(), vec![("a", 10), ("b", 20)]), (below, vec![("x.a", 30), ("x.b", 10)])] {
        let wanted: Vec<_> = wanted.into_iter().map(|(on, total)| (key(on), total)).collect();
        subject
            .eventually(&format!("a scan gives {wanted:?}"), async || {
                let scan = counters.scan(pattern.clone(), subject.deadline().remaining());
                let mut found: Vec<_> = scan.try_collect().await.expect("the scan has no error");
                found.sort_unstable();
                (found == wanted).then_some(())
            })
            .await;
    }
    let none = Pattern::new().literal("y").segment::<String>(None, "", "");
    assert_eq!(counters.scan(none, subject.deadline().remaining()).count().await, 0);
}

/// A removed counter restarts at zero.
pub async fn removed_counter_restarts_at_zero(subject: &BackendUnderTest) {
    let Some(counters) = counters(subject).await else { return };
    counters.remove(&key("a"), subject.deadline()).await.expect("removal of a missing counter has no effect");
    add(&*counters, &key("a"), 5, subject.deadline()).await;
    add(&*counters, &key("b"), 5, subject.deadline()).await;
    counters.remove(&key("a"), subject.deadline()).await.expect("the removal succeeds");
    assert_eq!(counters.read(&key("a"), subject.deadline()).await.unwrap(), None);
    assert_eq!(add(&*counters, &key("a"), 1, subject.deadline()).await, 1);
    assert_eq!(
        counters.read(&key("b"), subject.deadline()).await.unwrap(),
        Some(5),
        "the other counters are unchanged"
    );
}
