//! The rules of index entries that need no server.

use super::{BucketConfig, ConfigError};

impl BucketConfig {
    /// Whether an index entry must remove the earlier entry of its key.
    pub(crate) fn index_needs_rollup(&self) -> bool {
        self.history != Some(1)
    }

    /// Checks the complete configuration of a bucket.
    pub(crate) fn check_index_entries(&self) -> Result<(), ConfigError> {
        if self.index_entries != Some(true) {
            return Ok(());
        }
        // `Nats-TTL: never` alone does not survive a restart of the server.
        if self.ttl.is_some() && self.limit_markers.is_none() {
            return Err(wrong("needs `limit_markers` in a bucket with `ttl`: entries must not expire"));
        }
        if self.index_needs_rollup() && self.rollups == Some(false) {
            return Err(wrong("needs `rollups` in a bucket with `history`: an entry replaces the entry before it"));
        }
        Ok(())
    }

    /// Checks a requested update against the current configuration of the bucket.
    pub(crate) fn check_index_update(&self, current: &Self) -> Result<(), ConfigError> {
        if current.mirror.is_some() && self.index_entries == Some(true) {
            return Err(wrong("is not for a mirror; set it on the original bucket"));
        }
        if current.index_entries != Some(true) {
            return Ok(());
        }
        if self.index_entries == Some(false) {
            return Err(wrong("cannot be turned off: the bucket may contain entries"));
        }
        if self.ttl.is_some() && current.ttl.is_none() {
            let reason =
                "cannot be added to a bucket with index entries: its entries would expire; create another bucket";
            return Err(ConfigError { setting: "ttl", reason: reason.to_owned() });
        }
        Ok(())
    }

    /// Checks that counters do not get index entries.
    pub(crate) fn check_no_index_entries(&self) -> Result<(), ConfigError> {
        if self.index_entries == Some(true) { Err(wrong("is not for counters")) } else { Ok(()) }
    }
}

fn wrong(reason: &str) -> ConfigError {
    ConfigError { setting: "index_entries", reason: reason.to_owned() }
}
