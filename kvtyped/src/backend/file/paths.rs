//! The files of a store.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The paths of the files of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Paths {
    /// The database. Its folder is resolved, so that two texts of one path are equal.
    pub(super) main: PathBuf,
    pub(super) wal: PathBuf,
    pub(super) lock: PathBuf,
}

impl Paths {
    /// Resolves a path. The folder must exist, and the files must be regular files, if they exist.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let invalid =
            |reason: String| Error::invalid_config(format!("`{}` is no path of a store: {reason}", path.display()));
        let name = path.file_name().ok_or_else(|| invalid("it names no file".to_owned()))?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = folder.canonicalize().map_err(|error| invalid(format!("its folder cannot be used: {error}")))?;
        let mut main = folder.join(name);
        // A link to a file has the files of its target.
        if main.is_symlink() {
            main = main.canonicalize().map_err(|error| invalid(format!("the link cannot be used: {error}")))?;
        }
        let paths = Self { wal: with_suffix(&main, "-wal"), lock: with_suffix(&main, "-lock"), main };
        // SQLite opens a pipe or a device without an error, and loses what it writes there.
        for path in [&paths.main, &paths.wal, &paths.lock] {
            if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
                return Err(invalid(format!("`{}` is no regular file", path.display())));
            }
        }
        Ok(paths)
    }

    /// Returns the name of the database in messages.
    pub(super) fn name(&self) -> String {
        self.main.display().to_string()
    }
}

/// Appends a text to a file name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Creates an empty file, and syncs its folder.
pub(super) fn create(path: &Path, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    with_mode(&mut options, mode).open(path)?.sync_all()?;
    sync_folder(path)
}

/// Syncs the folder of a file, so that its name survives a loss of power.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Sets the permission of new files.
#[cfg(unix)]
pub(super) fn with_mode(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, mode)
}

/// Sets the permission of new files, which this system does not have.
#[cfg(not(unix))]
pub(super) fn with_mode(options: &mut OpenOptions, _: u32) -> &mut OpenOptions {
    options
}
