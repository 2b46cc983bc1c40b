//! Errors of SQLite and of files as errors of the library.

use std::io;

use rusqlite::ErrorCode;

use super::paths::Paths;
use crate::error::{Error, ErrorKind};

/// Returns the error of a damaged store.
pub(super) fn damaged(paths: &Paths, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged { file: paths.name(), reason: reason.into() })
}

/// Returns the error of a file operation.
pub(super) fn io(paths: &Paths, error: io::Error) -> Error {
    Error::unavailable(format!("`{}` cannot be used: {error}", paths.name())).caused_by(error)
}

/// Returns the error of SQLite during an open.
pub(super) fn sqlite(paths: &Paths, error: rusqlite::Error) -> Error {
    let detail = match &error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                return damaged(paths, format!("SQLite cannot read it ({failure})")).caused_by(error);
            }
            ErrorCode::DiskFull => return Error::unavailable(no_space_reason(paths, None)).caused_by(error),
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                let (file, process) = (paths.name(), "another program that uses SQLite".to_owned());
                return Error::new(ErrorKind::InUse { file, process }).caused_by(error);
            }
            ErrorCode::ReadOnly => "it is read-only".to_owned(),
            _ => failure.to_string(),
        },
        // The type of a column.
        _ => return damaged(paths, "a column has another type").caused_by(error),
    };
    Error::unavailable(format!("`{}` cannot be used: {detail}", paths.name())).caused_by(error)
}

/// Returns the reason of a write on a full disk. `waiting` is the size of a WAL that must be moved first.
pub(super) fn no_space_reason(paths: &Paths, waiting: Option<u64>) -> String {
    let name = paths.name();
    match waiting.map(|bytes| bytes.div_ceil(1024)) {
        Some(size) => format!("no space left for `{name}`; free {size} KiB for its write-ahead log"),
        None => format!("no space left for `{name}`; free some space"),
    }
}

/// Whether the disk is full, and SQLite rolled back.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Whether another connection holds a lock, and nothing was written.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}
