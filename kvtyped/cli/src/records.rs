//! A check of records: codec, schema version, and published schema.

use std::collections::BTreeMap;

use kvtyped::config::BucketConfig;
use kvtyped::{Entry, RawRecord};

use crate::codec::Models;
use crate::shape::Shape;

/// The models of a bucket and the schemas that their programs have published.
#[derive(Debug)]
pub(crate) struct Checker {
    models: Models,
    shapes: BTreeMap<(String, u32), Shape>,
}

/// The result for one record.
#[derive(Debug, PartialEq)]
pub(crate) enum Checked {
    /// No model of the bucket has this key.
    NoModel,
    /// The record decodes. Its version has no published schema.
    Decodes,
    /// The record fits the published schema of its version.
    Fits,
    /// The record does not fit. `place` is not part of a value.
    Problem { model: String, version: u32, reason: String },
}

/// The prefix of the metadata keys of schemas, before the model and the version.
pub(crate) const SCHEMA_PREFIX: &str = "kvtyped.schema.";

impl Checker {
    pub(crate) fn of(config: &BucketConfig) -> Self {
        let shape = |(key, text): (&String, &String)| {
            let (model, version) = key.strip_prefix(SCHEMA_PREFIX)?.rsplit_once('.')?;
            Some(((model.to_owned(), version.parse().ok()?), Shape::parse(text).ok()?))
        };
        Self { models: Models::of(config), shapes: config.metadata.iter().filter_map(shape).collect() }
    }

    /// Returns the versions of a model whose schemas are published.
    pub(crate) fn published(&self, model: &str) -> Vec<u32> {
        self.shapes.keys().filter(|(name, _)| name == model).map(|(_, version)| *version).collect()
    }

    /// Checks a record.
    pub(crate) fn check(&self, entry: &Entry<RawRecord>) -> Checked {
        let Some(model) = self.models.of_key(entry.key().as_str()) else { return Checked::NoModel };
        let version = entry.headers().version.unwrap_or(1);
        let problem = |reason: String| Checked::Problem { model: model.name.clone(), version, reason };
        let (oldest, newest) = (model.card.oldest, model.card.version);
        if !(oldest..=newest).contains(&version) {
            return problem(format!("the card allows the versions {oldest} to {newest}"));
        }
        let decoded = self.models.decode(entry.key(), entry.headers(), &entry.bytes);
        // An encoded value is complete, but only its program can read it.
        let value = match decoded.value {
            Err(_) if entry.headers().encoding().is_some() => return Checked::Decodes,
            Err(reason) => return problem(reason),
            Ok(value) => value,
        };
        match self.shapes.get(&(model.name.clone(), version)) {
            Some(shape) => shape.check(&value).map_or_else(problem, |()| Checked::Fits),
            None => Checked::Decodes,
        }
    }
}
