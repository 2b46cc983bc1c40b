//! Opening a bucket: make it, or find it and compare.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::encoded::encoded;
use super::{Bucket, ReadBucket};
use crate::backend::{Backend, Deadline, RawBucket};
use crate::closing::Closing;
use crate::config::{BucketConfig, Drift, LimitMarkers, Placement, Republish, Source, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KeyCodec, ModelKey};
use crate::model::KvModel;

/// The note that tells one making of a bucket from another.
const MADE_BY: &str = "kvtyped.made-by";

/// What must be true of the bucket before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Any,
    MustExist,
    MustCreate,
    /// Both at once.
    Contradiction,
}

impl Presence {
    fn and(self, other: Self) -> Self {
        if self == Self::Any || self == other { other } else { Self::Contradiction }
    }
}

/// Opens a bucket: makes it if it is missing, compares it with the model if it is there. See
/// [`Store::bucket`](crate::Store::bucket).
///
/// Compared is what the model and this builder say, and nothing else; of a new bucket, what nobody says gets the default.
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
/// let eu: Bucket<Session> = store.bucket().name("sessions-eu").replicas(3).must_create().await?;
/// assert_eq!(eu.name(), "sessions-eu");
///
/// let differs = store.bucket::<Session>().name("sessions-eu").replicas(5).await.unwrap_err();
/// let ErrorKind::Drift { differences } = differs.kind() else { panic!("{differs}") };
/// assert_eq!(differences[0].to_string(), "replicas: wanted 5, found 3");
///
/// let eu: Bucket<Session> = store.bucket().name("sessions-eu").replicas(5).on_drift(Drift::Update).await?;
/// assert_eq!(eu.config().replicas, Some(5));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// `Drift` with every difference, unless [`on_drift`](Self::on_drift) says otherwise; `BucketNotFound` with
/// [`must_exist`](Self::must_exist); `BucketExists` with [`must_create`](Self::must_create); `InvalidConfig`;
/// `Unsupported` where the backend cannot do what is wanted.
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenBucket<T> {
    backend: Arc<dyn Backend>,
    config: BucketConfig,
    key_codec: KeyCodec,
    presence: Presence,
    drift: Drift,
    timeout: Duration,
    closed: Arc<Closing>,
    model: PhantomData<fn() -> T>,
}

impl<T: KvModel> OpenBucket<T> {
    pub(crate) fn new(backend: Arc<dyn Backend>, timeout: Duration, closed: Arc<Closing>) -> Self {
        let (presence, drift) = (Presence::Any, Drift::default());
        let (config, key_codec) = (T::settings(), T::KEY_CODEC);
        Self { backend, config, key_codec, presence, drift, timeout, closed, model: PhantomData }
    }

    fn set(mut self, set: impl FnOnce(&mut BucketConfig)) -> Self {
        set(&mut self.config);
        self
    }

    /// The name, in place of the model's.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.set(|config| config.name = name.into())
    }

    /// Sets how keys are stored, in place of the model's key codec. All programs that use the bucket must use the same
    /// codec.
    pub fn key_codec(mut self, codec: KeyCodec) -> Self {
        self.key_codec = codec;
        self
    }

    /// How many revisions of a key are kept, 1 to 64.
    pub fn history(self, revisions: u8) -> Self {
        self.set(|config| config.history = Some(revisions))
    }

    /// How long after it was written every value expires; 100 ms at least.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.set(|config| config.ttl = Some(ttl))
    }

    /// The largest value, in bytes. A server counts the headers of a message as well: leave some 256 bytes for them.
    pub fn max_value_size(self, bytes: u32) -> Self {
        self.set(|config| config.max_value_size = Some(bytes))
    }

    /// The largest bucket, in bytes.
    pub fn max_bytes(self, bytes: u64) -> Self {
        self.set(|config| config.max_bytes = Some(bytes))
    }

    /// Where it is stored.
    pub fn storage(self, storage: Storage) -> Self {
        self.set(|config| config.storage = Some(storage))
    }

    /// How many servers of a cluster store it, 1 to 5.
    pub fn replicas(self, replicas: u8) -> Self {
        self.set(|config| config.replicas = Some(replicas))
    }

    /// Whether it is stored compressed.
    pub fn compression(self, on: bool) -> Self {
        self.set(|config| config.compression = Some(on))
    }

    /// What it is for.
    pub fn description(self, description: impl Into<String>) -> Self {
        self.set(|config| config.description = Some(description.into()))
    }

    /// Which servers may store it.
    pub fn placement(self, placement: Placement) -> Self {
        self.set(|config| config.placement = Some(placement))
    }

    /// Where else each write is published.
    pub fn republish(self, republish: Republish) -> Self {
        self.set(|config| config.republish = Some(republish))
    }

    /// The bucket that this one is a copy of; writes to it go there.
    pub fn mirror(self, origin: Source) -> Self {
        self.set(|config| config.mirror = Some(origin))
    }

    /// The buckets whose writes are copied into this one (ADR-57). It can be written all the same.
    pub fn sources(self, sources: impl IntoIterator<Item = Source>) -> Self {
        self.set(|config| config.sources = sources.into_iter().collect())
    }

    /// A note on the bucket; those that are there already stay.
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

    /// Whether several writes can be applied all or nothing; it needs nats-server 2.12.1. On in a new bucket where the
    /// server can.
    pub fn atomic(self, on: bool) -> Self {
        self.set(|config| config.atomic = Some(on))
    }

    /// Never make the bucket.
    pub fn must_exist(mut self) -> Self {
        self.presence = self.presence.and(Presence::MustExist);
        self
    }

    /// Always make the bucket: of several who try at once, one does. (It gets a note in its metadata for that.)
    pub fn must_create(mut self) -> Self {
        self.presence = self.presence.and(Presence::MustCreate);
        self
    }

    /// What to do with a bucket that differs.
    pub fn on_drift(mut self, drift: Drift) -> Self {
        self.drift = drift;
        self
    }

    /// How long the opening may take; the store's time by default.
    pub fn open_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Open it for reading: it is neither made nor changed.
    pub fn read_only(self) -> OpenReadBucket<T> {
        OpenReadBucket { open: self.must_exist() }
    }

    async fn open(&self, deadline: Deadline) -> Result<Arc<dyn RawBucket>> {
        let Self { backend, config, key_codec, presence, drift, timeout: _, closed, model: _ } = self;
        closed.check()?;
        config.validate()?;
        if *key_codec == KeyCodec::Path && !is_one_field(T::Key::TEMPLATE) {
            return Err(Error::invalid_config(format!(
                "the key codec `path` is for models whose key is one field, `{{path..}}`, not `{}`",
                T::Key::TEMPLATE
            )));
        }
        if *presence == Presence::Contradiction {
            return Err(Error::invalid_config(
                "`must_exist` (which `read_only` implies) and `must_create` exclude each other",
            ));
        }
        if *presence == Presence::MustCreate {
            // A server takes the same configuration twice, and says so with nothing: this one is never the same.
            let mut config = config.clone();
            config.metadata.insert(MADE_BY.to_owned(), format!("{:032x}", rand::random::<u128>()));
            return backend.create(config, deadline).await;
        }
        loop {
            if let Some(found) = backend.open(&config.name, deadline).await? {
                let differences = config.differences(found.config());
                return match drift {
                    _ if differences.is_empty() => Ok(found),
                    Drift::Adopt => Ok(found),
                    Drift::Update => backend.update(config.clone(), deadline).await,
                    Drift::Fail => Err(Error::new(ErrorKind::Drift { differences })),
                };
            }
            if *presence == Presence::MustExist {
                return Err(Error::new(ErrorKind::BucketNotFound));
            }
            match backend.create(config.clone(), deadline).await {
                // Somebody else made it between the look and the making: look again.
                Err(error) if matches!(error.kind(), ErrorKind::BucketExists) && !deadline.has_passed() => {}
                made => return made,
            }
        }
    }

    async fn run(self) -> Result<ReadBucket<T>> {
        let raw = self.open(Deadline::after(self.timeout)).await;
        let raw = raw.map_err(|error| error.of_model::<T>().within("open", &self.config.name, None))?;
        let raw = encoded(raw, self.key_codec);
        Ok(ReadBucket::new(self.backend, raw, self.timeout, self.closed))
    }
}

/// Whether a template is `{field..}` and nothing else.
fn is_one_field(template: &str) -> bool {
    let name = template.strip_prefix('{').and_then(|rest| rest.strip_suffix("..}"));
    name.is_some_and(|name| !name.contains(['{', '}', '.']))
}

impl<T: KvModel> IntoFuture for OpenBucket<T> {
    type Output = Result<Bucket<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(Bucket { read: self.run().await? }) })
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
        Box::pin(async move {
            // Whoever may only read may not change the bucket either.
            let drift = if self.open.drift == Drift::Update { Drift::Fail } else { self.open.drift };
            OpenBucket { drift, ..self.open }.run().await
        })
    }
}
