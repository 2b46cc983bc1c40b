//! Listings of keys: the subjects of a stream, at its leader.
//!
//! A server lists the subjects that match a filter in the information of the stream, at most 100,000 in one reply. A page
//! is an offset into the sorted list of that moment, so keys that are erased or added between two pages move the list. The
//! next page therefore begins before the last subject of the page before. If its first subject is later than that one,
//! keys were erased, and the page is requested again from further ahead.
//!
//! A leader that was cut off answers without a limit in time, and without the entries that the new leader acknowledged.
//! Its answer is dropped if it names no leader, or if a majority of the replicas was silent for some seconds.
//! This narrows the gap, and is no proof.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::api::Idempotency;
use crate::backend::nats::jetstream::error::ApiError;
use crate::backend::{Backoff, Deadline, KeySpace, ListKeysRequest};
use crate::error::{Error, Result};
use crate::key::{Key, Pattern};

/// The largest number of subjects that a page has in common with the page before.
const OVERLAP: u64 = 1_000;

/// An offset behind every list.
const BEHIND_THE_END: u64 = 1 << 40;

/// A leader may be cut off from a replica that was silent for this time. A replica answers every second.
const SILENCE: Duration = Duration::from_secs(4);

/// Lists the keys that match.
pub(crate) fn list_keys(context: Arc<StreamContext>, list: ListKeysRequest) -> BoxStream<'static, Result<Vec<Key>>> {
    let filter = subject_filter(&context, list.space, &list.pattern);
    let prefix = context.leader_prefix(list.space);
    let pages = stream::try_unfold(Listing::default(), move |mut listing| {
        let (context, filter, idle_timeout) = (Arc::clone(&context), filter.clone(), list.idle_timeout);
        async move {
            let deadline = Deadline::after(idle_timeout);
            while !listing.is_over {
                let page = SubjectPage::request(&context, &filter, listing.offset, deadline).await?;
                if let Some(subjects) = listing.add(page) {
                    return Ok(Some((subjects, listing)));
                }
            }
            Ok(None)
        }
    });
    let key = move |subject: String| {
        let text = subject.strip_prefix(&prefix)?;
        // A key that is not valid is not ours.
        Key::new(text).ok().filter(|_| list.pattern.matches(text))
    };
    let keys = pages.map_ok(move |subjects: Vec<String>| subjects.into_iter().filter_map(&key).collect::<Vec<_>>());
    keys.try_filter(|page| std::future::ready(!page.is_empty())).boxed()
}

/// Counts the keys that match.
pub(crate) async fn count_keys(
    context: &StreamContext,
    space: KeySpace,
    pattern: &Pattern,
    deadline: Deadline,
) -> Result<u64> {
    let filter = subject_filter(context, space, pattern);
    Ok(SubjectPage::request(context, &filter, BEHIND_THE_END, deadline).await?.total)
}

fn subject_filter(context: &StreamContext, space: KeySpace, pattern: &Pattern) -> String {
    format!("{}{pattern}", context.leader_prefix(space))
}

/// Some of the subjects that match a filter, in the order of their bytes.
#[derive(Debug, Default)]
struct SubjectPage {
    subjects: Vec<String>,
    /// The number of all subjects that match.
    total: u64,
}

impl SubjectPage {
    /// Requests a page from the leader.
    async fn request(context: &StreamContext, filter: &str, offset: u64, deadline: Deadline) -> Result<Self> {
        let verb = format!("STREAM.INFO.{}", context.leader_stream);
        let body = json!({ "subjects_filter": filter, "offset": offset });
        let mut backoff = Backoff::outage();
        loop {
            let reply = context.leader_api.call(&verb, Some(&body), Idempotency::Idempotent, deadline).await?;
            let mut info = reply.map_err(ApiError::into_error)?;
            if has_majority(&info) {
                return Ok(Self::parse(&mut info));
            }
            tracing::debug!(stream = context.leader_stream, "a leader without a majority listed keys");
            if !backoff.pause(deadline).await {
                return Err(Error::unavailable("a majority of the replicas of the bucket does not answer its leader"));
            }
        }
    }

    fn parse(info: &mut Value) -> Self {
        let mut subjects: Vec<_> = match info["state"]["subjects"].take() {
            Value::Object(subjects) => subjects.into_iter().map(|(subject, _)| subject).collect(),
            _ => Vec::new(),
        };
        subjects.sort_unstable();
        Self { total: info["total"].as_u64().unwrap_or_default(), subjects }
    }
}

/// Whether the server that answered leads the stream, as far as it knows.
fn has_majority(info: &Value) -> bool {
    let (cluster, replicas) = (&info["cluster"], info["config"]["num_replicas"].as_u64().unwrap_or(1));
    if replicas < 2 {
        return true;
    }
    let has_leader = cluster["leader"].as_str().is_some_and(|leader| !leader.is_empty());
    let peers = cluster["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_heard = |peer: &&Value| peer["active"].as_u64().is_some_and(|nanos| Duration::from_nanos(nanos) < SILENCE);
    let heard = 1 + peers.iter().filter(is_heard).count() as u64;
    has_leader && heard > replicas / 2
}

/// The progress of a listing.
#[derive(Debug, Default)]
struct Listing {
    /// The offset of the next page.
    offset: u64,
    /// The last subject that was listed.
    last: Option<String>,
    /// How much further ahead the next page begins than the page before, if that one began too late.
    step_back: u64,
    is_over: bool,
}

impl Listing {
    /// Adds a page. Returns its new subjects, or `None` if another page must be requested.
    fn add(&mut self, page: SubjectPage) -> Option<Vec<String>> {
        let SubjectPage { mut subjects, total } = page;
        let count = subjects.len() as u64;
        let last = self.last.as_deref().unwrap_or_default();
        if self.offset > 0 && subjects.first().is_none_or(|first| first.as_str() > last) {
            // Subjects before this page may be new to the listing.
            self.step_back = (2 * self.step_back).max(OVERLAP);
            self.offset = self.offset.min(total).saturating_sub(self.step_back);
            return None;
        }
        self.step_back = 0;
        self.is_over = self.offset + count >= total || count == 0;
        let overlap = (count / 10).clamp(1, OVERLAP);
        self.offset += (count - overlap.min(count)).max(1);
        subjects.drain(..subjects.partition_point(|subject| subject.as_str() <= last));
        self.last = subjects.last().cloned().or(self.last.take());
        (!subjects.is_empty()).then_some(subjects)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    /// Returns the page at an offset of a server that lists ten subjects at once.
    fn page(stored: &BTreeSet<u32>, offset: u64) -> SubjectPage {
        let from = usize::try_from(offset).unwrap();
        let subjects = stored.iter().skip(from).take(10).map(|number| format!("{number:05}")).collect();
        SubjectPage { subjects, total: stored.len() as u64 }
    }

    /// Lists while `change` changes the stored subjects after each page. Returns the subjects and the number of pages.
    fn list(stored: &mut BTreeSet<u32>, mut change: impl FnMut(&mut BTreeSet<u32>, usize)) -> (Vec<u32>, usize) {
        let (mut listing, mut found, mut pages) = (Listing::default(), Vec::new(), 0);
        while !listing.is_over {
            pages += 1;
            assert!(pages < 10_000, "the listing ends");
            found.extend(listing.add(page(stored, listing.offset)).into_iter().flatten());
            change(stored, pages);
        }
        (found.into_iter().map(|subject| subject.parse().unwrap()).collect(), pages)
    }

    #[test]
    fn listing_without_changes_returns_every_subject() {
        for count in [0_u32, 1, 9, 10, 11, 100, 1_234] {
            let mut stored = (0..count).collect();
            let (found, pages) = list(&mut stored, |_, _| {});
            assert!(found.iter().copied().eq(0..count), "{count}");
            assert!(pages <= 2 + count as usize / 8, "{count} subjects in {pages} pages");
        }
    }

    #[test]
    fn subject_that_stays_is_listed_once() {
        for seed in 0..200_u32 {
            let mut random = seed;
            let mut next = move || {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                random >> 8
            };
            let mut stored: BTreeSet<u32> = (0..200).map(|number| number * 10).collect();
            let mut stays: BTreeSet<u32> = stored.clone();
            let (found, _) = list(&mut stored, |stored, pages| {
                if pages > 60 {
                    return;
                }
                for _ in 0..next() % 30 {
                    let number = next() % 2_000;
                    stays.remove(&number);
                    if next() % 2 == 0 {
                        stored.remove(&number)
                    } else {
                        stored.insert(number)
                    };
                }
            });
            assert!(found.is_sorted_by(|a, b| a < b), "seed {seed}: in order, each once");
            let found: BTreeSet<_> = found.into_iter().collect();
            let missed: Vec<_> = stays.difference(&found).collect();
            assert!(missed.is_empty(), "seed {seed}: {missed:?}");
        }
    }

    #[test]
    fn listing_survives_the_removal_of_everything() {
        let mut stored = (0..500).collect();
        let (found, _) = list(&mut stored, |stored, pages| {
            if pages == 3 {
                stored.clear();
            }
        });
        assert!(found.len() < 500);
        let mut stored = (0..500).collect();
        let (found, _) = list(&mut stored, |stored, pages| {
            if pages == 3 {
                stored.retain(|number| *number >= 400);
            }
        });
        assert!(found.ends_with(&(400..500).collect::<Vec<_>>()));
    }

    #[test]
    fn answer_of_a_lonely_leader_is_dropped() {
        let info = |leader: Value, active: [u64; 2]| {
            let replicas = active.map(|seconds| json!({ "name": "x", "active": seconds * 1_000_000_000 }));
            json!({ "config": { "num_replicas": 3 }, "cluster": { "leader": leader, "replicas": replicas } })
        };
        assert!(has_majority(&info(json!("a"), [0, 60])));
        assert!(!has_majority(&info(json!("a"), [5, 60])));
        assert!(!has_majority(&info(Value::Null, [0, 0])));
        assert!(has_majority(&json!({ "config": { "num_replicas": 1 } })));
    }
}
