//! `list_by`.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::future::try_join;
use futures::ready;
use futures::stream::{self, BoxStream, Stream, StreamExt};

use super::candidates::Candidates;
use super::cursor::IndexCursor;
use super::options::{LookupOptions, lookup_options};
use super::order::Position;
use super::page::{Found, Page, read_page};
use crate::backend::{Deadline, Read};
use crate::bucket::verb::verb;
use crate::bucket::{Entry, IndexBuild, ReadBucket};
use crate::error::Result;
use crate::model::index::{IndexInfo, Lookup, Many, values_of};
use crate::model::{Indexed, KvModel};

/// The number of records that are read at once, which is one request.
const PAGE: usize = 1_000;

impl<T: KvModel> ReadBucket<T> {
    /// Reads the records that match a lookup, as a stream, in the order of the value and then of the key.
    ///
    /// Numbers are ordered by size, and texts by their UTF-8 bytes. The stream yields a record once, also if several of its
    /// values match. [`ListBy::limit`] and [`ListBy::after`] split a list into pages.
    ///
    /// A record is yielded if its write was acknowledged before the call and its value has matched since. Every yielded
    /// record matches at its yielded revision. The list is not a snapshot: a record that is written
    /// while the list is read may be missing, or may be out of order if its value changes.
    ///
    /// The call first lists the entries of the index at the leader. This takes a millisecond for 1,000 matches, however
    /// large the bucket is, and about 100 bytes of memory each. Then it reads the first 1,000 records. The stream reads the
    /// others, in pages of 1,000.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}")]
    /// # struct User { id: u64, #[kv(index)] team: Option<String> }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let users: Bucket<User> = Store::memory().bucket().await?;
    /// for (id, team) in [(10, "core"), (9, "core"), (8, "web")] {
    ///     users.put(&User { id, team: Some(team.into()) }).await?;
    /// }
    ///
    /// let mut ids = Vec::new();
    /// let mut core = users.list_by(User::by_team("core")).await?;
    /// while let Some(user) = core.try_next().await? {
    ///     ids.push(user.id);
    /// }
    /// assert_eq!(ids, [9, 10]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `IndexBuilding` if the index is not built, or was dropped. A record that cannot be decoded is an `Err` item
    /// with its key. An error without a key is the last item.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or the stream has no effect.
    pub fn list_by(&self, lookup: impl Into<Lookup<T, Many>>) -> ListBy<'_, T>
    where
        T: Indexed,
    {
        self.list_of(lookup.into(), LookupOptions::default())
    }

    pub(super) fn list_of(&self, lookup: Lookup<T, Many>, options: LookupOptions) -> ListBy<'_, T> {
        ListBy { bucket: self, lookup, is_descending: false, after: None, limit: None, read: Read::Any, options }
    }
}

/// A list of records by an index; see [`ReadBucket::list_by`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct ListBy<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    lookup: Lookup<T, Many>,
    is_descending: bool,
    after: Option<IndexCursor>,
    limit: Option<usize>,
    read: Read,
    options: LookupOptions,
}

impl<'a, T: KvModel> ListBy<'a, T> {
    /// Reverses the order.
    pub fn descending(mut self) -> Self {
        self.is_descending = true;
        self
    }

    /// Starts after the cursor of an earlier list by the same index, in the order of this list.
    ///
    /// A record with several matching values may repeat in a later page.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the cursor is of another index, and `BucketReplaced` if the bucket was recreated since.
    pub fn after(mut self, cursor: IndexCursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// Limits the number of records. Further records are not read.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets the consistency of the reads of the records. The entries are always read at the leader.
    pub fn read(mut self, read: Read) -> Self {
        self.read = read;
        self
    }

    async fn run(self) -> Result<EntriesBy<T>> {
        let bucket = self.bucket;
        self.entries("list_by").await.map_err(|error| error.with_context("list_by", bucket.name(), None))
    }

    /// Lists the entries of the index, and prepares the stream of the records.
    pub(super) async fn entries(self, operation: &'static str) -> Result<EntriesBy<T>> {
        let Self { bucket, lookup, is_descending, after, limit, read, options } = self;
        let raw = bucket.raw(operation)?;
        let (created, idle_timeout) = (raw.identity().created, options.timeout.unwrap_or_else(|| bucket.timeout()));
        let (info, left) = (lookup.info(), limit.unwrap_or(usize::MAX));
        let Some(info) = info else {
            let (records, last) = (stream::empty().boxed(), None);
            return Ok(EntriesBy { records, created, info, last, upper_bound: 0 });
        };
        let after = after.map(|cursor| cursor.position(created, info)).transpose()?;
        loop {
            let build = options.begin(bucket, info, Deadline::after(idle_timeout)).await?;
            let candidates = Candidates::list(&**raw, &lookup, idle_timeout).await?;
            let candidates = if is_descending { candidates.descending() } else { candidates };
            let mut candidates = match &after {
                Some(position) => candidates.after(position),
                None => candidates,
            };
            let upper_bound = left.min(candidates.left());
            let yielded = candidates.has_several_values().then(HashSet::new);
            let (first, deadline) = (candidates.take(left.min(PAGE)), Deadline::after(idle_timeout));
            let page = read_page(bucket, &**raw, &lookup, first, read, deadline);
            let (page, current) = try_join(page, bucket.current_build(info, deadline)).await?;
            if current != build {
                continue;
            }
            let bucket = bucket.clone();
            let found = VecDeque::new();
            let mut listing = Listing {
                bucket,
                operation,
                lookup,
                info,
                build,
                candidates,
                yielded,
                found,
                left,
                read,
                idle_timeout,
            };
            listing.add(page.found);
            let info = Some(info);
            return Ok(EntriesBy { records: listing.stream(), created, info, last: after, upper_bound });
        }
    }
}

lookup_options!(ListBy: "Sets the longest time without progress. Default: the bucket's timeout.");
verb!(ListBy("list_by", bucket) => EntriesBy<T>);

/// A running list.
struct Listing<T: KvModel> {
    bucket: ReadBucket<T>,
    operation: &'static str,
    lookup: Lookup<T, Many>,
    info: &'static IndexInfo,
    /// The build whose entries are the candidates.
    build: IndexBuild,
    candidates: Candidates,
    /// The keys of the records that were found, if a record can be at several positions.
    yielded: Option<HashSet<T::Key>>,
    /// The records to yield before more are read.
    found: VecDeque<Found<T>>,
    left: usize,
    read: Read,
    idle_timeout: Duration,
}

/// An item of a list, with its position. An error of the list itself has no position.
type Item<T> = (Option<Position>, Result<Entry<T>>);

impl<T: KvModel> Listing<T> {
    fn stream(self) -> BoxStream<'static, Item<T>> {
        stream::unfold(Some(Box::new(self)), |listing| async move {
            let mut listing = listing?;
            match listing.next().await {
                Ok(Some((position, entry))) => {
                    let (operation, name) = (listing.operation, listing.bucket.name());
                    let entry = entry.map_err(|error| error.with_context(operation, name, None));
                    Some(((Some(position), entry), Some(listing)))
                }
                Ok(None) => None,
                Err(error) => {
                    let error = error.with_context(listing.operation, listing.bucket.name(), None);
                    Some(((None, Err(error)), None))
                }
            }
        })
        .boxed()
    }

    /// Returns the next record.
    async fn next(&mut self) -> Result<Option<Found<T>>> {
        while self.left > 0 {
            if let Some(found) = self.found.pop_front() {
                self.left -= 1;
                return Ok(Some(found));
            }
            let positions = self.candidates.take(self.left.min(PAGE));
            if positions.is_empty() {
                return Ok(None);
            }
            let found = self.read_page(positions).await?;
            self.add(found);
        }
        Ok(None)
    }

    /// Reads the records at these positions. Reads them again if a claim is gone and the index has another build: a drop
    /// erases claims, but not their records.
    async fn read_page(&mut self, positions: Vec<Position>) -> Result<Vec<Found<T>>> {
        let (bucket, lookup) = (&self.bucket, &self.lookup);
        let raw = bucket.raw(self.operation)?;
        loop {
            let deadline = Deadline::after(self.idle_timeout);
            let Page { found, dropped } =
                read_page(bucket, &**raw, lookup, positions.clone(), self.read, deadline).await?;
            if dropped == 0 || !self.info.is_unique() {
                return Ok(found);
            }
            let current = bucket.current_build(self.info, deadline).await?;
            if current == self.build {
                return Ok(found);
            }
            self.build = current;
        }
    }

    /// Adds the records of a page that belong to their positions.
    fn add(&mut self, page: Vec<Found<T>>) {
        for (position, entry) in page {
            if let (Some(yielded), Ok(record)) = (&mut self.yielded, &entry) {
                // A record whose value has changed comes at its new position, if the list has an entry there.
                let comes_later = |value: &str| {
                    let key = position.key.clone();
                    self.candidates.has_left(&Position { value: value.to_owned(), key })
                };
                let values = values_of::<T>(record);
                let matching: Vec<_> = values.of_index(self.lookup.index()).map(|value| &*value.text).collect();
                let is_here = matching.contains(&&*position.value);
                let moves = |value: &&str| self.lookup.matches_value(value) && comes_later(value);
                if !is_here && matching.iter().any(moves) {
                    continue;
                }
                if !yielded.insert(record.key().clone()) {
                    continue;
                }
            }
            self.found.push_back((position, entry));
        }
    }
}

/// A stream of records by an index; see [`ReadBucket::list_by`].
#[must_use = "a stream does nothing until it is polled"]
pub struct EntriesBy<T: KvModel> {
    records: BoxStream<'static, Item<T>>,
    created: SystemTime,
    info: Option<&'static IndexInfo>,
    /// The position of the last record.
    last: Option<Position>,
    upper_bound: usize,
}

impl<T: KvModel> EntriesBy<T> {
    /// Returns the position after the last record that the stream yielded. `None` before the first one.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}")]
    /// # struct User { id: u64, #[kv(index)] team: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let users: Bucket<User> = Store::memory().bucket().await?;
    /// # for id in 0..5 { users.put(&User { id, team: "core".into() }).await?; }
    /// let mut page = users.list_by(User::by_team("core")).limit(3).await?;
    /// assert_eq!(page.by_ref().count().await, 3);
    /// let cursor = page.cursor().expect("three records").to_string();
    ///
    /// let rest = users.list_by(User::by_team("core")).after(cursor.parse()?).await?;
    /// assert_eq!(rest.count().await, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cursor(&self) -> Option<IndexCursor> {
        let (position, info) = (self.last.clone()?, self.info?);
        Some(IndexCursor::new(self.created, info, position))
    }
}

impl<T: KvModel> Stream for EntriesBy<T> {
    type Item = Result<Entry<T>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((position, entry)) = ready!(self.records.poll_next_unpin(context)) else { return Poll::Ready(None) };
        if let Some(position) = position {
            self.last = Some(position);
        }
        self.upper_bound = self.upper_bound.saturating_sub(1);
        Poll::Ready(Some(entry))
    }

    /// Returns the number of entries as the upper bound, and one more for an error.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.upper_bound.checked_add(1))
    }
}

impl<T: KvModel> fmt::Debug for EntriesBy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.info.map(|info| info.name).unwrap_or_default();
        f.debug_struct("EntriesBy").field("index", &index).field("left", &self.upper_bound).finish_non_exhaustive()
    }
}
