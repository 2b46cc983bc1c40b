//! Scans and watches by patterns, compared with a filter over all entries.

use std::collections::HashMap;

use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::MemoryBackend;
use super::{SECOND, key, soon, write};
use crate::backend::{
    Backend, Delivered, RawBucket, ScanRequest, StartFrom, WatchRequest, WatchSignal, Write, WriteKind,
};
use crate::config::BucketConfig;
use crate::key::{Key, Pattern};
use crate::revision::Revision;

/// Segments whose order in a key differs from their order alone: `-`, `.` and `/` are the smallest characters.
const SEGMENTS: [&str; 8] = ["a", "a-", "a-b", "a/b", "ab", "b", "a=", Key::RESERVED];

fn random_key(random: &mut StdRng) -> Key {
    let segments = random.random_range(1..4);
    let segments: Vec<_> = (0..segments).map(|_| SEGMENTS[random.random_range(0..SEGMENTS.len())]).collect();
    key(&segments.join("."))
}

fn random_pattern(random: &mut StdRng) -> Pattern {
    let mut pattern = Pattern::new();
    for _ in 0..random.random_range(0..4) {
        pattern = match random.random_range(0..6) {
            0 => pattern.any(),
            1 => pattern.segment::<String>(None, "a", ""),
            2 => pattern.segment::<String>(None, "", "b"),
            _ => pattern.literal(SEGMENTS[random.random_range(0..SEGMENTS.len())]),
        };
    }
    if random.random_bool(0.4) { pattern.open() } else { pattern }
}

/// Every entry of the bucket, in the order of revisions.
type Entries = Vec<(Revision, Key)>;

/// Returns the revisions after `after` whose keys match.
fn filtered(all: &Entries, patterns: &[Pattern], after: Revision, newest: bool) -> Vec<Revision> {
    let last: HashMap<_, _> = all.iter().map(|(revision, key)| (key, *revision)).collect();
    let wanted = |(revision, key): &&(Revision, Key)| {
        *revision > after
            && (!newest || last[key] == *revision)
            && patterns.iter().any(|pattern| pattern.matches(key.as_str()))
    };
    all.iter().filter(wanted).map(|(revision, _)| *revision).collect()
}

async fn scanned(bucket: &dyn RawBucket, patterns: &[Pattern], after: Revision, newest: bool) -> Vec<Revision> {
    let scan = ScanRequest {
        patterns: patterns.to_vec().into(),
        history: !newest,
        headers_only: true,
        after,
        limit: None,
        idle_timeout: SECOND,
    };
    bucket.scan(scan).map(|item| item.unwrap().entry.revision).collect().await
}

async fn listed(bucket: &dyn RawBucket, patterns: &[Pattern], since: StartFrom) -> Vec<Revision> {
    let (patterns, delivered) = (patterns.to_vec().into(), Delivered::default());
    let mut signals =
        bucket.watch(WatchRequest { patterns, since, headers_only: true, idle_timeout: SECOND, delivered });
    let mut revisions = Vec::new();
    loop {
        match signals.next().await.unwrap().unwrap() {
            WatchSignal::Started(_) => {}
            WatchSignal::Entry { entry, .. } => revisions.push(entry.revision),
            WatchSignal::Ready => return revisions,
            other => unreachable!("a listing has no {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn search_equals_filter_over_all_entries() {
    for seed in 0..16 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut config = BucketConfig::new("b");
        config.history = Some(random.random_range(1..4));
        let bucket = MemoryBackend::new().create(config, soon()).await.unwrap();
        for _ in 0..random.random_range(1..900) {
            let kind = match random.random_range(0..10) {
                0 => WriteKind::Delete,
                1 => WriteKind::Purge,
                _ => WriteKind::Put("v".into()),
            };
            write(&bucket, Write::new(random_key(&mut random), kind)).await.unwrap();
        }
        let everything = ScanRequest {
            patterns: vec![Pattern::all(), Pattern::reserved(), Pattern::new().literal(Key::RESERVED)].into(),
            history: true,
            headers_only: true,
            after: Revision::ZERO,
            limit: None,
            idle_timeout: SECOND,
        };
        let all = bucket.scan(everything).map(|item| item.unwrap().entry).map(|entry| (entry.revision, entry.key));
        let all: Entries = all.collect().await;
        let last = bucket.status(soon()).await.unwrap().last_revision;
        for _ in 0..50 {
            let patterns = random.random_range(0..4);
            let patterns: Vec<_> = (0..patterns).map(|_| random_pattern(&mut random)).collect();
            let after = Revision::new(random.random_range(0..last.get()) * u64::from(random.random_bool(0.5)));
            let case = format!("seed {seed}, {patterns:?} after {after}");
            for newest in [true, false] {
                let wanted = filtered(&all, &patterns, after, newest);
                assert_eq!(scanned(&*bucket, &patterns, after, newest).await, wanted, "{case}, newest: {newest}");
            }
            for (since, after, newest) in [
                (StartFrom::Newest, Revision::ZERO, true),
                (StartFrom::History, Revision::ZERO, false),
                (StartFrom::After(after), after, false),
            ] {
                let wanted = filtered(&all, &patterns, after, newest);
                assert_eq!(listed(&*bucket, &patterns, since).await, wanted, "{case}, {since:?}");
            }
        }
    }
}
