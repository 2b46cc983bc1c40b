//! `verify_indexes`: compares the entries of the indexes with the records, and repairs them.

use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};

use super::follow_record::erase_slot;
use crate::backend::{Deadline, KeySpace, ListKeysRequest, RawEntry, ScanRequest};
use crate::bucket::index::repair::is_same;
use crate::bucket::index::slot::Slot;
use crate::bucket::{Bucket, ReadBucket};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, Pattern};
use crate::model::index::{IndexInfo, Indexed, claims, entries, parse_claim, parse_entry};
use crate::revision::Revision;

const OPERATION: &str = "verify_indexes";

/// The number of records that are checked at once.
const AT_ONCE: usize = 64;

/// The number of records that one request reads.
const PAGE: usize = 1_000;

impl<T: Indexed> Bucket<T> {
    /// Compares the entries of all indexes with the records, in both directions: records without their entries, entries
    /// and claims without their records, and records with one unique value.
    ///
    /// Writers leave an entry behind if they die, or if their user may not erase. Lookups skip such entries. A record
    /// without its entry is a defect, or was written by a program that does not know the index. An entry whose record is
    /// about to be written counts as stale.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}")]
    /// # struct User { id: u64, #[kv(unique)] email: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let users: Bucket<User> = Store::memory().bucket().await?;
    /// users.put(&User { id: 7, email: "ada@example.com".into() }).await?;
    /// let report = users.verify_indexes().repair().await?;
    /// assert_eq!((report.records, report.indexes[0].entries), (1, 1));
    /// assert!(report.is_clean());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of a list. With [`repair`](VerifyIndexes::repair), returns the errors of writes and
    /// `PermissionDenied` if the user may not purge. Repairs before the error stay.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the repairs so far stay.
    pub fn verify_indexes(&self) -> VerifyIndexes<'_, T> {
        VerifyIndexes { bucket: self, repair: false, timeout: None }
    }
}

/// A comparison of the indexes with the records; see [`Bucket::verify_indexes`].
#[must_use = "nothing is compared until it is awaited"]
#[derive(Debug)]
pub struct VerifyIndexes<'a, T: Indexed> {
    bucket: &'a Bucket<T>,
    repair: bool,
    timeout: Option<Duration>,
}

/// The result of [`Bucket::verify_indexes`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IndexReport {
    /// The number of records.
    pub records: u64,
    /// The indexes, in the order of the model, without eventual indexes.
    pub indexes: Vec<IndexCheck>,
}

/// One index in an [`IndexReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexCheck {
    /// The name of the index.
    pub index: &'static str,
    /// The number of entries, or of claims of a unique index.
    pub entries: u64,
    /// The number of values of records without an entry, or with the claim of another record.
    pub missing: u64,
    /// The number of entries or claims that no record matches.
    pub stale: u64,
    /// The number of repaired entries and claims.
    pub repaired: u64,
    /// The keys of two records with one unique value. Change one of them.
    pub duplicates: Vec<(String, String)>,
}

impl IndexCheck {
    pub(super) fn new(info: &IndexInfo) -> Self {
        Self { index: info.name, entries: 0, missing: 0, stale: 0, repaired: 0, duplicates: Vec::new() }
    }
}

impl IndexReport {
    /// Whether every record has its entries and every entry its record.
    pub fn is_clean(&self) -> bool {
        self.indexes.iter().all(|index| index.missing == 0 && index.stale == 0 && index.duplicates.is_empty())
    }
}

impl<T: Indexed> VerifyIndexes<'_, T> {
    /// Stores missing entries, and erases stale ones. Before an entry is erased, its record is written again unchanged,
    /// so that a pending writer fails.
    pub fn repair(mut self) -> Self {
        self.repair = true;
        self
    }

    /// Sets the timeout of each request. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<IndexReport> {
        let name = self.bucket.name();
        self.steps().await.map_err(|error: Error| error.of_model::<T>().with_context(OPERATION, name, None))
    }

    async fn steps(self) -> Result<IndexReport> {
        let Self { bucket, repair, timeout } = self;
        let mut report = IndexReport { records: 0, indexes: T::__INDEXES.iter().map(IndexCheck::new).collect() };
        let request = bucket.scan_request(vec![Pattern::all()].into(), timeout);
        let records = bucket.scan(OPERATION, ScanRequest { headers_only: false, ..request })?;
        let found = records.map(|item| async move {
            // An illegal key is not a record.
            let entry = match item {
                Ok(item) => item.entry,
                Err(error) if error.key().is_some() => return Ok(None),
                Err(error) => return Err(error),
            };
            if !entry.is_live() {
                return Ok(None);
            }
            let slots = bucket.slots_of(&entry, |info| !info.is_eventual);
            let missing = bucket.missing_slots(&entry.key, slots, bucket.deadline(timeout)).await?;
            Ok(Some((entry, missing)))
        });
        let mut found = found.buffer_unordered(AT_ONCE).boxed();
        while let Some(item) = found.try_next().await? {
            let Some((entry, missing)) = item else { continue };
            report.records += 1;
            if !missing.is_empty() {
                check_record(bucket, &entry, missing, repair, timeout, &mut report).await?;
            }
        }
        drop(found);
        for (index, info) in T::__INDEXES.iter().enumerate().filter(|(_, info)| !info.is_eventual) {
            check_entries(bucket, (index, info), repair, timeout, &mut report.indexes[index]).await?;
        }
        let is_kept =
            |check: &IndexCheck| T::__INDEXES.iter().any(|info| info.name == check.index && !info.is_eventual);
        report.indexes.retain(is_kept);
        Ok(report)
    }
}

/// Counts and repairs the missing entries of a record.
async fn check_record<T: Indexed>(
    bucket: &Bucket<T>,
    entry: &RawEntry,
    missing: Vec<Slot>,
    repair: bool,
    timeout: Option<Duration>,
    report: &mut IndexReport,
) -> Result<()> {
    let deadline = bucket.deadline(timeout);
    let now = bucket.newest_of(std::slice::from_ref(&entry.key), deadline).await?;
    // A writer that has replaced the record has stored its entries.
    if !is_same(entry, now.get(&entry.key)) {
        return Ok(());
    }
    for slot in missing {
        let Some(check) = report.indexes.get_mut(slot.index) else { continue };
        check.missing += 1;
        if !repair {
            continue;
        }
        match bucket.store_slots(entry, vec![slot], deadline).await {
            Ok(()) => check.repaired += 1,
            Err(error) => match error.kind() {
                ErrorKind::NotUnique { owner, .. } => {
                    check.duplicates.push((owner.clone(), entry.key.to_string()));
                }
                ErrorKind::Conflict { .. } => {}
                _ => return Err(error.with_key(entry.key.as_str())),
            },
        }
    }
    Ok(())
}

/// Counts the entries or claims of an index, and removes the stale ones.
pub(super) async fn check_entries<T: Indexed>(
    bucket: &Bucket<T>,
    (index, info): (usize, &'static IndexInfo),
    repair: bool,
    timeout: Option<Duration>,
    check: &mut IndexCheck,
) -> Result<()> {
    let model = T::SCHEMA.name;
    let pattern = if info.is_unique() { claims(model, info) } else { entries(model, info) };
    let idle_timeout = timeout.unwrap_or(bucket.timeout());
    let list = ListKeysRequest { space: KeySpace::Index, pattern, idle_timeout };
    let mut pages = bucket.raw(OPERATION)?.list_keys(list);
    while let Some(page) = pages.try_next().await? {
        for keys in page.chunks(PAGE) {
            let deadline = bucket.deadline(timeout);
            let slots: Vec<_> = keys.iter().filter_map(|key| parse(model, index, info, key)).collect();
            check.entries += slots.len() as u64;
            let owners = bucket.owners_of(&slots, info.is_unique(), deadline).await?;
            // Entries of records that are written after this revision are newer.
            let through = match info.is_eventual {
                true => bucket.refresh_status(deadline).await?.last_revision,
                false => Revision::ZERO,
            };
            let known: Vec<Key> = owners.iter().flatten().cloned().collect();
            let records = bucket.newest_of(&known, deadline).await?;
            for ((slot, _), owner) in slots.into_iter().zip(owners) {
                // The claim was freed during the listing.
                let Some(owner) = owner else { continue };
                if ReadBucket::<T>::has_slot(records.get(&owner), &slot) {
                    continue;
                }
                check.stale += 1;
                if repair {
                    let owner = (!info.is_unique()).then_some(owner);
                    let is_erased = erase_slot(bucket, slot, owner, info, through, timeout).await?;
                    check.repaired += u64::from(is_erased);
                }
            }
        }
    }
    Ok(())
}

/// Returns the slot of a listed key, with the record key of an entry.
fn parse(model: &str, index: usize, info: &IndexInfo, key: &Key) -> Option<(Slot, Option<Key>)> {
    let (text, owner) = match info.is_unique() {
        true => (parse_claim(model, info, key.as_str())?, None),
        false => {
            let (text, owner) = parse_entry(model, info, key.as_str())?;
            (text, Some(Key::new(owner).ok()?))
        }
    };
    Some((Slot { index, text: text.to_owned(), key: key.clone() }, owner))
}

impl<T: Indexed> Bucket<T> {
    /// Returns the record of each entry, or the owner of each claim.
    async fn owners_of(
        &self,
        slots: &[(Slot, Option<Key>)],
        is_unique: bool,
        deadline: Deadline,
    ) -> Result<Vec<Option<Key>>> {
        if !is_unique {
            return Ok(slots.iter().map(|(_, owner)| owner.clone()).collect());
        }
        let owner = |(slot, _): &(Slot, Option<Key>)| {
            let slot = slot.clone();
            async move { self.claim_owner(&slot, deadline).await }
        };
        stream::iter(slots.iter().map(owner)).buffered(AT_ONCE).try_collect().await
    }
}

impl<'a, T: Indexed> IntoFuture for VerifyIndexes<'a, T> {
    type Output = Result<IndexReport>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.bucket;
        bucket.observe(OPERATION, Box::pin(self.run()))
    }
}
