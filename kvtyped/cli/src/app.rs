//! What every command shares: the options, the output, and the stores.

use std::path::PathBuf;
use std::time::Duration;

use kvtyped::bucket::BucketStatus;
use kvtyped::connect::NatsOptions;
use kvtyped::{Bucket, ErrorKind, RawRecord, ReadBucket, Store};
use tokio::sync::OnceCell;

use crate::address::{Address, StoreName, check_argument};
use crate::args::Global;
use crate::codec::Models;
use crate::context::{self, Context, without_userinfo};
use crate::fail::Failure;
use crate::fixture;
use crate::json::object;
use crate::out::Out;
use crate::writes::Writes;

/// How long the connection may be lost before operations fail at once.
const FAIL_FAST_AFTER: Duration = Duration::from_secs(2);

/// How long the end of the tool waits for the release of leases.
const RELEASE: Duration = Duration::from_secs(2);

/// The state of a run of the tool.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: Global,
    pub(crate) out: Out,
    /// The writes of this run.
    pub(crate) writes: Writes,
    target: OnceCell<Target>,
}

/// A store, and the rules of its context.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) store: Store,
    /// The URL without credentials.
    pub(crate) url: String,
    pub(crate) context: Option<Context>,
}

/// A bucket that is read.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) bucket: ReadBucket<RawRecord>,
    pub(crate) status: BucketStatus,
    pub(crate) models: Models,
}

/// A bucket that is written.
#[derive(Debug, Clone)]
pub(crate) struct WriteView {
    pub(crate) bucket: Bucket<RawRecord>,
    pub(crate) models: Models,
    /// Whether the context marks the store as production.
    pub(crate) is_production: bool,
}

impl App {
    pub(crate) fn new(options: Global) -> Self {
        let out = Out::new(options.output, options.color, options.quiet);
        Self { options, out, writes: Writes::default(), target: OnceCell::new() }
    }

    /// Returns the store of the options and the context. Connects at the first call.
    pub(crate) async fn target(&self) -> Result<&Target, Failure> {
        self.target.get_or_try_init(|| self.connect(&StoreName::Current, false)).await
    }

    /// Returns the current store for a command that may create a file.
    async fn target_to_create(&self) -> Result<&Target, Failure> {
        self.target.get_or_try_init(|| self.connect(&StoreName::Current, true)).await
    }

    /// Returns the current store, for reading.
    pub(crate) async fn store(&self) -> Result<&Store, Failure> {
        Ok(&self.target().await?.store)
    }

    /// Returns the current store for a command that writes.
    ///
    /// Refuses with `--read-only`, and asks for the name of the bucket in production.
    pub(crate) async fn store_to_write(&self, bucket: &str) -> Result<&Target, Failure> {
        self.refuse_read_only(None)?;
        let target = self.target_to_create().await?;
        self.allow_write(target, bucket).await?;
        Ok(target)
    }

    /// Returns the store of an address for a command that writes.
    pub(crate) async fn target_of_to_write(&self, address: &Address) -> Result<Target, Failure> {
        self.refuse_read_only(None)?;
        let target = match address.store {
            StoreName::Current => self.target_to_create().await?.clone(),
            _ => self.connect(&address.store, true).await?,
        };
        self.allow_write(&target, &address.bucket).await?;
        Ok(target)
    }

    /// Returns the store of an address, for reading.
    pub(crate) async fn target_of(&self, address: &Address) -> Result<Target, Failure> {
        match address.store {
            StoreName::Current => Ok(self.target().await?.clone()),
            _ => self.connect(&address.store, false).await,
        }
    }

    async fn allow_write(&self, target: &Target, bucket: &str) -> Result<(), Failure> {
        self.refuse_read_only(target.context.as_ref())?;
        match target.is_production() {
            true => crate::confirm::production(self, target, bucket).await,
            false => Ok(()),
        }
    }

    fn refuse_read_only(&self, context: Option<&Context>) -> Result<(), Failure> {
        if self.options.read_only {
            return Err(Failure::refused("the command writes, and `--read-only` is set"));
        }
        match context.filter(|context| context.is_read_only()) {
            Some(context) => {
                Err(Failure::refused(format!("the command writes, and context `{}` is read-only", context.name)))
            }
            None => Ok(()),
        }
    }

    /// Opens a bucket of the current store for reading.
    pub(crate) async fn view(&self, bucket: &str) -> Result<View, Failure> {
        View::open(self.store().await?, bucket).await
    }

    /// Opens the bucket of an address for reading.
    pub(crate) async fn view_of(&self, address: &Address) -> Result<View, Failure> {
        View::open(&self.target_of(address).await?.store, &address.bucket).await
    }

    /// Opens a bucket of the current store for writing.
    ///
    /// Refuses if the bucket has indexes, which only the program's model maintains.
    pub(crate) async fn write_view(&self, bucket: &str, allow_unindexed: bool) -> Result<WriteView, Failure> {
        let target = self.store_to_write(bucket).await?;
        WriteView::open(target, bucket, allow_unindexed).await
    }

    async fn connect(&self, name: &StoreName, may_create: bool) -> Result<Target, Failure> {
        let (url, context) = self.resolve(name)?;
        if let Some(warning) = context.as_ref().and_then(Context::exposed) {
            self.out.warn(&warning);
        }
        if !may_create {
            refuse_missing_file(&url)?;
        }
        let mut options = context.as_ref().map_or_else(NatsOptions::new, Context::options).name("kvtyped");
        if context.is_none() {
            options = options_of_environment(options);
        }
        if let Some(creds) = &self.options.creds {
            options = options.credentials_file(creds);
        }
        let shown = without_userinfo(&url);
        if url.starts_with("memory:") && self.options.fixture.is_none() {
            self.out.warn("a `memory:` store is in one process, so the tool sees an empty one");
        }
        if self.options.verbose {
            self.out.note(&format!("store {shown}"));
        }
        let connect = Store::connect(&url).options(options).timeout(self.options.timeout);
        let connect = connect.observer(self.writes.observer());
        let store = connect.fail_fast_after(FAIL_FAST_AFTER).await.map_err(|error| {
            // The client may quote the URL.
            Failure::from(error).context(&format!("cannot open {shown}"))
        })?;
        if let Some(file) = &self.options.fixture
            && url.starts_with("memory:")
        {
            fixture::load(&store, file).await?;
        }
        Ok(Target { store, url: shown, context })
    }

    /// Returns the URL and the context of a store.
    fn resolve(&self, name: &StoreName) -> Result<(String, Option<Context>), Failure> {
        let of_context = |name: &str| {
            let context = context::find(name)?;
            Ok((context.url().to_owned(), Some(context)))
        };
        match name {
            StoreName::Url(url) => return Ok((url.clone(), None)),
            StoreName::Context(name) => return of_context(name),
            StoreName::Current => {}
        }
        if let Some(url) = &self.options.url {
            check_argument(url)?;
            return Ok((url.clone(), None));
        }
        if let Some(name) = &self.options.context {
            return of_context(name);
        }
        match (environment("KVTYPED_URL"), environment("KVTYPED_CONTEXT")) {
            // The context may be read-only, so it must not be ignored.
            (Some(_), Some(_)) => {
                return Err(Failure::usage("KVTYPED_URL and KVTYPED_CONTEXT are both set")
                    .hint("unset one of them, or use `--url URL` or `--context NAME`"));
            }
            (Some(url), None) => return Ok((url, None)),
            (None, Some(name)) => return of_context(&name),
            (None, None) => {}
        }
        match context::selected() {
            Some(name) => of_context(&name),
            None if self.options.fixture.is_some() => Ok(("memory:fixture".to_owned(), None)),
            None => Err(Failure::usage("no store is named")
                .hint("use `--url URL`, KVTYPED_URL or `--context NAME`, for example `--url nats://127.0.0.1:4222`")),
        }
    }

    /// Whether no command may write: by the options, or by the context of the current store.
    pub(crate) fn is_read_only(&self) -> bool {
        let context = self.target.get().and_then(|target| target.context.as_ref());
        self.options.read_only || context.is_some_and(Context::is_read_only)
    }

    /// Reports the state of a watch on stderr.
    pub(crate) fn note_watch(&self, state: &str, text: &str) {
        self.out.note_object(&object! { "v" => 1u8, "type" => "watch", "state" => state }, text);
    }

    /// Whether a user sits at the terminal.
    pub(crate) fn is_interactive(&self) -> bool {
        use std::io::IsTerminal;
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Opens the current store again after a command has closed it.
    pub(crate) async fn reopen(&self) -> Result<Target, Failure> {
        self.connect(&StoreName::Current, false).await
    }

    /// Saves the fixture, releases leases, and closes the store.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        let Some(target) = self.target.get() else { return Ok(()) };
        if let Some(file) = self.options.fixture.as_ref().filter(|_| self.options.fixture_save) {
            fixture::save(&target.store, file).await?;
        }
        // Also removes the ticket of a lock that an interrupted command waited for.
        match target.store.shutdown(RELEASE).await {
            // A lease that is not released becomes free after its TTL.
            Err(error) if matches!(error.kind(), ErrorKind::Timeout { .. }) => Ok(()),
            closed => Ok(closed?),
        }
    }
}

impl Target {
    /// Whether one process at a time can open the store.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.url.starts_with("file:")
    }

    pub(crate) fn is_production(&self) -> bool {
        self.context.as_ref().is_some_and(Context::is_production)
    }
}

impl View {
    pub(crate) async fn open(store: &Store, name: &str) -> Result<Self, Failure> {
        let bucket = store.raw(name).read_only().await?;
        let status = bucket.status().await?;
        let models = Models::of(&status.config);
        Ok(Self { bucket, status, models })
    }

    /// Decodes values with a command.
    pub(crate) fn decoded_with(mut self, decoder: Option<String>) -> Self {
        self.models = self.models.decoded_with(decoder);
        self
    }

    pub(crate) fn name(&self) -> &str {
        self.bucket.name()
    }
}

impl WriteView {
    pub(crate) async fn open(target: &Target, name: &str, allow_unindexed: bool) -> Result<Self, Failure> {
        let bucket = target.store.raw(name).await?;
        let models = Models::of(bucket.config());
        if !models.unreadable().is_empty() && !allow_unindexed {
            let (models, bucket) = (models.unreadable().join(", "), bucket.name());
            return Err(Failure::refused(format!("the tool cannot read the card of {models} in bucket `{bucket}`"))
                .hint("update the tool, or use `--allow-unindexed`"));
        }
        let indexed = models.indexed();
        if !indexed.is_empty() && !allow_unindexed {
            let (models, bucket) = (indexed.join(", "), bucket.name());
            return Err(Failure::refused(format!(
                "bucket `{bucket}` has indexes of {models}, and the tool does not maintain them"
            ))
            .hint(
                "change the record with a program of the model, or use `--allow-unindexed` and run `kvtyped doctor`",
            ));
        }
        Ok(Self { bucket, models, is_production: target.is_production() })
    }

    pub(crate) fn name(&self) -> &str {
        self.bucket.name()
    }
}

/// Returns a variable that is set and not empty.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Adds the credentials of the environment.
fn options_of_environment(options: NatsOptions) -> NatsOptions {
    match (environment("KVTYPED_USER"), environment("KVTYPED_TOKEN"), environment("KVTYPED_NKEY")) {
        (Some(user), ..) => options.user_and_password(user, environment("KVTYPED_PASSWORD").unwrap_or_default()),
        (None, Some(token), _) => options.token(token),
        (None, None, Some(file)) => options.nkey_file(file),
        (None, None, None) => options,
    }
}

/// Refuses a file that does not exist, which the library would create.
fn refuse_missing_file(url: &str) -> Result<(), Failure> {
    let Some(rest) = url.strip_prefix("file:") else { return Ok(()) };
    let path = rest.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("//").unwrap_or(path);
    // The library decodes escaped paths.
    match path.contains('%') || PathBuf::from(path).exists() {
        true => Ok(()),
        false => Err(Failure::not_found(format!("file `{path}` does not exist"))),
    }
}
