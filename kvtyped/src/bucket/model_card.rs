//! The card of a model in the metadata of its bucket. Created with the bucket, and compared when the bucket is opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::handle::ReadBucket;
use super::indexes;
use super::stored_schema;
use crate::backend::{Backend, Backoff, BucketStatus, Deadline, RawBucket};
use crate::config::{BucketConfig, Drift};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KeyCodec, ModelKey};
use crate::model::{KvModel, ModelCard, VersionSchema};
use crate::schema::{self, Verdict};

/// The largest card that is read, in bytes.
const MAX_CARD: usize = 65_536;

/// The largest report of differing schemas, in characters.
const MAX_REPORT: usize = 8_192;

/// Returns the card of a model for a bucket that contains no records of it yet.
pub(super) fn new_card<T: KvModel>(key_codec: KeyCodec) -> Option<ModelCard> {
    let schema = T::SCHEMA;
    (!schema.name.is_empty()).then(|| ModelCard {
        key: T::Key::TEMPLATE.to_owned(),
        codec: schema.codec.to_owned(),
        version: schema.version,
        writes: schema.writes,
        oldest: schema.writes,
        schema: stored_schema::newest::<T>().map(|schema| schema.fingerprint()),
        indexes: indexes::of_new_bucket(T::__INDEXES),
        key_codec: (key_codec != KeyCodec::Escaped).then(|| key_codec.name().to_owned()),
        written_by: Some(env!("CARGO_PKG_VERSION").to_owned()),
        other: Default::default(),
    })
}

/// Adds a card to the metadata of `update`, with the schemas of the versions that records may have. `found` is the
/// current configuration of the bucket. Its stored schemas stay, unless `replace` is set.
pub(super) fn insert<T: KvModel>(update: &mut BucketConfig, card: &ModelCard, found: &BucketConfig, replace: bool) {
    update.metadata.insert(ModelCard::metadata_key(T::SCHEMA.name), card.to_text());
    stored_schema::insert::<T>(update, found, (card.oldest, card.version), replace);
}

/// Returns the card of a model, if the bucket has one.
///
/// # Errors
///
/// Returns `SchemaDiffers` if the metadata of the model is not a card.
pub(super) fn find<T: KvModel>(config: &BucketConfig) -> Result<Option<ModelCard>> {
    let model = T::SCHEMA.name;
    let Some(text) = config.metadata.get(&ModelCard::metadata_key(model)) else { return Ok(None) };
    let parsed = if text.len() <= MAX_CARD { ModelCard::parse(text) } else { Err("it is too large".to_owned()) };
    let card = parsed.map_err(|reason| {
        let report = format!(
            "the card of model `{model}` in the metadata of the bucket is unreadable: {reason}; \
             replace it with `.on_schema(Drift::Update)`"
        );
        Error::new(ErrorKind::SchemaDiffers { report }).of_model::<T>()
    })?;
    Ok(Some(card))
}

/// Compares a program with the card of its model.
///
/// # Errors
///
/// Returns `Newer` or `TooOld` if the program cannot read or write the records that the card announces, and
/// `SchemaDiffers` if the key or the codec differs.
fn check<T: KvModel>(
    config: &BucketConfig,
    card: &ModelCard,
    key_codec: Option<KeyCodec>,
    is_read_only: bool,
) -> Result<()> {
    let schema = T::SCHEMA;
    let differs = |reason: String| {
        let report = format!("model `{}`: {reason}", schema.name);
        Err(Error::new(ErrorKind::SchemaDiffers { report }).of_model::<T>())
    };
    if !is_same_key(T::Key::TEMPLATE, &card.key) {
        return differs(format!(
            "its key is `{}` here and `{}` in the bucket, so this program would find no records; \
             use that key, or copy the records to another bucket",
            T::Key::TEMPLATE,
            short(&card.key)
        ));
    }
    let found = short(card.key_codec.as_deref().unwrap_or(KeyCodec::Escaped.name()));
    if let Some(key_codec) = key_codec.filter(|codec| codec.name() != found) {
        return differs(format!(
            "its key codec is `{}` here and `{found}` in the bucket; use that key codec, or another bucket",
            key_codec.name()
        ));
    }
    if card.version == schema.version && card.codec != schema.codec {
        return differs(format!(
            "its codec is `{}` here and `{}` in the bucket; use that codec, or make the change a new version: \
             `version = {}` with `upgrade_from` and `codec`",
            schema.codec,
            short(&card.codec),
            schema.version.saturating_add(1)
        ));
    }
    if let Err(reason) = indexes::compare(T::__INDEXES, card, is_read_only) {
        return differs(reason);
    }
    compare_schemas(config, card, schema.name, &stored_schema::program_schemas::<T>()).map_err(Error::of_model::<T>)?;
    if card.writes > schema.version && !schema.keeps_newer {
        return Err(Error::new(ErrorKind::Newer { found: card.writes, knows: schema.version }).of_model::<T>());
    }
    if card.oldest < schema.oldest {
        let (found, oldest) = (card.oldest, schema.oldest);
        return Err(Error::new(ErrorKind::TooOld { found, oldest }).of_model::<T>());
    }
    if card.oldest < schema.unversioned {
        return differs(format!(
            "`unversioned = {}`, but the bucket may have records of version {} without a version header; \
             migrate the bucket first, without `unversioned`",
            schema.unversioned, card.oldest
        ));
    }
    if card.writes < schema.writes && !is_read_only {
        return differs(format!(
            "the bucket takes version {found}, and this program writes version {writes} and later; \
             add `writes = {found}`, or open the bucket with `.on_schema(Drift::Adopt)` and call `switch_version({writes})`",
            found = card.writes,
            writes = schema.writes
        ));
    }
    Ok(())
}

/// Compares the program with the stored schema of each version that it has in common with the bucket.
///
/// # Errors
///
/// Returns `SchemaDiffers` with the report if the program cannot read the records of a version. Logs the report of a
/// difference that it can read.
fn compare_schemas(config: &BucketConfig, card: &ModelCard, model: &str, program: &[VersionSchema]) -> Result<()> {
    let stored = stored_schema::stored(config, model);
    for VersionSchema { version, schema, .. } in program {
        let is_newest = *version == card.version;
        if is_newest && card.schema.as_deref() == Some(&*schema.fingerprint()) {
            continue;
        }
        let heading = format!("model `{model}` of bucket `{}`: the schemas of version {version} differ", config.name);
        let Some(stored) = stored.get(version) else {
            if is_newest && card.schema.is_some() {
                tracing::warn!("{heading}, and the schema of the bucket is not stored");
            }
            continue;
        };
        let compatibility = schema::compare(stored, schema);
        if compatibility.is_identical() {
            continue;
        }
        // Another client can write a schema of any size.
        let report: String = format!("{heading}\n{compatibility}").chars().take(MAX_REPORT).collect();
        if compatibility.backward() == Verdict::No {
            return Err(Error::new(ErrorKind::SchemaDiffers { report }));
        }
        tracing::warn!("{report}");
    }
    Ok(())
}

/// Returns the start of a text that another client may have written.
fn short(text: &str) -> String {
    text.chars().take(128).collect()
}

/// Whether two templates name the same keys. The names of the fields may differ, unless the same names are in other
/// places.
fn is_same_key(here: &str, there: &str) -> bool {
    let (shape_here, names_here) = shape(here);
    let (shape_there, names_there) = shape(there);
    let is_moved =
        |(at, name): (usize, &&str)| names_there.iter().position(|other| other == name).is_some_and(|to| to != at);
    shape_here == shape_there && !names_here.iter().enumerate().any(is_moved)
}

/// Returns a template without the names of its fields, and the names.
fn shape(template: &str) -> (String, Vec<&str>) {
    let (mut shape, mut names, mut rest) = (String::new(), Vec::new(), template);
    while let Some((literal, (field, after))) =
        rest.split_once('{').and_then(|(literal, field)| Some((literal, field.split_once('}')?)))
    {
        let name = field.strip_suffix("..").unwrap_or(field);
        shape.push_str(literal);
        shape.push_str(if name.len() < field.len() { "{..}" } else { "{}" });
        names.push(name);
        rest = after;
    }
    shape.push_str(rest);
    (shape, names)
}

/// Returns the card that an existing bucket gets, with the schema of the program. Never changes the version that
/// programs write.
fn updated<T: KvModel>(found: Option<ModelCard>, key_codec: KeyCodec) -> Option<ModelCard> {
    let own = new_card::<T>(key_codec)?;
    let schema = T::SCHEMA;
    let Some(found) = found else {
        // The bucket may have records of every version, and records without one.
        let oldest = schema.oldest.min(schema.unversioned);
        // The records of the bucket have no entries yet.
        return Some(ModelCard { oldest, indexes: BTreeMap::new(), ..own });
    };
    if found.version > own.version {
        return Some(found);
    }
    let ModelCard { writes, oldest, indexes, other, .. } = found;
    Some(ModelCard { writes, oldest, indexes, other, ..own })
}

/// Applies the reaction to a card that differs from the program. Returns the new card if the bucket must be updated.
pub(super) fn react<T: KvModel>(
    config: &BucketConfig,
    (key_codec, is_chosen): (KeyCodec, bool),
    reaction: Drift,
    is_read_only: bool,
) -> Result<Option<ModelCard>> {
    if T::SCHEMA.name.is_empty() || reaction == Drift::Adopt {
        return Ok(None);
    }
    let found = match (find::<T>(config), reaction) {
        (Err(_), Drift::Update) => None,
        (found, _) => found?,
    };
    if let Some(card) = &found {
        // The builder may choose another key codec on purpose.
        check::<T>(config, card, (!is_chosen).then_some(key_codec), is_read_only)?;
    }
    let wanted = if reaction == Drift::Update { updated::<T>(found.clone(), key_codec) } else { None };
    Ok(wanted.filter(|wanted| Some(wanted) != found.as_ref()))
}

impl<T: KvModel> ReadBucket<T> {
    /// Returns the current card of the model. `None` if the bucket has no card of it.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}", version = 3)]
    /// # struct User { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let users: Bucket<User> = Store::memory().bucket().await?;
    /// let card = users.card().await?.expect("this program created the bucket");
    /// assert_eq!((card.key.as_str(), card.codec.as_str()), ("{id}", "json"));
    /// assert_eq!((card.version, card.writes, card.oldest), (3, 3, 3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `SchemaDiffers` if the card is unreadable. Returns the errors of [`status`](Self::status).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn card(&self) -> Result<Option<ModelCard>> {
        let card = async {
            let status = self.status_for("card").await?;
            find::<T>(&status.config).map_err(|error| error.with_context("card", self.name(), None))
        };
        self.observe("card", Box::pin(card)).await
    }

    /// Returns the card of the model in a configuration.
    ///
    /// # Errors
    ///
    /// Returns `SchemaDiffers` if the card is unreadable.
    pub(crate) fn card_in(config: &BucketConfig) -> Result<Option<ModelCard>> {
        find::<T>(config)
    }

    /// Returns the card with the schema of this program, and with the written version of `found`. `None` if the model
    /// has no name.
    pub(crate) fn program_card(&self, found: Option<ModelCard>) -> Option<ModelCard> {
        updated::<T>(found, self.inner.key_codec)
    }

    /// Reads the status of the bucket, with an uncertain number of records, and continues with the write epoch and the
    /// schema versions that it shows.
    pub(crate) async fn refresh_status(&self, deadline: Deadline) -> Result<BucketStatus> {
        self.inner.read_status(deadline).await
    }

    /// Reads the card again if an entry was newer than the version that this handle writes, because the bucket may have
    /// been switched. With write epochs, the server tells.
    pub(crate) async fn follow_switch(&self, deadline: Deadline) -> Result<()> {
        if T::SCHEMA.writes == T::SCHEMA.version || !self.clock().suspects_switch(self.schema().writes::<T>()) {
            return Ok(());
        }
        match Box::pin(self.refresh_status(deadline)).await {
            // A user who may not read the card writes the earlier version.
            Err(error) if !error.is_denied() => Err(error),
            _ => Ok(()),
        }
    }

    /// Changes the card of the model, and the write epoch if `change` returns one, in one update. `change` gets the
    /// current card and configuration, and returns `None` to leave them. Reads the result back, and starts over if
    /// another process has changed the card.
    ///
    /// # Errors
    ///
    /// Returns the error of `change`. The outcome of another error is unknown if the update may have been applied.
    pub(crate) async fn update_card(
        &self,
        deadline: Deadline,
        mut change: impl FnMut(Option<ModelCard>, &BucketConfig) -> Result<Option<(ModelCard, Option<u64>)>>,
    ) -> Result<BucketConfig> {
        let mut backoff = Backoff::outage();
        loop {
            let found = self.refresh_status(deadline).await?.config;
            let Some((card, epoch)) = change(find::<T>(&found)?, &found)? else { return Ok(found) };
            let mut update = BucketConfig::new(self.name());
            insert::<T>(&mut update, &card, &found, false);
            let note = format!("{:032x}", rand::random::<u128>());
            update.metadata.insert(UPDATED_BY.to_owned(), note.clone());
            update.write_epoch = epoch;
            // Half of the time is left to read the result of an update without a reply.
            let sent = self.inner.backend.update(update, Deadline::after(deadline.remaining() / 2)).await;
            let lost = match sent {
                Err(error) if !error.is_transient() => return Err(error),
                sent => sent.err(),
            };
            let now = self.refresh_status(deadline).await.map_err(Error::unknown_outcome)?.config;
            let is_ours =
                now.metadata.get(UPDATED_BY) == Some(&note) && epoch.is_none_or(|epoch| now.write_epoch == Some(epoch));
            if is_ours && find::<T>(&now)?.as_ref() == Some(&card) {
                return Ok(now);
            }
            if !backoff.pause(deadline).await {
                return Err(lost.unwrap_or_else(|| deadline.error()).unknown_outcome());
            }
        }
    }
}

/// A metadata key with a random value, which identifies the last update of a card.
pub(super) const UPDATED_BY: &str = "kvtyped.updated-by";

/// Writes the card of an existing bucket.
pub(super) async fn write<T: KvModel>(
    backend: &dyn Backend,
    found: &BucketConfig,
    card: &ModelCard,
    deadline: Deadline,
) -> Result<Arc<dyn RawBucket>> {
    let mut update = BucketConfig::new(&found.name);
    insert::<T>(&mut update, card, found, true);
    backend.update(update, deadline).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamed_key_field_is_the_same_key() {
        assert!(is_same_key("{id}", "{user_id}"));
        assert!(is_same_key("u.{tenant}.{id}", "u.{org}.{id}"));
        assert!(is_same_key("app", "app") && is_same_key("{path..}", "{rest..}"));
        assert!(is_same_key("x-{id}.y", "x-{id}.y"));
    }

    #[test]
    fn another_shape_or_order_is_another_key() {
        for (here, there) in [
            ("{id}", "{tenant}.{id}"),
            ("{tenant}.{id}", "{id}.{tenant}"),
            ("u.{id}", "v.{id}"),
            ("{path..}", "{path}"),
            ("app", "{app}"),
            ("{id}", "{"),
        ] {
            assert!(!is_same_key(here, there), "{here} and {there}");
        }
    }
}
