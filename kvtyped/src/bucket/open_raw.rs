//! Opens a bucket without a model.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::handle::{Bucket, ReadBucket};
use super::model_card::UPDATED_BY;
use super::open::{MADE_BY, OpenBucket, OpenReadBucket};
use crate::backend::{Backend, Deadline, RawBucket};
use crate::config::{BucketConfig, Drift};
use crate::context::StoreContext;
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyCodec;
use crate::model::{ModelCard, RawRecord};

/// Opens an existing bucket without its model; see [`Store::raw`](crate::Store::raw).
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenRawBucket {
    open: OpenBucket<RawRecord>,
}

impl OpenRawBucket {
    pub(crate) fn new(open: OpenBucket<RawRecord>, name: String) -> Self {
        Self { open: open.name(name).must_exist().on_drift(Drift::Adopt) }
    }

    /// Sets the timeout of opening, which is also the default timeout of the bucket's operations. Default: the store's
    /// timeout.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { open: self.open.timeout(timeout) }
    }

    /// Opens the bucket for reading.
    pub fn read_only(self) -> OpenReadBucket<RawRecord> {
        self.open.read_only()
    }

    /// Creates the bucket with the settings and the model cards of another bucket, if it does not exist.
    ///
    /// The settings for mirrors, sources, republish, placement and write epochs are not used, nor are limit markers and
    /// atomic batches that the backend does not support. The new cards list no indexes: build the indexes again. An
    /// existing bucket keeps its settings.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}", history = 1, version = 3)]
    /// # struct User { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let (store, other) = (Store::memory(), Store::memory());
    /// let users: Bucket<User> = store.bucket().await?;
    /// other.raw("users").create_like(users.config()).await?;
    ///
    /// let copy: Bucket<User> = other.bucket().must_exist().await?;
    /// assert_eq!(copy.card().await?, users.card().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if a setting is invalid, and `Unsupported` if the backend does not support one.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the bucket may or may not be created.
    pub fn create_like(self, settings: &BucketConfig) -> CreateRawBucket {
        CreateRawBucket { open: self.open, settings: settings.clone() }
    }
}

impl IntoFuture for OpenRawBucket {
    type Output = Result<Bucket<RawRecord>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.open.into_future()
    }
}

/// Opens a bucket without its model, or creates it like another bucket; see [`OpenRawBucket::create_like`].
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct CreateRawBucket {
    open: OpenBucket<RawRecord>,
    settings: BucketConfig,
}

impl IntoFuture for CreateRawBucket {
    type Output = Result<Bucket<RawRecord>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let ((backend, context), name, timeout) = self.open.into_parts();
        let observed = Arc::clone(&context);
        Box::pin(async move {
            let open = async {
                let opened = open_like(backend, context, &name, &self.settings, timeout).await;
                opened.map_err(|error| error.with_context("open", &name, None))
            };
            observed.observe("open", name.clone(), Box::pin(open)).await
        })
    }
}

/// Opens a bucket. Creates it with the settings of another bucket if it does not exist.
pub(super) async fn open_like(
    backend: Arc<dyn Backend>,
    context: Arc<StoreContext>,
    name: &str,
    settings: &BucketConfig,
    timeout: Duration,
) -> Result<Bucket<RawRecord>> {
    context.admit()?;
    let deadline = Deadline::after(timeout);
    let raw = find_or_create(&*backend, name, settings, deadline).await?;
    Ok(Bucket { read: ReadBucket::new(backend, raw, KeyCodec::Escaped, timeout, context) })
}

async fn find_or_create(
    backend: &dyn Backend,
    name: &str,
    settings: &BucketConfig,
    deadline: Deadline,
) -> Result<Arc<dyn RawBucket>> {
    crate::config::check_bucket_name("name", name)?;
    if let Some(raw) = backend.open(name, deadline).await? {
        return Ok(raw);
    }
    match backend.create(like(settings, name, backend, deadline).await?, deadline).await {
        Err(error) if matches!(error.kind(), ErrorKind::BucketExists) => {
            let raw = backend.open(name, deadline).await?;
            raw.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))
        }
        created => created,
    }
}

/// Removes the indexes from the card of a model, because the new bucket has no entries of them.
fn remove_indexes(metadata_key: &str, text: &mut String) {
    let card = ModelCard::model_of(metadata_key).and_then(|_| ModelCard::parse(text).ok());
    if let Some(card) = card.filter(|card| !card.indexes.is_empty()) {
        *text = ModelCard { indexes: Default::default(), ..card }.to_text();
    }
}

/// Returns the settings of a new bucket that is like another one.
async fn like(settings: &BucketConfig, name: &str, backend: &dyn Backend, deadline: Deadline) -> Result<BucketConfig> {
    let capabilities = backend.capabilities(deadline).await?;
    let mut config = BucketConfig { name: name.to_owned(), ..settings.clone() };
    (config.mirror, config.republish, config.placement) = (None, None, None);
    (config.write_epochs, config.write_epoch) = (None, None);
    config.sources.clear();
    config.irregular.clear();
    config.metadata.retain(|key, _| !matches!(key.as_str(), MADE_BY | UPDATED_BY));
    config.metadata.iter_mut().for_each(|(key, text)| remove_indexes(key, text));
    config.atomic = config.atomic.filter(|atomic| !atomic || capabilities.atomic);
    config.limit_markers = config.limit_markers.filter(|_| capabilities.key_ttl);
    config.validate()?;
    Ok(config)
}
