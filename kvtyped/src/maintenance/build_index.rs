//! `build_index`: builds an index of a bucket with records, while programs write.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep_until};

use super::checkpoint::Checkpoint;
use super::lease::{Job, JobLease};
use super::pacer::Pacer;
use crate::backend::ScanRequest;
use crate::bucket::Bucket;
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Pattern;
use crate::model::ModelCard;
use crate::model::index::{IndexCard, IndexInfo, IndexState, Indexed};
use crate::revision::Revision;

const OPERATION: &str = "build_index";

/// The number of records that are indexed at once.
const AT_ONCE: usize = 64;

impl<T: Indexed> Bucket<T> {
    /// Builds an index of a bucket that has records already. Programs continue to write.
    ///
    /// 1. Stores the state `writing` in the card of the model, under a new [write epoch](crate::config::WriteEpochs).
    ///    From then on, the server refuses programs that do not know the index.
    /// 2. Reads all records, and stores the entry of each.
    /// 3. Stores the state `readable`. A unique index with duplicates gets the state `pending`: lookups read it,
    ///    and new duplicates are refused. Change the records of the report, and build again.
    ///
    /// A build that was interrupted resumes with the next call. The result counts the records of that call. A build of a readable index changes nothing.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}")]
    /// # struct User { id: u64, #[kv(index)] team: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let users: Bucket<User> = Store::memory().bucket().await?;
    /// let built = users.build_index("team").all_writers_know().await?;
    /// assert!(built.is_readable);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Unsupported` in a bucket without write epochs, unless
    /// [`all_writers_know`](BuildIndex::all_writers_know) is set. Returns `InvalidConfig` if the model has no such index
    /// or no name, or if the index is eventual, and `Unavailable` if another job of the model runs. Returns `SchemaDiffers`
    /// if the bucket has another index of this name.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the index stays `writing`, and the entries so far stay.
    pub fn build_index<'a>(&'a self, index: &'a str) -> BuildIndex<'a, T> {
        BuildIndex { bucket: self, index, all_know: false, pace: None, wait: None, timeout: None, on_progress: None }
    }
}

type ProgressFn<'a> = Box<dyn FnMut(IndexBuildProgress) + Send + 'a>;

/// A build of an index; see [`Bucket::build_index`].
#[must_use = "nothing is built until it is awaited"]
pub struct BuildIndex<'a, T: Indexed> {
    bucket: &'a Bucket<T>,
    index: &'a str,
    all_know: bool,
    pace: Option<u32>,
    wait: Option<Duration>,
    timeout: Option<Duration>,
    on_progress: Option<ProgressFn<'a>>,
}

/// The progress of [`Bucket::build_index`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IndexBuildProgress {
    /// The number of records so far.
    pub records: u64,
    /// The number of entries so far.
    pub entries: u64,
}

/// The result of [`Bucket::build_index`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IndexBuilt {
    /// The number of records.
    pub records: u64,
    /// The number of entries or claims that were stored.
    pub entries: u64,
    /// Whether lookups read the index.
    pub is_readable: bool,
    /// The keys of two records with one unique value. Change one of them, and build again.
    pub duplicates: Vec<(String, String)>,
}

impl<'a, T: Indexed> BuildIndex<'a, T> {
    /// Confirms that every program that writes knows the index, for a bucket without write epochs. A record that another
    /// program writes during or after the build would lack its entry.
    pub fn all_writers_know(mut self) -> Self {
        self.all_know = true;
        self
    }

    /// Limits the number of records that are indexed in a second. Default: no limit.
    pub fn pace(mut self, records_per_second: u32) -> Self {
        self.pace = Some(records_per_second);
        self
    }

    /// Sets how long to wait for another job of this model. Default: does not wait.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Sets the timeout of each request. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Calls a function with the progress, about once per record.
    pub fn on_progress(mut self, on_progress: impl FnMut(IndexBuildProgress) + Send + 'a) -> Self {
        self.on_progress = Some(Box::new(on_progress));
        self
    }

    async fn run(self) -> Result<IndexBuilt> {
        let bucket = self.bucket;
        let built = async {
            bucket.raw(OPERATION)?;
            let info = T::__INDEXES.iter().find(|info| info.name == self.index);
            let Some(info) = info.filter(|_| !T::SCHEMA.name.is_empty()) else {
                let reason = format!("the model has no index `{}`, or no name", self.index);
                return Err(Error::invalid_config(reason));
            };
            if info.is_eventual {
                let reason = format!("the index `{}` is eventual; `maintain_indexes` builds and keeps it", info.name);
                return Err(Error::invalid_config(reason));
            }
            let lease = JobLease::acquire(bucket, Job::Records(OPERATION), self.wait).await?;
            lease.run(self.build(info)).await
        };
        built.await.map_err(|error: Error| error.of_model::<T>().with_context(OPERATION, bucket.name(), None))
    }

    async fn build(self, info: &'static IndexInfo) -> Result<IndexBuilt> {
        let Self { bucket, index: _, all_know, pace, wait: _, timeout, mut on_progress } = self;
        let status = bucket.refresh_status(bucket.deadline(timeout)).await?;
        let definition = u32::from_str_radix(info.fingerprint().get(..8).unwrap_or_default(), 16).unwrap_or_default();
        let mut checkpoint = Checkpoint::of_build::<T>(info.name, definition, status.created);
        let limit = timeout.unwrap_or(bucket.timeout());
        let is_interrupted = bucket
            .schema()
            .index::<T>(info.name)
            .is_some_and(|index| index.describes(info) && index.state == IndexState::Writing);
        let after = match is_interrupted {
            true => checkpoint.load(bucket, limit).await?,
            // Writers may have written records without entries since an earlier build.
            false => {
                checkpoint.forget(bucket, limit).await?;
                Revision::ZERO
            }
        };
        let is_built = |card: Option<&ModelCard>| {
            let index = card.and_then(|card| card.indexes.get(info.name));
            index.is_some_and(|index| index.describes(info) && index.state == IndexState::Readable)
        };
        let mut was_built = false;
        let begin = |card: Option<ModelCard>, config: &BucketConfig| {
            was_built = is_built(card.as_ref());
            if was_built {
                return Ok(None);
            }
            let other = card.as_ref().and_then(|card| card.indexes.get(info.name));
            if let Some(other) = other.filter(|other| other.state.is_maintained() && !other.describes(info)) {
                return Err(Error::new(ErrorKind::SchemaDiffers { report: other.difference(info) }));
            }
            if config.write_epochs.is_none() && !all_know {
                return Err(Error::unsupported(
                    "a bucket with write epochs, so that no program writes records without the index; \
                     or confirm with `.all_writers_know()`",
                    "a bucket without write epochs",
                ));
            }
            let epoch = config.write_epochs.map(|_| config.write_epoch.unwrap_or_default().saturating_add(1));
            Ok(with_state(bucket, card, info, IndexState::Writing).map(|card| (card, epoch)))
        };
        bucket.update_card(bucket.deadline(timeout), begin).await?;
        bucket.accept_indexes();
        if was_built {
            return Ok(IndexBuilt { is_readable: true, ..IndexBuilt::default() });
        }
        let mut built = IndexBuilt::default();
        let request = bucket.scan_request(vec![Pattern::all()].into(), timeout);
        let records = bucket.scan(OPERATION, ScanRequest { headers_only: false, after, ..request })?;
        let mut pacer = Pacer::new(pace, Instant::now());
        let paced = records.then(|item| {
            let next = pacer.next();
            if item.as_ref().is_ok_and(|item| item.entry.is_live()) {
                pacer.started(next.max(Instant::now()));
            }
            async move {
                sleep_until(next).await;
                item
            }
        });
        let stored = paced.map(|item| async move {
            let entry = match item {
                Ok(item) => item.entry,
                // An illegal key is not a record.
                Err(error) if error.key().is_some() => return Ok((Revision::ZERO, 0, 0, None)),
                Err(error) => return Err(error),
            };
            let revision = entry.revision;
            if !entry.is_live() {
                return Ok((revision, 0, 0, None));
            }
            let slots = bucket.slots_of(&entry, |other| other.name == info.name);
            let count = slots.len() as u64;
            match bucket.index_record(entry, slots, bucket.deadline(timeout)).await {
                Ok(()) => Ok((revision, 1, count, None)),
                Err(error) => match error.kind() {
                    ErrorKind::NotUnique { owner, .. } => {
                        Ok((revision, 1, 0, Some((owner.clone(), error.key().unwrap_or_default().to_owned()))))
                    }
                    _ => Err(error),
                },
            }
        });
        // In the order of the revisions, for the position of a later call.
        let mut stored = stored.buffered(AT_ONCE).boxed();
        while let Some((revision, records, entries, duplicate)) = stored.try_next().await? {
            built.records += records;
            built.entries += entries;
            built.duplicates.extend(duplicate);
            // A later call has to report the duplicates.
            if built.duplicates.is_empty() {
                checkpoint.reached(bucket, revision).await;
            }
            if let Some(on_progress) = &mut on_progress {
                on_progress(IndexBuildProgress { records: built.records, entries: built.entries });
            }
        }
        drop(stored);
        let state = if built.duplicates.is_empty() { IndexState::Readable } else { IndexState::Pending };
        let end = |card: Option<ModelCard>, _: &BucketConfig| {
            Ok(with_state(bucket, card, info, state.clone()).map(|card| (card, None)))
        };
        bucket.update_card(bucket.deadline(timeout), end).await?;
        checkpoint.remove(bucket).await;
        built.is_readable = true;
        Ok(built)
    }
}

/// Returns the card with the index in this state. `None` if the program may not change the card.
pub(super) fn with_state<T: Indexed>(
    bucket: &Bucket<T>,
    card: Option<ModelCard>,
    info: &IndexInfo,
    state: IndexState,
) -> Option<ModelCard> {
    let mut card = card.or_else(|| bucket.program_card(None))?;
    let begun = card.indexes.get(info.name).filter(|index| index.state == IndexState::Writing && index.describes(info));
    let build =
        begun.and_then(|index| index.build.clone()).unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
    let index = IndexCard { build: Some(build), ..IndexCard::new(info, state) };
    card.indexes.insert(info.name.to_owned(), index);
    Some(card)
}

impl<'a, T: Indexed> IntoFuture for BuildIndex<'a, T> {
    type Output = Result<IndexBuilt>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.bucket;
        bucket.observe(OPERATION, Box::pin(self.run()))
    }
}

impl<T: Indexed> fmt::Debug for BuildIndex<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, index, all_know, pace, timeout, .. } = self;
        f.debug_struct("BuildIndex")
            .field("bucket", bucket)
            .field("index", index)
            .field("all_know", all_know)
            .field("pace", pace)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}
