//! `verify_indexes`: compares the entries of the indexes with the records, and repairs them.

use std::collections::HashSet;
use std::future::IntoFuture;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::backend::{Deadline, KeySpace, ListKeysRequest, RawEntry, ScanRequest};
use crate::bucket::index::clean::CleanEnd;
use crate::bucket::index::repair::is_same;
use crate::bucket::index::slot::Slot;
use crate::bucket::{Bucket, ReadBucket};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, Pattern};
use crate::model::index::{IndexInfo, Indexed, claims, entries, parse_claim, parse_entry};

const OPERATION: &str = "verify_indexes";

/// The number of pages that are checked at once.
const AT_ONCE: usize = 4;

/// The number of records in a page, whose entries one request reads.
const PAGE: usize = 1_000;

impl<T: Indexed> Bucket<T> {
    /// Compares the entries of all indexes with the records, in both directions: records without their entries, entries
    /// and claims without their records, and records with one unique value.
    ///
    /// Writers leave an entry behind if they die, or if their user may not erase. Lookups skip such entries. A record
    /// without its entry is a defect, or was written by a program that does not know the index. An entry whose record is
    /// about to be written counts as stale. The comparison takes some 50 bytes of memory for each entry.
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
        let check = |info: &IndexInfo| IndexCheck {
            index: info.name,
            entries: 0,
            missing: 0,
            stale: 0,
            repaired: 0,
            duplicates: Vec::new(),
        };
        let mut report = IndexReport { records: 0, indexes: T::__INDEXES.iter().map(check).collect() };
        // A fingerprint replaces a read of an entry that was listed, and of a record that was scanned.
        let (mut listed, mut expected) = (Fingerprints::default(), Fingerprints::default());
        for info in T::__INDEXES.iter().filter(|info| !info.is_eventual && !info.is_unique()) {
            let mut pages = list(bucket, info, timeout)?;
            while let Some(page) = pages.try_next().await? {
                page.iter().for_each(|key| listed.add(key));
            }
        }
        let listed = &listed;
        let request = bucket.scan_request(vec![Pattern::all()].into(), timeout);
        let records = bucket.scan(OPERATION, ScanRequest { headers_only: false, ..request })?;
        let entries = records.filter_map(|item| {
            std::future::ready(match item {
                Ok(item) => item.entry.is_live().then_some(Ok(item.entry)),
                // An illegal key is not a record.
                Err(error) if error.key().is_some() => None,
                Err(error) => Some(Err(error)),
            })
        });
        let found = entries.ready_chunks(PAGE).map(|page| async move {
            let page = page.into_iter().collect::<Result<Vec<_>>>()?;
            let slots: Vec<_> = page.iter().map(|entry| bucket.slots_of(entry, |info| !info.is_eventual)).collect();
            let unlisted = |slots: &Vec<Slot>| slots.iter().filter(|slot| !listed.has(&slot.key)).cloned().collect();
            let unknown = page.iter().zip(&slots).map(|(entry, slots)| (&entry.key, unlisted(slots))).collect();
            let missing = bucket.missing_slots(unknown, bucket.deadline(timeout)).await?;
            Ok::<_, Error>(page.into_iter().zip(slots).zip(missing).collect::<Vec<_>>())
        });
        let mut found = found.buffered(AT_ONCE).boxed();
        while let Some(page) = found.try_next().await? {
            report.records += page.len() as u64;
            for ((entry, slots), missing) in page {
                slots.iter().for_each(|slot| expected.add(&(&slot.key, &entry.key)));
                if !missing.is_empty() {
                    check_record(bucket, &entry, missing, repair, timeout, &mut report).await?;
                }
            }
        }
        drop(found);
        for (index, info) in T::__INDEXES.iter().enumerate().filter(|(_, info)| !info.is_eventual) {
            check_entries(bucket, (index, info), &expected, repair, timeout, &mut report.indexes[index]).await?;
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
async fn check_entries<T: Indexed>(
    bucket: &Bucket<T>,
    (index, info): (usize, &'static IndexInfo),
    expected: &Fingerprints,
    repair: bool,
    timeout: Option<Duration>,
    check: &mut IndexCheck,
) -> Result<()> {
    let model = T::SCHEMA.name;
    let mut pages = list(bucket, info, timeout)?;
    while let Some(page) = pages.try_next().await? {
        for keys in page.chunks(PAGE) {
            let deadline = bucket.deadline(timeout);
            let slots: Vec<_> = keys.iter().filter_map(|key| parse(model, index, info, key)).collect();
            check.entries += slots.len() as u64;
            let owners = bucket.owners_of(&slots, info.is_unique(), deadline).await?;
            // A claim without an owner was freed during the listing.
            let owned = slots.into_iter().zip(owners).filter_map(|((slot, _), owner)| Some((slot, owner?)));
            let doubtful: Vec<_> = owned.filter(|(slot, owner)| !expected.has(&(&slot.key, owner))).collect();
            let keys: Vec<Key> = doubtful.iter().map(|(_, owner)| owner.clone()).collect();
            let records = bucket.newest_of(&keys, deadline).await?;
            for (slot, owner) in doubtful {
                if ReadBucket::<T>::has_slot(records.get(&owner), &slot) {
                    continue;
                }
                check.stale += 1;
                if repair {
                    let owner = (!info.is_unique()).then_some(owner);
                    let end = bucket.clean_slot(slot, owner, bucket.deadline(timeout)).await?;
                    check.repaired += u64::from(matches!(end, CleanEnd::Erase(_)));
                }
            }
        }
    }
    Ok(())
}

/// Lists the keys of the entries or claims of an index.
fn list<T: Indexed>(
    bucket: &Bucket<T>,
    info: &IndexInfo,
    timeout: Option<Duration>,
) -> Result<BoxStream<'static, Result<Vec<Key>>>> {
    let model = T::SCHEMA.name;
    let pattern = if info.is_unique() { claims(model, info) } else { entries(model, info) };
    let idle_timeout = timeout.unwrap_or(bucket.timeout());
    let request = ListKeysRequest { space: KeySpace::Index, pattern, idle_timeout };
    Ok(bucket.raw(OPERATION)?.list_keys(request))
}

/// Hashes of keys, with a random number of the process.
#[derive(Default)]
struct Fingerprints {
    state: RandomState,
    known: HashSet<u64>,
}

impl Fingerprints {
    fn add(&mut self, key: &impl Hash) {
        self.known.insert(self.state.hash_one(key));
    }

    fn has(&self, key: &impl Hash) -> bool {
        self.known.contains(&self.state.hash_one(key))
    }
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
        let claims: Vec<Key> = slots.iter().map(|(slot, _)| slot.key.clone()).collect();
        self.claim_owners(&claims, deadline).await
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
