//! The position of an import in a file.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::fail::Failure;
use crate::json::{Json, object};

/// A file with the position of an import.
#[derive(Debug)]
pub(crate) struct ResumeFile {
    path: PathBuf,
    /// A hash of the header of the export.
    header: u64,
    line: u64,
}

impl ResumeFile {
    /// Opens the file. A file that does not exist is the start of the import.
    pub(crate) fn open(path: &Path, header: &[u8]) -> Result<Self, Failure> {
        let mut hasher = DefaultHasher::new();
        header.hash(&mut hasher);
        let header = hasher.finish();
        let stored = match fs::read(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let Some(text) = stored else { return Ok(Self { path: path.to_owned(), header, line: 0 }) };
        let json = Json::parse(&text).ok();
        let number = |field| json.as_ref().and_then(|json| json.get(field)).and_then(Json::unsigned);
        match (number("header"), number("line")) {
            (Some(stored), Some(line)) if stored == header => Ok(Self { path: path.to_owned(), header, line }),
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
        replace(&self.path, &object! { "v" => 1u8, "header" => self.header, "line" => line }.line())
    }
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
