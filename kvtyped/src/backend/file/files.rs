//! Whether the files of an open store still have their names.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

use super::paths::Paths;

/// The files of an open store, as SQLite opened them.
#[derive(Debug)]
pub(super) struct OpenFiles {
    paths: Paths,
    main: Metadata,
    wal: Metadata,
}

impl OpenFiles {
    pub(super) fn new(paths: &Paths) -> io::Result<Self> {
        Ok(Self { paths: paths.clone(), main: fs::metadata(&paths.main)?, wal: fs::metadata(&paths.wal)? })
    }

    /// Whether both files are in their places. A removed or replaced file loses everything that is written to it.
    pub(super) fn are_in_place(&self) -> bool {
        is_at(&self.main, &self.paths.main) && is_at(&self.wal, &self.paths.wal)
    }
}

/// Whether the file with this metadata has this path.
#[cfg(unix)]
fn is_at(file: &Metadata, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
}

/// Whether there is a file with this path. Windows does not remove open files.
#[cfg(not(unix))]
fn is_at(_: &Metadata, path: &Path) -> bool {
    path.exists()
}
