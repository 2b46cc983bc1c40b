//! The checks of `doctor`.

pub(crate) mod account;
pub(crate) mod bucket;
pub(crate) mod cards;
pub(crate) mod permissions;
pub(crate) mod recipes;
pub(crate) mod store;

use crate::json::{Json, object};
use crate::out::Item;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// The check found no problem.
    Ok,
    /// A fact that may explain an error.
    Note,
    /// Something that will become a problem.
    Warning,
    /// A problem. The exit code of `doctor` is then 1.
    Error,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Returns how bad it is that this much of a limit is used. `None` if enough is left.
pub(crate) fn fill_level(used: u64, limit: u64) -> Option<Level> {
    let used = u128::from(used);
    let limit = u128::from(limit);
    match () {
        () if used * 20 >= limit * 19 => Some(Level::Error),
        () if used * 8 >= limit * 7 => Some(Level::Warning),
        () => None,
    }
}

/// The result of a check.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// The name of the check, for programs.
    pub(crate) check: &'static str,
    pub(crate) bucket: Option<String>,
    pub(crate) reason: String,
    /// A command that repairs the problem, or what to do.
    pub(crate) repair: Option<String>,
    /// The keys of the records that the finding is about.
    pub(crate) keys: Vec<String>,
}

impl Finding {
    pub(crate) fn new(level: Level, check: &'static str, reason: impl Into<String>) -> Self {
        Self { level, check, bucket: None, reason: reason.into(), repair: None, keys: Vec::new() }
    }

    pub(crate) fn ok(check: &'static str, reason: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, reason)
    }

    pub(crate) fn note(check: &'static str, reason: impl Into<String>) -> Self {
        Self::new(Level::Note, check, reason)
    }

    pub(crate) fn warning(check: &'static str, reason: impl Into<String>) -> Self {
        Self::new(Level::Warning, check, reason)
    }

    pub(crate) fn error(check: &'static str, reason: impl Into<String>) -> Self {
        Self::new(Level::Error, check, reason)
    }

    pub(crate) fn repair(mut self, repair: impl Into<String>) -> Self {
        self.repair = Some(repair.into());
        self
    }

    pub(crate) fn keys(mut self, keys: Vec<String>) -> Self {
        self.keys = keys;
        self
    }

    pub(crate) fn of_bucket(mut self, bucket: &str) -> Self {
        self.bucket = Some(bucket.to_owned());
        self
    }

    /// Returns the finding as an item.
    pub(crate) fn item(&self) -> Item {
        let keys = (!self.keys.is_empty()).then(|| self.keys.iter().map(Json::from).collect::<Vec<_>>());
        let json = object! {
            "v" => 1u8,
            "type" => "finding",
            "level" => self.level.name(),
            "check" => self.check,
            "bucket" => self.bucket.as_deref(),
            "reason" => self.reason.as_str(),
            "repair" => self.repair.as_deref(),
            "keys" => keys,
        };
        let subject = self.bucket.clone().unwrap_or_else(|| "(store)".to_owned());
        let repair = self.repair.as_ref().map(|repair| format!("; {repair}")).unwrap_or_default();
        let keys = if self.keys.is_empty() { String::new() } else { format!(": {}", self.keys.join(", ")) };
        let reason = format!("{}{keys}{repair}", self.reason);
        Item::new(json).cells([self.level.name(), &subject, self.check, &reason]).name(self.check)
    }
}
