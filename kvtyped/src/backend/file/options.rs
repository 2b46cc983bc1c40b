//! How a store is opened.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// When a write is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SyncMode {
    /// The disk is flushed before each answer. No acknowledged write is lost.
    #[default]
    Always,
    /// The disk is flushed at least this often, and no answer waits for it. A loss of power loses at most the writes of
    /// this time. The end of the process loses nothing.
    Every(Duration),
    /// The disk is flushed only when the journal is compacted. A loss of power may lose many of the last writes. The
    /// end of the process loses nothing.
    Off,
}

/// The options of a file.
#[derive(Debug, Clone)]
pub(crate) struct FileOptions {
    pub(crate) path: PathBuf,
    pub(crate) sync: SyncMode,
    /// The permission of new files. `None` for the default.
    pub(crate) mode: Option<u32>,
    pub(crate) timeout: Duration,
    pub(crate) limits: Limits,
}

/// Limits and clocks that only tests change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The number of rows that one checkpoint step moves.
    pub(crate) checkpoint_rows: i64,
    /// The size of the journal that starts a checkpoint.
    pub(crate) journal_bytes: usize,
    /// The largest number of pages of the database.
    pub(crate) max_pages: Option<u32>,
    /// The wall clock.
    pub(crate) now: Option<SystemTime>,
}

impl FileOptions {
    /// The permission of new files: only the owner reads and writes.
    pub(crate) const MODE: u32 = 0o600;

    pub(crate) fn new(path: impl Into<PathBuf>, timeout: Duration) -> Self {
        let limits = Limits { checkpoint_rows: 1024, journal_bytes: 64 * 1024 * 1024, max_pages: None, now: None };
        Self { path: path.into(), sync: SyncMode::default(), mode: None, timeout, limits }
    }

    /// The reason why a mode is refused.
    pub(super) const INVALID_MODE: &str =
        "`mode` must be an octal permission that lets the owner read and write, such as `0640`";

    /// Whether this is a permission of a file that its owner may read and write.
    pub(super) fn is_valid_mode(mode: u32) -> bool {
        mode & !0o777 == 0 && mode & 0o600 == 0o600
    }

    /// Whether a store that is open with `other` may serve these options.
    pub(super) fn is_compatible(&self, other: &Self) -> bool {
        self.sync == other.sync && self.limits == other.limits && (self.mode.is_none() || self.mode == other.mode)
    }
}
