//! The stored position of a job. A later call resumes there.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::lease::RECIPE;
use crate::backend::Read;
use crate::bucket::{Bucket, Cursor};
use crate::error::{ErrorKind, Result};
use crate::model::KvModel;
use crate::recipes::record::{RecipeKey, RecipeRecord, Unknown};
use crate::revision::Revision;

/// The shortest time between two checkpoints.
const INTERVAL: Duration = Duration::from_secs(1);

/// The stored position of a migration or of a build.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    /// The version that the migration writes, or the definition of the index that is built.
    to: u32,
    /// The position, as the text of a cursor.
    cursor: String,
    #[serde(flatten)]
    unknown: Unknown,
}

/// The position of a migration in a reserved record of its bucket. A position that cannot be stored costs a later call
/// some time and nothing else, so its errors are ignored.
#[derive(Debug)]
pub(super) struct Checkpoint {
    key: RecipeKey,
    to: u32,
    created: SystemTime,
    stored: Revision,
    next: Instant,
}

impl Checkpoint {
    pub(super) fn new<T: KvModel>(to: u32, created: SystemTime) -> Self {
        Self::of_part::<T>("cursor".to_owned(), to, created)
    }

    /// Creates the position of the build of an index. `definition` identifies the definition of the index.
    pub(super) fn of_build<T: KvModel>(index: &str, definition: u32, created: SystemTime) -> Self {
        Self::of_part::<T>(format!("cursor-{index}"), definition, created)
    }

    fn of_part<T: KvModel>(part: String, to: u32, created: SystemTime) -> Self {
        let key = RecipeKey::new(RECIPE, T::SCHEMA.name, part);
        Self { key, to, created, stored: Revision::ZERO, next: Instant::now() }
    }

    /// Returns the stored position. [`Revision::ZERO`] if the bucket has no position for this version.
    pub(super) async fn load<T: KvModel>(&mut self, bucket: &Bucket<T>, timeout: Duration) -> Result<Revision> {
        let positions: Bucket<RecipeRecord<Position>> = bucket.as_model();
        let stored = match positions.get(&self.key).read(Read::Leader).timeout(timeout).await {
            Err(error) if matches!(error.kind(), ErrorKind::Decode { .. }) || error.is_denied() => None,
            stored => stored?,
        };
        let position = stored.map(|entry| entry.into_value().value).filter(|position| position.to == self.to);
        let Some(cursor) = position.and_then(|position| position.cursor.parse::<Cursor>().ok()) else {
            return Ok(Revision::ZERO);
        };
        match bucket.resume(cursor, bucket.deadline(Some(timeout))).await {
            Ok(revision) => {
                self.stored = revision;
                Ok(revision)
            }
            Err(error) if matches!(error.kind(), ErrorKind::BucketReplaced) => Ok(Revision::ZERO),
            Err(error) => Err(error),
        }
    }

    /// Stores a position, if the last one is old enough. Everything up to it is acknowledged.
    pub(super) async fn reached<T: KvModel>(&mut self, bucket: &Bucket<T>, position: Revision) {
        let now = Instant::now();
        if position <= self.stored || now < self.next {
            return;
        }
        (self.stored, self.next) = (position, now + INTERVAL);
        let cursor = Cursor::new(self.created, position).to_string();
        let value = Position { to: self.to, cursor, unknown: Unknown::default() };
        let record = RecipeRecord { key: self.key.clone(), value };
        let _ = bucket.as_model::<RecipeRecord<Position>>().put(&record).timeout(INTERVAL).await;
    }

    /// Removes the stored position at the end of the job.
    pub(super) async fn remove<T: KvModel>(&self, bucket: &Bucket<T>) {
        if self.stored > Revision::ZERO {
            let _ = bucket.as_model::<RecipeRecord<Position>>().delete(&self.key).timeout(INTERVAL).await;
        }
    }

    /// Removes the position of an earlier job, which must not resume.
    pub(super) async fn forget<T: KvModel>(&mut self, bucket: &Bucket<T>, timeout: Duration) -> Result<()> {
        if self.load(bucket, timeout).await? > Revision::ZERO {
            bucket.as_model::<RecipeRecord<Position>>().delete(&self.key).timeout(timeout).await?;
            self.stored = Revision::ZERO;
        }
        Ok(())
    }
}
