//! `check_schema`: the report on a program and the records of its bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use futures::StreamExt;

use super::decode;
use super::handle::ReadBucket;
use super::model_card;
use super::stored_schema::{self, program_schemas};
use super::verb::verb;
use crate::backend::ScanRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Filter, KvModel, ModelCard};
use crate::schema::{self, Compatibility, Schema, Verdict};

impl<T: KvModel> ReadBucket<T> {
    /// Compares the program with every schema version whose records the bucket may have.
    ///
    /// A comparison of schemas cannot decide some changes, such as a narrower integer.
    /// [`sample`](CheckSchema::sample) decodes stored records and counts the unreadable ones.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// mod yesterday {
    /// #   use kvtyped::prelude::*;
    ///     #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    ///     #[kv(bucket = "users", key = "{id}")]
    ///     pub struct User { pub id: u64, pub age: u32 }
    /// }
    /// mod today {
    /// #   use kvtyped::prelude::*;
    ///     #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    ///     #[kv(bucket = "users", key = "{id}")]
    ///     pub struct User { pub id: u64, pub age: u8 }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let store = Store::memory();
    /// let users: Bucket<yesterday::User> = store.bucket().await?;
    /// users.put_many((0..10).map(|id| yesterday::User { id, age: 250 + id as u32 })).await?;
    ///
    /// let users: Bucket<today::User> = store.bucket().await?;
    /// let report = users.check_schema().sample(1_000).await?;
    /// assert_eq!((report.sampled, report.unreadable), (10, 4));
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `SchemaDiffers` if the card of the model is unreadable. Returns the errors of
    /// [`status`](Self::status) and, with a sample, of [`list`](Self::list).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn check_schema(&self) -> CheckSchema<'_, T> {
        CheckSchema { bucket: self, sample: 0, timeout: None }
    }
}

/// A comparison of a program with the records of its bucket; see [`ReadBucket::check_schema`].
#[must_use = "nothing is compared until it is awaited"]
#[derive(Debug)]
pub struct CheckSchema<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    sample: usize,
    timeout: Option<Duration>,
}

/// The differences between a program and the records of its bucket; see [`ReadBucket::check_schema`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SchemaReport {
    /// The name of the model.
    pub model: &'static str,
    /// The name of the bucket.
    pub bucket: String,
    /// The newest version of the program.
    pub version: u32,
    /// The card of the model. `None` if the bucket has none.
    pub card: Option<ModelCard>,
    /// Each version that the program or the bucket knows, from the oldest to the newest.
    pub versions: Vec<VersionReport>,
    /// The number of records in the sample.
    pub sampled: u64,
    /// The number of records in the sample that the program cannot read.
    pub unreadable: u64,
}

/// The report on one schema version.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VersionReport {
    /// The version.
    pub version: u32,
    /// The comparison of the stored schema of the version with the program's schema of the same version. If the program
    /// does not know the version, the comparison with its newest schema. `None` if the bucket does not store the
    /// schema.
    pub compatibility: Option<Compatibility>,
    /// Whether the program knows the version.
    pub is_known: bool,
    /// The number of records of this version in the sample.
    pub sampled: u64,
    /// The number of unreadable records of this version in the sample.
    pub unreadable: u64,
    /// The reason for one of the unreadable records, without content.
    pub example: Option<ErrorKind>,
}

impl<T: KvModel> CheckSchema<'_, T> {
    /// Decodes this many stored records. Default: none.
    pub fn sample(mut self, records: usize) -> Self {
        self.sample = records;
        self
    }

    /// Sets the longest time without progress. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<SchemaReport> {
        let Self { bucket, sample, timeout } = self;
        let located = |error: Error| error.with_context("check_schema", bucket.name(), None);
        let config = bucket.raw("check_schema")?.status(bucket.deadline(timeout)).await.map_err(located)?.config;
        let card = model_card::find::<T>(&config).map_err(located)?;
        let samples = bucket.sample_records(sample, timeout).await.map_err(located)?;
        let stored = stored_schema::stored(&config, T::SCHEMA.name);
        Ok(report::<T>(bucket.name(), card, &stored, samples))
    }
}

verb!(CheckSchema("check_schema", bucket) => SchemaReport);

/// The sampled records of one version.
#[derive(Debug, Default)]
struct Sample {
    records: u64,
    unreadable: u64,
    example: Option<ErrorKind>,
}

impl<T: KvModel> ReadBucket<T> {
    /// Decodes records, and counts them by version. Records without a readable version count as version zero.
    async fn sample_records(&self, limit: usize, timeout: Option<Duration>) -> Result<BTreeMap<u32, Sample>> {
        let mut samples = BTreeMap::<u32, Sample>::new();
        if limit == 0 {
            return Ok(samples);
        }
        let all = Filter::<T>::from(..);
        let scan = ScanRequest { limit: Some(limit), ..self.scan_request(all.patterns().clone(), timeout) };
        let mut entries = self.scan("check_schema", scan)?;
        let mut records = 0;
        while let Some(scanned) = entries.next().await {
            let entry = match scanned {
                Ok(scanned) => scanned.entry,
                // An illegal key is not a record.
                Err(error) if error.key().is_some() => continue,
                Err(error) => return Err(error),
            };
            if !entry.is_live() || decode::key::<T>(&entry.key).is_err() {
                continue;
            }
            let sample = samples.entry(decode::stored_version::<T>(&entry).unwrap_or_default()).or_default();
            sample.records += 1;
            if let Err(error) = decode::value::<T>(&entry) {
                sample.unreadable += 1;
                sample.example.get_or_insert_with(|| error.kind().clone());
            }
            records += 1;
            if records == limit {
                break;
            }
        }
        Ok(samples)
    }
}

fn report<T: KvModel>(
    bucket: &str,
    card: Option<ModelCard>,
    stored: &BTreeMap<u32, Schema>,
    mut samples: BTreeMap<u32, Sample>,
) -> SchemaReport {
    let program = program_schemas::<T>();
    let schema = T::SCHEMA;
    let announced = card.iter().flat_map(|card| [card.oldest, card.writes, card.version]);
    let known = program.iter().map(|version| version.version);
    let versions: BTreeSet<u32> =
        known.chain(announced).chain(stored.keys().copied()).chain(samples.keys().copied()).collect();
    let versions: Vec<_> = versions
        .into_iter()
        .map(|version| {
            let own = program.iter().find(|own| own.version == version);
            let compatibility = stored
                .get(&version)
                .zip(own.or(program.last()))
                .map(|(stored, own)| schema::compare(stored, &own.schema));
            let Sample { records, unreadable, example } = samples.remove(&version).unwrap_or_default();
            let is_known = own.is_some();
            VersionReport { version, compatibility, is_known, sampled: records, unreadable, example }
        })
        .collect();
    let sum = |count: fn(&VersionReport) -> u64| versions.iter().map(count).sum();
    SchemaReport {
        model: schema.name,
        bucket: bucket.to_owned(),
        version: schema.version,
        card,
        sampled: sum(|version| version.sampled),
        unreadable: sum(|version| version.unreadable),
        versions,
    }
}

impl SchemaReport {
    /// Returns whether the program reads every stored record, as far as the schemas and the sample show.
    pub fn backward(&self) -> Verdict {
        let of_version = |version: &VersionReport| match &version.compatibility {
            _ if version.unreadable > 0 => Verdict::No,
            Some(_) if !version.is_known && version.sampled == 0 => Verdict::Yes,
            Some(compatibility) if version.is_known => compatibility.backward(),
            _ => Verdict::Yes,
        };
        self.versions.iter().map(of_version).max().unwrap_or(Verdict::Yes)
    }
}

/// A paragraph for each version.
impl fmt::Display for SchemaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, bucket, version, card, .. } = self;
        write!(f, "model `{model}` of bucket `{bucket}`: version {version} here, ")?;
        match card {
            Some(card) => write!(
                f,
                "version {} in the bucket, programs write version {}, records from version {}",
                card.version, card.writes, card.oldest
            )?,
            None => f.write_str("no card in the bucket")?,
        }
        for version in &self.versions {
            write!(f, "\nversion {}: ", version.version)?;
            match &version.compatibility {
                _ if !version.is_known && version.version > self.version => f.write_str("newer than this program")?,
                _ if version.version == 0 => f.write_str("records without a readable version")?,
                _ if !version.is_known => f.write_str("older than this program reads")?,
                None => f.write_str("schema not stored")?,
                Some(compatibility) if compatibility.is_identical() => f.write_str("same schema")?,
                Some(_) => f.write_str("the schemas differ")?,
            }
            if version.sampled > 0 {
                write!(f, "; {} of {} sampled records are unreadable", version.unreadable, version.sampled)?;
            }
            if let Some(example) = &version.example {
                write!(f, " (for example: {example})")?;
            }
            if let Some(compatibility) = version.compatibility.as_ref().filter(|found| !found.is_identical()) {
                write!(f, "\n{compatibility}")?;
            }
        }
        Ok(())
    }
}
