//! The position of an import in a file.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::fail::Failure;
use crate::json::{Json, object};

/// A file with the position of an import.
#[derive(Debug)]
pub(crate) struct ResumeFile {
    path: PathBuf,
    /// A hash of the header of the export.
    header: u64,
    /// The bucket of the import; see [`identity`].
    target: u64,
    line: u64,
}

impl ResumeFile {
    /// Opens the file of an import to the bucket with the [`identity`] `target`. A file that does not exist is the start of
    /// the import.
    pub(crate) fn open(path: &Path, header: &[u8], target: u64) -> Result<Self, Failure> {
        let mut hasher = DefaultHasher::new();
        header.hash(&mut hasher);
        let header = hasher.finish();
        let stored = match fs::read(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let Some(text) = stored else { return Ok(Self { path: path.to_owned(), header, target, line: 0 }) };
        let json = Json::parse(&text).ok();
        let number = |field| json.as_ref().and_then(|json| json.get(field)).and_then(Json::unsigned);
        match (number("header"), number("line")) {
            (Some(stored), Some(_)) if stored == header && number("target") != Some(target) => {
                Err(of_another_target(path))
            }
            (Some(stored), Some(line)) if stored == header => Ok(Self { path: path.to_owned(), header, target, line }),
            _ => Err(Failure::usage(format!("`{}` is the position in another export", path.display()))
                .hint("name another file, or remove this one to start again")),
        }
    }

    /// Returns the number of the last line that is imported.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Stores the number of the last line that is imported.
    pub(crate) fn store(&self, line: u64) -> Result<(), Failure> {
        replace(
            &self.path,
            &object! { "v" => 1u8, "header" => self.header, "target" => self.target, "line" => line }.line(),
        )
    }
}

/// Returns the time at which a bucket was created, in nanoseconds. It identifies the bucket. The buckets of a
/// fixture get zero, because each process creates them again.
pub(crate) fn identity(url: &str, created: SystemTime) -> u64 {
    if url.starts_with("memory:") {
        return 0;
    }
    let since = created.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The error of a position in another bucket, which lacks the records up to there.
pub(crate) fn of_another_target(path: &Path) -> Failure {
    Failure::usage(format!("`{}` is the position of a run with another target", path.display()))
        .hint("name another file, or remove this one to start again")
}

/// Replaces the content of a file. A reader sees the old or the new content, also after a crash.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{text}")?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| Failure::from(error.error))?;
    Ok(())
}
