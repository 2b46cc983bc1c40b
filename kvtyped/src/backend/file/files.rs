//! The files of an open store: their names, and a sync that needs no space.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
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

/// Returns the length of a file, or zero if it does not exist.
pub(super) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Writes the content of a file again in its place, and syncs the file. Needs no space on most file systems.
///
/// A sync alone is not enough: after a sync that failed in an earlier process, the system may regard data as written
/// that is in its cache only.
pub(super) fn rewrite(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let at = file.stream_position()?;
        let length = file.read(&mut bytes)?;
        if length == 0 {
            return file.sync_all();
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes.get(..length).unwrap_or_default())?;
    }
}
