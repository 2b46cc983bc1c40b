//! The files of an open store: flushes of the WAL, and whether the files are in their places.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use rusqlite::ffi;

use super::paths::Paths;

/// Whether the journal thread flushes the WAL after each commit, and SQLite does not.
///
/// SQLite calls `fsync`, because the build of `rusqlite` does not set `HAVE_FDATASYNC`. `fsync` also writes the time of
/// the last change, which is a second write to the disk for each commit. The order of the writes is the same: SQLite
/// still flushes the WAL before it moves pages, and the header of the WAL before it reuses the file.
pub(super) const FLUSHES_WAL: bool = cfg!(target_os = "linux");

/// The files of an open store.
#[derive(Debug)]
pub(super) struct OpenFiles {
    /// A second handle. SQLite holds no lock on the WAL, so the end of this handle releases none.
    wal: File,
    main: Metadata,
    paths: Paths,
}

impl OpenFiles {
    /// Describes the files that SQLite has opened.
    pub(super) fn new(paths: &Paths) -> io::Result<Self> {
        let (wal, main) = (File::options().read(true).write(true).open(&paths.wal)?, std::fs::metadata(&paths.main)?);
        Ok(Self { wal, main, paths: paths.clone() })
    }

    /// Flushes the WAL. A failed flush must not be repeated.
    pub(super) fn flush(&self) -> rusqlite::Result<()> {
        self.wal.sync_data().map_err(|error| {
            let failure = ffi::Error::new(ffi::SQLITE_IOERR_FSYNC);
            rusqlite::Error::SqliteFailure(failure, Some(error.to_string()))
        })
    }

    /// Whether both files have their names. A removed or replaced file loses everything that is written to it.
    pub(super) fn are_in_place(&self) -> bool {
        is_at(&self.main, &self.paths.main) && self.wal.metadata().is_ok_and(|wal| is_at(&wal, &self.paths.wal))
    }
}

/// Whether the file with this metadata has this path.
#[cfg(unix)]
fn is_at(file: &Metadata, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
}

/// Whether there is a file with this path. Windows does not remove open files.
#[cfg(not(unix))]
fn is_at(_: &Metadata, path: &Path) -> bool {
    path.exists()
}
