//! The rules of write epochs that need no server.

use super::{BucketConfig, ConfigError};

impl BucketConfig {
    /// Checks the write epochs of a new bucket.
    pub(crate) fn check_first_epoch(&self) -> Result<(), ConfigError> {
        match self.write_epoch {
            Some(_) if self.write_epochs.is_none() => Err(wrong("needs `write_epochs`".into())),
            _ => Ok(()),
        }
    }

    /// Checks that counters do not get write epochs.
    pub(crate) fn check_no_epochs(&self) -> Result<(), ConfigError> {
        match (self.write_epochs, self.write_epoch) {
            (None, None) => Ok(()),
            _ => Err(ConfigError { setting: "write_epochs", reason: "is not for counters".into() }),
        }
    }

    /// Checks a requested switch of the write epoch against the current configuration of the bucket.
    ///
    /// If the bucket has the requested epoch already, this caller or another one made the switch. The metadata of the
    /// request belong to the switch, so they are dropped: they must not replace the metadata of another switch.
    pub(crate) fn check_switch(&mut self, current: &Self) -> Result<(), ConfigError> {
        let Some(wanted) = self.write_epoch else { return Ok(()) };
        match current.write_epoch {
            None if self.write_epochs.is_none() => Err(wrong("needs `write_epochs`, and the bucket has none".into())),
            Some(now) if wanted < now => {
                Err(wrong(format!("is {wanted}, and the bucket has {now} already; an epoch never decreases")))
            }
            Some(now) if wanted == now => {
                self.write_epoch = None;
                self.metadata.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn wrong(reason: String) -> ConfigError {
    ConfigError { setting: "write_epoch", reason }
}
