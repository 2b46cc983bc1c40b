//! `switch_version`: the version that all programs write.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;

use super::lease::{Job, JobLease};
use crate::backend::Deadline;
use crate::bucket::Bucket;
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{KvModel, ModelCard};

const OPERATION: &str = "switch_version";

impl<T: KvModel> Bucket<T> {
    /// Makes all programs write this schema version.
    ///
    /// Sets the version in the [card](crate::model::ModelCard) of the model. Creates a missing card. In a bucket with
    /// [write epochs](crate::config::BucketConfig::write_epochs), the same update starts the next epoch: the server
    /// then refuses the writes of every program that has not noticed the switch. Such a program reads the card and
    /// continues if it can write the version. Otherwise its writes fail with `SchemaMoved`. This handle continues in
    /// the new version at once.
    ///
    /// Without write epochs, only the card changes. Programs that already opened the bucket continue to write the
    /// version that they know, and a blind `put` of such a program drops new fields.
    ///
    /// A switch to an older version counts the records first, and is refused if newer ones exist: programs of the older
    /// version cannot read them. To go back, call `switch_version(n).force()`, then [`migrate().to(n)`](Self::migrate),
    /// and then start the older programs.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}", version = 2, upgrade_from = UserV1, writes = 1)]
    /// # struct User { id: u64, email: Option<String> }
    /// # #[derive(Serialize, Deserialize, kvtyped::KvVersion)]
    /// # #[kv(version = 1)]
    /// # struct UserV1 { id: u64 }
    /// # impl From<UserV1> for User { fn from(UserV1 { id }: UserV1) -> Self { Self { id, email: None } } }
    /// # impl From<User> for UserV1 { fn from(User { id, .. }: User) -> Self { Self { id } } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let users: Bucket<User> = Store::memory().bucket().await?;
    /// let switch = users.switch_version(2).await?;
    /// assert_eq!((switch.from, switch.to, switch.epoch), (1, 2, None));
    ///
    /// users.put(&User { id: 7, email: None }).await?;
    /// assert_eq!(users.schema_versions().await?.get(2), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if this program cannot write the version. Returns `SchemaDiffers` if newer records
    /// exist, and if the card is unreadable. Returns `PermissionDenied` if the user may not change the configuration of
    /// the bucket. If the server does not answer, the outcome is `Unknown`; call again, because a repeated switch
    /// changes nothing.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the switch may or may not happen.
    pub fn switch_version(&self, version: u32) -> SwitchVersion<'_, T> {
        SwitchVersion { bucket: self, version, force: false, timeout: None }
    }
}

/// A switch of the version that all programs write; see [`Bucket::switch_version`].
#[must_use = "nothing is switched until it is awaited"]
#[derive(Debug)]
pub struct SwitchVersion<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    version: u32,
    force: bool,
    timeout: Option<Duration>,
}

/// The result of a switch; see [`Bucket::switch_version`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionSwitch {
    /// The version that programs wrote before.
    pub from: u32,
    /// The version that programs write now.
    pub to: u32,
    /// The write epoch of the bucket. `None` if the bucket has no write epochs: programs that have opened the bucket
    /// before the switch can still write the earlier version.
    pub epoch: Option<u64>,
    /// Whether this call changed the card. `false` if the version was current already.
    pub changed: bool,
}

impl<'a, T: KvModel> SwitchVersion<'a, T> {
    /// Switches to an older version although newer records exist. Programs of the older version cannot read them until
    /// a migration has written them again.
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }

    /// Sets the total timeout. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<VersionSwitch> {
        let Self { bucket, version, force, timeout } = self;
        bucket.raw(OPERATION)?;
        let deadline = bucket.deadline(timeout);
        let switched = async {
            check_written_by::<T>(version)?;
            if !force {
                check_no_newer_records(bucket, version, deadline).await?;
            }
            let lease = JobLease::acquire(bucket, Job::Configuration(OPERATION), Some(deadline.remaining())).await?;
            lease.run(switch(bucket, version, force, deadline)).await
        };
        switched.await.map_err(|error: Error| error.of_model::<T>().with_context(OPERATION, bucket.name(), None))
    }
}

impl<'a, T: KvModel> IntoFuture for SwitchVersion<'a, T> {
    type Output = Result<VersionSwitch>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.bucket;
        bucket.observe("switch_version", Box::pin(self.run()))
    }
}

/// Checks that the model has versions, and that this program can write this one.
pub(super) fn check_written_by<T: KvModel>(version: u32) -> Result<()> {
    let schema = T::SCHEMA;
    if schema.name.is_empty() {
        return Err(Error::invalid_config("the model has no name; set `name` in `#[kv(..)]`"));
    }
    let (oldest, newest) = (schema.writes, schema.version);
    if (oldest..=newest).contains(&version) {
        return Ok(());
    }
    let remedy =
        if version > newest { "deploy a program that has this version" } else { "set `writes` in `#[kv(..)]`" };
    Err(Error::invalid_config(format!(
        "this program writes the versions {oldest} to {newest} of model `{}`, and not version {version}; {remedy}",
        schema.name
    )))
}

/// Checks that no record is newer than `version`, if the bucket takes newer records now.
async fn check_no_newer_records<T: KvModel>(bucket: &Bucket<T>, version: u32, deadline: Deadline) -> Result<()> {
    bucket.refresh_status(deadline).await?;
    if bucket.schema().writes::<T>() <= version {
        return Ok(());
    }
    let versions = deadline.timeout(bucket.schema_versions().run_as(OPERATION)).await??;
    if versions.newer_than(version) == 0 {
        return Ok(());
    }
    let report = format!(
        "records of model `{}` are newer than version {version} (records by version: {versions}), and programs of that \
         version cannot read them; call `.force()`, and then `migrate().to({version})`",
        T::SCHEMA.name
    );
    Err(Error::new(ErrorKind::SchemaDiffers { report }))
}

async fn switch<T: KvModel>(
    bucket: &Bucket<T>,
    version: u32,
    force: bool,
    deadline: Deadline,
) -> Result<VersionSwitch> {
    let mut before: Option<(u32, bool)> = None;
    let change = |card: Option<ModelCard>, config: &BucketConfig| {
        let from = card.as_ref().map_or(T::SCHEMA.writes, |card| card.writes);
        let is_new = card.is_none();
        // An update without a reply may have been applied, so the first reading counts.
        before.get_or_insert((from, is_new || from != version));
        if !is_new && from == version {
            return Ok(None);
        }
        if from > version && !force && before.is_some_and(|(first, _)| first <= version) {
            // The records were not counted, because another process has switched since.
            return Err(Error::unavailable("another process has switched to a newer version; call again"));
        }
        let Some(card) = switched_card(bucket, card, version) else { return Ok(None) };
        let epoch = config.write_epochs.map(|_| config.write_epoch.unwrap_or_default().saturating_add(1));
        Ok(Some((card, epoch)))
    };
    let config = bucket.update_card(deadline, change).await?;
    let (from, changed) = before.unwrap_or((version, false));
    Ok(VersionSwitch { from, to: version, epoch: config.write_epoch, changed })
}

/// Returns the card after the switch. The program's schema is added if the program is not older than the card.
fn switched_card<T: KvModel>(bucket: &Bucket<T>, found: Option<ModelCard>, version: u32) -> Option<ModelCard> {
    let card = bucket.program_card(found)?;
    Some(ModelCard { writes: version, oldest: card.oldest.min(version), ..card })
}

/// One line for a log.
impl fmt::Display for VersionSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, epoch, changed } = self;
        match changed {
            true => write!(f, "switched from version {from} to version {to}")?,
            false => write!(f, "version {to} was current already")?,
        }
        match epoch {
            Some(epoch) => write!(f, " in write epoch {epoch}"),
            None => {
                f.write_str(", without write epochs: writes of programs that run the earlier version are not refused")
            }
        }
    }
}
