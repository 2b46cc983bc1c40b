//! Opens a bucket: creates it, or compares an existing one with the model.

use std::borrow::Cow;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::encoded::encoded;
use super::handle::{Bucket, ReadBucket};
use super::model_card;
use crate::backend::{Backend, Deadline, RawBucket};
use crate::config::{BucketConfig, Drift, LimitMarkers, Placement, Republish, Source, Storage, WriteEpochs};
use crate::context::StoreContext;
use crate::error::{Error, ErrorKind, Result, is_of_recipe};
use crate::key::{KeyCodec, ModelKey};
use crate::model::{KvModel, RESERVED_METADATA};

/// A metadata key with a random value, which distinguishes concurrent requests to create a bucket.
pub(super) const MADE_BY: &str = "kvtyped.made-by";

/// The required state of the bucket before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Any,
    MustExist,
    MustCreate,
    /// Both requirements together, which is an error.
    Contradiction,
}

impl Presence {
    fn and(self, other: Self) -> Self {
        if self == Self::Any || self == other { other } else { Self::Contradiction }
    }
}

/// Opens a bucket. Creates the bucket if it does not exist; otherwise compares it with the model. See
/// [`Store::bucket`](crate::Store::bucket).
///
/// Compares the settings that the model or this builder sets, and reports settings of the stream that break a guarantee
/// of this crate ([`BucketConfig::irregular`](crate::config::BucketConfig)). In a new bucket, unset settings get their
/// defaults.
///
/// ```
/// # use kvtyped::prelude::*;
/// # use kvtyped::ErrorKind;
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// # #[kv(bucket = "sessions", key = "{id}", history = 1)]
/// # struct Session { id: u64 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// let store = Store::memory();
/// let eu = store.bucket::<Session>().name("sessions-eu");
/// let eu: Bucket<Session> = eu.replicas(3).must_create().await?;
/// assert_eq!(eu.name(), "sessions-eu");
///
/// let differs = store.bucket::<Session>().name("sessions-eu").replicas(5).await.unwrap_err();
/// let ErrorKind::Drift { differences } = differs.kind() else { panic!("{differs}") };
/// assert_eq!(differences[0].to_string(), "replicas: wanted 5, found 3");
///
/// let eu = store.bucket::<Session>().name("sessions-eu");
/// let eu = eu.replicas(5).on_drift(Drift::Update).await?;
/// assert_eq!(eu.config().replicas, Some(5));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Returns `Drift` with every difference, unless [`on_drift`](Self::on_drift) selects another reaction. Returns
/// `BucketNotFound` if the bucket [must exist](Self::must_exist) and does not, and `BucketExists` if it [must be
/// created](Self::must_create) and exists. Returns `InvalidConfig` if a setting is invalid, and `Unsupported` if the
/// backend does not support one.
///
/// Returns `SchemaDiffers`, `Newer` or `TooOld` if the [card](crate::model::ModelCard) of the model does not fit this
/// program, unless [`on_schema`](Self::on_schema) selects another reaction.
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenBucket<T> {
    backend: Arc<dyn Backend>,
    config: BucketConfig,
    key_codec: KeyCodec,
    /// Whether the builder set the key codec, so that the card need not agree.
    chose_key_codec: bool,
    presence: Presence,
    drift: Drift,
    schema: Drift,
    is_read_only: bool,
    has_card: bool,
    timeout: Duration,
    context: Arc<StoreContext>,
    model: PhantomData<fn() -> T>,
}

impl<T: KvModel> OpenBucket<T> {
    pub(crate) fn new(backend: Arc<dyn Backend>, timeout: Duration, context: Arc<StoreContext>) -> Self {
        let (presence, drift, schema) = (Presence::Any, Drift::default(), Drift::default());
        let (mut config, key_codec) = (T::settings(), T::KEY_CODEC);
        if !T::__INDEXES.is_empty() {
            config.index_entries = Some(true);
        }
        Self {
            backend,
            config,
            key_codec,
            chose_key_codec: false,
            presence,
            drift,
            schema,
            is_read_only: false,
            has_card: true,
            timeout,
            context,
            model: PhantomData,
        }
    }

    /// Returns the backend and the state of the store, the name of the bucket, and the timeout.
    pub(super) fn into_parts(self) -> ((Arc<dyn Backend>, Arc<StoreContext>), String, Duration) {
        ((self.backend, self.context), self.config.name, self.timeout)
    }

    fn set(mut self, set: impl FnOnce(&mut BucketConfig)) -> Self {
        set(&mut self.config);
        self
    }

    /// Sets the name. Default: the name of the model's bucket.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.set(|config| config.name = name.into())
    }

    /// Sets how keys are stored, in place of the model's key codec. All programs that use the bucket must use the same
    /// codec.
    pub fn key_codec(mut self, codec: KeyCodec) -> Self {
        (self.key_codec, self.chose_key_codec) = (codec, true);
        self
    }

    /// Sets the number of revisions that each key keeps, 1 to 64.
    pub fn history(self, revisions: u8) -> Self {
        self.set(|config| config.history = Some(revisions))
    }

    /// Sets the TTL of every value, counted from its write; at least 100 ms.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.set(|config| config.ttl = Some(ttl))
    }

    /// Sets the largest value, in bytes. A server also counts the headers of a message: allow about 256 bytes for them.
    pub fn max_value_size(self, bytes: u32) -> Self {
        self.set(|config| config.max_value_size = Some(bytes))
    }

    /// Sets the largest size of the bucket, in bytes.
    pub fn max_bytes(self, bytes: u64) -> Self {
        self.set(|config| config.max_bytes = Some(bytes))
    }

    /// Sets the storage.
    pub fn storage(self, storage: Storage) -> Self {
        self.set(|config| config.storage = Some(storage))
    }

    /// Sets the number of servers of a cluster that store the bucket, 1 to 5.
    pub fn replicas(self, replicas: u8) -> Self {
        self.set(|config| config.replicas = Some(replicas))
    }

    /// Sets whether the storage is compressed.
    pub fn compression(self, on: bool) -> Self {
        self.set(|config| config.compression = Some(on))
    }

    /// Sets a human-readable description.
    pub fn description(self, description: impl Into<String>) -> Self {
        self.set(|config| config.description = Some(description.into()))
    }

    /// Sets the servers that may store the bucket.
    pub fn placement(self, placement: Placement) -> Self {
        self.set(|config| config.placement = Some(placement))
    }

    /// Sets a subject to publish each write to, in addition to the bucket.
    pub fn republish(self, republish: Republish) -> Self {
        self.set(|config| config.republish = Some(republish))
    }

    /// Makes the bucket a mirror of `origin`. Writes to the mirror go to the origin. The mirror also answers direct
    /// gets of the origin, so a read of either bucket with [`Read::Any`](crate::Read::Any) may be older than its last
    /// write.
    pub fn mirror(self, origin: Source) -> Self {
        // A mirror copies the index entries of its origin.
        self.set(|config| (config.mirror, config.index_entries) = (Some(origin), None))
    }

    /// Sets the buckets whose writes are copied into this one (ADR-57). The bucket itself stays writable.
    pub fn sources(self, sources: impl IntoIterator<Item = Source>) -> Self {
        self.set(|config| config.sources = sources.into_iter().collect())
    }

    /// Adds a metadata entry. Other entries of an existing bucket stay.
    pub fn metadata(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set(|config| {
            config.metadata.insert(key.into(), value.into());
        })
    }

    /// Sets how long the marker of an expired value stays, 1 s at least, which needs nats-server 2.11; or
    /// [`LimitMarkers::Off`].
    pub fn limit_markers(self, markers: impl Into<LimitMarkers>) -> Self {
        self.set(|config| config.limit_markers = Some(markers.into().wish()))
    }

    /// Allows or refuses messages that replace stored records, as a purge does. [`BucketConfig::rollups`] describes
    /// when to use `false`, and its costs.
    pub fn rollups(self, on: bool) -> Self {
        self.set(|config| config.rollups = Some(on))
    }

    /// Sets whether several writes can be applied all or none, which needs nats-server 2.12.1. By default, a new bucket
    /// supports this if the server does.
    pub fn atomic(self, on: bool) -> Self {
        self.set(|config| config.atomic = Some(on))
    }

    /// Requires that the bucket exists, and never creates it.
    pub fn must_exist(mut self) -> Self {
        self.presence = self.presence.and(Presence::MustExist);
        self
    }

    /// Requires that this call creates the bucket. If several calls run at once, one succeeds. A random metadata
    /// entry of the bucket distinguishes them.
    pub fn must_create(mut self) -> Self {
        self.presence = self.presence.and(Presence::MustCreate);
        self
    }

    /// Sets the reaction to a bucket with other settings.
    pub fn on_drift(mut self, drift: Drift) -> Self {
        self.drift = drift;
        self
    }

    /// Sets which writers the bucket accepts, and enables write epochs. See
    /// [`BucketConfig::write_epochs`](crate::config::BucketConfig::write_epochs).
    pub fn write_epochs(self, epochs: WriteEpochs) -> Self {
        self.set(|config| config.write_epochs = Some(epochs))
    }

    /// Sets the reaction to a bucket whose [card](crate::model::ModelCard) of this model differs from the program.
    ///
    /// * [`Drift::Fail`], the default, fails if the key or the codec differs, or if the program cannot read or write
    ///   the schema versions that the card announces.
    /// * [`Drift::Adopt`] opens the bucket in any case. A read of a record that the program cannot read returns an
    ///   error.
    /// * [`Drift::Update`] fails like `Fail`. Otherwise it writes the card if the bucket has none, and adds the schema
    ///   and the version of the program. It never changes the version that programs write: see
    ///   [`switch_version`](Bucket::switch_version).
    pub fn on_schema(mut self, reaction: Drift) -> Self {
        self.schema = reaction;
        self
    }

    /// Creates a new bucket without the [card](crate::model::ModelCard) of the model. Its configuration can then equal
    /// the defaults of another client, which creates the same bucket. Programs that open it compare nothing.
    pub fn without_card(mut self) -> Self {
        self.has_card = false;
        self
    }

    /// Sets the timeout of opening, which is also the default timeout of the bucket's operations. Default: the store's
    /// timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the bucket for reading. Neither creates nor changes the bucket: `Drift::Update` acts like `Drift::Fail`.
    pub fn read_only(self) -> OpenReadBucket<T> {
        let open = self.must_exist();
        OpenReadBucket { open: OpenBucket { is_read_only: true, ..open } }
    }

    async fn open(&self, deadline: Deadline) -> Result<Arc<dyn RawBucket>> {
        let Self {
            backend,
            config,
            key_codec,
            chose_key_codec,
            presence,
            drift,
            schema,
            is_read_only,
            has_card,
            timeout: _,
            context,
            model: _,
        } = self;
        context.admit()?;
        config.validate()?;
        if *key_codec == KeyCodec::Path && !is_one_field(T::Key::TEMPLATE) {
            return Err(Error::invalid_config(format!(
                "the key codec `path` is for models whose key is one field, `{{path..}}`, not `{}`",
                T::Key::TEMPLATE
            )));
        }
        check_markers::<T>(config)?;
        if *presence == Presence::Contradiction {
            return Err(Error::invalid_config(
                "`must_exist` (which `read_only` implies) and `must_create` exclude each other",
            ));
        }
        if let Some(key) = config.metadata.keys().find(|key| key.starts_with(RESERVED_METADATA)) {
            return Err(Error::invalid_config(format!(
                "`metadata` has the key `{key}`; keys that begin with `{RESERVED_METADATA}` are reserved"
            )));
        }
        // Not before a bucket is created: most opens find one.
        let new_config = || {
            let mut new = config.clone();
            if let Some(card) = model_card::new_card::<T>(*key_codec).filter(|_| *has_card) {
                model_card::insert::<T>(&mut new, &card, config, false);
            }
            new
        };
        if *presence == Presence::MustCreate {
            // A server accepts a second request with the same configuration without an error. The random value makes
            // each request unique.
            let mut new = new_config();
            new.metadata.insert(MADE_BY.to_owned(), format!("{:032x}", rand::random::<u128>()));
            return backend.create(new, deadline).await;
        }
        loop {
            if let Some(found) = backend.open(&config.name, deadline).await? {
                let wanted = with_index_markers::<T>(config, found.config());
                let differences = wanted.differences(found.config());
                let lacks_markers = wanted.limit_markers != config.limit_markers;
                let card =
                    model_card::react::<T>(found.config(), (*key_codec, *chose_key_codec), *schema, *is_read_only)?;
                let found = match card {
                    Some(card) if differences.is_empty() || *drift != Drift::Fail => {
                        model_card::write::<T>(&**backend, found.config(), &card, deadline).await?
                    }
                    _ => found,
                };
                return match drift {
                    _ if differences.is_empty() => Ok(found),
                    Drift::Adopt if !lacks_markers => Ok(found),
                    Drift::Update => backend.update(wanted.into_owned(), deadline).await,
                    Drift::Adopt | Drift::Fail => Err(Error::new(ErrorKind::Drift { differences })),
                };
            }
            if *presence == Presence::MustExist {
                return Err(Error::new(ErrorKind::BucketNotFound));
            }
            match backend.create(new_config(), deadline).await {
                // Another client created the bucket after the lookup: look it up again.
                Err(error) if matches!(error.kind(), ErrorKind::BucketExists) && !deadline.is_expired() => {}
                made => return made,
            }
        }
    }

    async fn observed(self) -> Result<ReadBucket<T>> {
        // The opening of a recipe's bucket is a part of the operation of the recipe.
        if is_of_recipe::<T>() {
            return self.run().await;
        }
        let (context, name) = (Arc::clone(&self.context), self.config.name.clone());
        context.observe("open", name, Box::pin(self.run())).await
    }

    async fn run(self) -> Result<ReadBucket<T>> {
        let raw = self.open(Deadline::after(self.timeout)).await;
        let raw = raw.map_err(|error| error.of_model::<T>().with_context("open", &self.config.name, None))?;
        let raw = encoded(raw, self.key_codec);
        Ok(ReadBucket::new(self.backend, raw, self.key_codec, self.timeout, self.context))
    }
}

/// Checks that the delete markers of a model with indexes outlive every write in flight.
fn check_markers<T: KvModel>(config: &BucketConfig) -> Result<()> {
    let least = BucketConfig::INDEX_MARKERS;
    let too_short = [("limit_markers", config.limit_markers.filter(|stay| !stay.is_zero())), ("ttl", config.ttl)]
        .into_iter()
        .find_map(|(setting, stay)| Some((setting, stay.filter(|stay| *stay < least)?)));
    match too_short {
        Some((setting, stay)) if !T::__INDEXES.is_empty() => Err(Error::invalid_config(format!(
            "`{setting}` is {stay:?}, so delete markers expire too early for a model with indexes; set it to at least {least:?}"
        ))),
        _ => Ok(()),
    }
}

/// Adds the life of delete markers that a model with indexes needs, if the markers of the bucket live shorter.
fn with_index_markers<'a, T: KvModel>(config: &'a BucketConfig, found: &BucketConfig) -> Cow<'a, BucketConfig> {
    let is_short = found.limit_markers.is_some_and(|stay| stay < BucketConfig::INDEX_MARKERS);
    match is_short && !T::__INDEXES.is_empty() && config.limit_markers.is_none() {
        true => Cow::Owned(BucketConfig { limit_markers: Some(BucketConfig::INDEX_MARKERS), ..config.clone() }),
        false => Cow::Borrowed(config),
    }
}

/// Returns whether a template is `{field..}` and nothing else.
fn is_one_field(template: &str) -> bool {
    let name = template.strip_prefix('{').and_then(|rest| rest.strip_suffix("..}"));
    name.is_some_and(|name| !name.contains(['{', '}', '.']))
}

impl<T: KvModel> IntoFuture for OpenBucket<T> {
    type Output = Result<Bucket<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(Bucket { read: self.observed().await? }) })
    }
}

/// Opens a bucket for reading; see [`OpenBucket::read_only`].
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenReadBucket<T> {
    open: OpenBucket<T>,
}

impl<T: KvModel> IntoFuture for OpenReadBucket<T> {
    type Output = Result<ReadBucket<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.request().observed())
    }
}

impl<T: KvModel> OpenReadBucket<T> {
    /// A read-only handle must not change the bucket either.
    fn request(self) -> OpenBucket<T> {
        let drift = if self.open.drift == Drift::Update { Drift::Fail } else { self.open.drift };
        let schema = if self.open.schema == Drift::Update { Drift::Fail } else { self.open.schema };
        OpenBucket { drift, schema, ..self.open }
    }

    /// Opens the bucket as a part of another operation.
    pub(crate) async fn open_unobserved(self) -> Result<ReadBucket<T>> {
        self.request().run().await
    }
}
