//! Changes of the settings of a bucket: `STREAM.UPDATE`.
//!
//! A server knows no compare-and-set on the configuration of a stream. The client therefore reads the configuration
//! directly before each change. If the reply is lost, it reads the configuration again, and sends the change again only
//! if the bucket does not have it.
//!
//! # Write epochs of an existing bucket
//!
//! The transform must be on every replica before the stream takes the first epoch: a replica without it stores an
//! acknowledged write as no record. So each step waits until every replica is current:
//!
//! 1. Only if another program removed the transform: the stream stops taking epochs.
//! 2. The stream gets the transform.
//! 3. The stream takes an epoch.
//!
//! An interrupted change is continued by the next update with the same settings.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::NatsBackend;
use super::jetstream::api::Idempotency;
use super::jetstream::error::ApiError;
use super::jetstream::index_subject::has_index_subject;
use super::jetstream::write_epochs::{self, EpochSettings};
use super::jetstream::{fixed_settings, stream_config, stream_info};
use crate::backend::{Deadline, RawBucket};
use crate::config::{BucketConfig, WriteEpochs};
use crate::error::{Error, ErrorKind, Outcome, Result};

/// How long to wait for the reply to a change before the configuration is read again.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long a replica may take to become current.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause between two looks at the replicas.
const REPLICA_POLL: Duration = Duration::from_millis(100);

impl NatsBackend {
    pub(super) async fn update_stream(&self, config: BucketConfig, deadline: Deadline) -> Result<Arc<dyn RawBucket>> {
        config.validate()?;
        let capabilities = self.server_capabilities(deadline).await?;
        stream_config::check(&config, &capabilities)?;
        // Whether the reply to a change was lost.
        let mut is_unanswered = false;
        let unknown = |error: Error, is_unanswered| if is_unanswered { error.unknown_outcome() } else { error };
        loop {
            let found = self.api.stream(&config.name, deadline).await.map_err(|error| unknown(error, is_unanswered))?;
            let info = found.ok_or_else(|| unknown(Error::new(ErrorKind::BucketNotFound), is_unanswered))?;
            let (current, raw) = stream_info::parse_config(&info)?;
            let mut wanted = config.clone();
            wanted.check_switch(&current).map_err(|error| unknown(error.into(), is_unanswered))?;
            wanted.check_index_update(&current).map_err(|error| unknown(error.into(), is_unanswered))?;
            let switches = wanted.write_epoch.is_some_and(|epoch| current.write_epoch != Some(epoch));
            if !switches && stream_info::normalize(&wanted).differences(&current).is_empty() {
                return self.bucket(current, &raw, &info);
            }
            let step = next_step(&mut wanted, &raw, &info);
            let merged = stream_info::read(&config.name, &step.raw)?;
            merged.check_index_entries().map_err(|error| unknown(error.into(), is_unanswered))?;
            if step.needs_current_replicas {
                self.await_current_replicas(&config.name, deadline).await?;
            }
            let verb = format!("STREAM.UPDATE.{}", stream_config::stream_name(&config.name));
            let body = Value::Object(step.raw);
            let attempt = Deadline::after(deadline.remaining().min(ATTEMPT));
            match self.api.call(&verb, Some(&body), Idempotency::AtMostOnce, attempt).await {
                Ok(Ok(info)) if step.is_last => return self.verify_applied(info, &wanted, &capabilities),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.is_transient() && !deadline.is_expired() => {}
                Ok(Err(error)) => return Err(unknown(ApiError::into_config_error(error), is_unanswered)),
                Err(error) if error.is_transient() => {
                    is_unanswered |= error.outcome() == Outcome::Unknown;
                    if deadline.is_expired() {
                        return Err(unknown(error, is_unanswered));
                    }
                    tracing::debug!(bucket = config.name, %error, "reading the configuration again");
                }
                Err(error) => return Err(unknown(error, is_unanswered)),
            }
        }
    }

    /// Waits until every replica of a bucket is current, and has answered its leader since the begin of the wait.
    async fn await_current_replicas(&self, bucket: &str, deadline: Deadline) -> Result<()> {
        let started = Instant::now();
        loop {
            let info = self.api.stream(bucket, deadline).await?;
            let info = info.ok_or_else(|| Error::new(ErrorKind::BucketNotFound))?;
            let Some(late) = late_replica(&info, started.elapsed()) else { return Ok(()) };
            if started.elapsed() > REPLICA_TIMEOUT || deadline.remaining() < REPLICA_POLL {
                return Err(Error::unavailable(format!(
                    "replica `{late}` of the bucket is not current, and write epochs need every replica; try again when it is"
                )));
            }
            tokio::time::sleep(REPLICA_POLL).await;
        }
    }
}

/// Returns the name of a replica that is not current, or that has not answered its leader for this time.
fn late_replica(info: &Value, heard_within: Duration) -> Option<String> {
    let replicas = info["cluster"]["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let late = |replica: &&Value| {
        let is_current = replica["current"].as_bool().unwrap_or_default();
        let is_offline = replica["offline"].as_bool().unwrap_or_default();
        let silent = replica["active"].as_u64().map(Duration::from_nanos);
        !is_current || is_offline || silent.is_none_or(|silent| silent > heard_within)
    };
    replicas.iter().find(late).map(|replica| replica["name"].as_str().unwrap_or_default().to_owned())
}

/// One change of a stream.
struct Step {
    raw: Map<String, Value>,
    /// Whether the stream has all requested settings after this change.
    is_last: bool,
    needs_current_replicas: bool,
}

/// Returns the next change of a stream on the way to the requested settings.
fn next_step(wanted: &mut BucketConfig, raw: &Map<String, Value>, info: &Value) -> Step {
    let name = wanted.name.clone();
    let found = EpochSettings::read(&name, raw);
    let mut next = raw.clone();
    let is_cut_off = found.accepts() == WriteEpochs::Closed && found.epoch().is_none();
    if is_cut_off || matches!(found, EpochSettings::Damaged { .. }) {
        // An update repairs what another program damaged.
        wanted.write_epochs.get_or_insert(found.accepts());
    }
    match found {
        EpochSettings::Damaged { epochs } => {
            next.insert(
                "subjects".to_owned(),
                json!(write_epochs::stream_subjects(&name, epochs, None, has_index_subject(&name, raw))),
            );
            Step { raw: next, is_last: false, needs_current_replicas: true }
        }
        EpochSettings::Absent { .. } if wanted.write_epochs.is_some() => {
            next.insert("subject_transform".to_owned(), write_epochs::transform(&name));
            Step { raw: next, is_last: false, needs_current_replicas: true }
        }
        EpochSettings::Active { .. } | EpochSettings::Absent { .. } | EpochSettings::Prepared { .. } => {
            let is_first_epoch = found.epoch().is_none() && wanted.write_epochs.is_some();
            if is_first_epoch {
                wanted.write_epoch.get_or_insert_with(|| unused_epoch(info));
            }
            fixed_settings::repair(&name, &mut next);
            stream_config::merge_update(wanted, &mut next);
            Step { raw: next, is_last: true, needs_current_replicas: is_first_epoch }
        }
    }
}

/// Returns an epoch for a bucket that takes none: the server's time in seconds.
///
/// The bucket may have had epochs that another program removed, and their writers may still run. Their epochs are
/// lower, because an epoch grows by one with a switch.
fn unused_epoch(info: &Value) -> u64 {
    let now = stream_info::server_time(info).unwrap_or_else(SystemTime::now);
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(BucketConfig::FIRST_WRITE_EPOCH, |since| since.as_secs())
}
