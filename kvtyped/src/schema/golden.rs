//! Golden files: schemas and examples of all versions of a model, in the repository of a program.
//!
//! A test compares the files with the source. A change that makes stored records unreadable then fails before a deploy.
//!
//! | file | content |
//! |---|---|
//! | `user.3.schema.json` | the canonical JSON of version 3 of the model `user` |
//! | `user.3.json`, `user.3.2.json` | examples of records of version 3; the ending is the name of the codec |
//!
//! With `KVTYPED_GOLDEN=write` in the environment, a test adds missing files. It never changes a file.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::{Schema, compare};

/// The environment variable that lets a test add files.
const VARIABLE: &str = "KVTYPED_GOLDEN";

/// A model with all versions that its source knows.
///
/// ```
/// use kvtyped::codec::{Codec, Json};
/// use kvtyped::schema::golden::{Golden, GoldenVersion, Missing};
///
/// let golden = Golden {
///     model: "limits",
///     versions: vec![GoldenVersion { version: 1, codec: "json", schema: <Json as Codec<Vec<u32>>>::schema() }],
///     decode: |_version, bytes| <Json as Codec<Vec<u32>>>::decode(bytes).map(drop).map_err(|error| error.to_string()),
/// };
/// let directory = std::env::temp_dir().join(format!("golden-{}", std::process::id()));
/// let example = b"[1,2]".to_vec();
/// assert!(golden.verify(&directory, &[example.clone()], Missing::Refuse).is_err());
/// golden.verify(&directory, &[example.clone()], Missing::Write).unwrap();
/// golden.verify(&directory, &[example], Missing::Refuse).unwrap();
/// # std::fs::remove_dir_all(directory).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Golden<'a> {
    /// The name of the model. The names of its files begin with it.
    pub model: &'a str,
    /// The versions, with the newest one last.
    pub versions: Vec<GoldenVersion<'a>>,
    /// Decodes a record of any version and upgrades it to the newest one. The error is the reason of a failure.
    pub decode: fn(u32, &[u8]) -> Result<(), String>,
}

/// A version of a model.
#[derive(Clone, Debug)]
pub struct GoldenVersion<'a> {
    /// The number of the version.
    pub version: u32,
    /// The name of the codec.
    pub codec: &'a str,
    /// The schema of the records.
    pub schema: Schema,
}

/// How to treat a missing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// Report it.
    Refuse,
    /// Write it.
    Write,
}

impl Golden<'_> {
    /// Compares the files of a directory with the source, and panics if they differ: for tests.
    ///
    /// `examples` are encoded records of the newest version. The first one belongs to `user.3.json`, the second one to
    /// `user.3.2.json`. The existing files of examples are always checked, even if `examples` is empty.
    ///
    /// # Panics
    ///
    /// Panics with the message of [`verify`](Self::verify). Adds missing files instead if the environment variable
    /// `KVTYPED_GOLDEN` is `write`.
    #[allow(clippy::panic, reason = "it is an assertion of a test")]
    #[track_caller]
    pub fn check(&self, directory: impl AsRef<Path>, examples: &[Vec<u8>]) {
        let may_write = std::env::var_os(VARIABLE).is_some_and(|value| value == "write");
        let missing = if may_write { Missing::Write } else { Missing::Refuse };
        if let Err(message) = self.verify(directory.as_ref(), examples, missing) {
            panic!("{message}");
        }
    }

    /// Compares the files of a directory with the source.
    ///
    /// # Errors
    ///
    /// Returns all problems in one text: a file is missing or unreadable; the schema of a version differs from its
    /// file; an example of any version cannot be read; the encoding of an example differs from its file; a file belongs
    /// to a newer version than the source.
    pub fn verify(&self, directory: &Path, examples: &[Vec<u8>], missing: Missing) -> Result<(), String> {
        let mut check = Check { golden: self, directory, missing, problems: Vec::new() };
        for version in &self.versions {
            check.schema(version);
        }
        if let Some(newest) = self.versions.last() {
            for (at, example) in examples.iter().enumerate() {
                check.example(newest, at, example);
            }
        }
        check.stored_files();
        if check.problems.is_empty() {
            return Ok(());
        }
        let mut message = format!("golden files of model `{}` in `{}`:", self.model, directory.display());
        for problem in check.problems {
            _ = write!(message, "\n* {}", problem.replace('\n', "\n  "));
        }
        Err(message)
    }
}

struct Check<'a> {
    golden: &'a Golden<'a>,
    directory: &'a Path,
    missing: Missing,
    problems: Vec<String>,
}

impl Check<'_> {
    fn schema(&mut self, version: &GoldenVersion<'_>) {
        let number = version.version;
        let name = format!("{}.{number}.schema.json", self.golden.model);
        let Some(content) = self.content(&name, format!("{}\n", version.schema.to_json()).as_bytes()) else { return };
        let problem = match Schema::from_json(&String::from_utf8_lossy(&content)) {
            Ok(stored) if stored == version.schema => return,
            Ok(stored) => {
                let report = compare(&stored, &version.schema);
                format!(
                    "the schema of version {number} changed; the file `{name}` is \"there\", the source is \"here\"\n\
                     {report}\n\
                     if no record of version {number} is stored anywhere, delete the file and write it again with \
                     {VARIABLE}=write"
                )
            }
            Err(error) => format!("`{name}`: {error}"),
        };
        self.problems.push(problem);
    }

    fn example(&mut self, version: &GoldenVersion<'_>, at: usize, example: &[u8]) {
        let (model, number, codec) = (self.golden.model, version.version, version.codec);
        let name = match at {
            0 => format!("{model}.{number}.{codec}"),
            _ => format!("{model}.{number}.{}.{codec}", at + 1),
        };
        if self.content(&name, example).is_some_and(|content| without_line_end(&content) != without_line_end(example)) {
            self.problems.push(format!(
                "`{name}` has other bytes than the encoded example; either its values or its encoding changed (a `HashMap` \
                 or `HashSet` has no stable order: use a `BTreeMap`, or one entry in examples)"
            ));
        }
    }

    /// Returns the content of a file. Writes a missing file, if that is allowed.
    fn content(&mut self, name: &str, wanted: &[u8]) -> Option<Vec<u8>> {
        let path = self.directory.join(name);
        let problem = match fs::read(&path) {
            Ok(content) => return Some(content),
            Err(error) if error.kind() == ErrorKind::NotFound => match self.missing {
                Missing::Refuse => {
                    format!("`{name}` is missing; run the test with {VARIABLE}=write and commit the file")
                }
                Missing::Write => match self.write(&path, wanted) {
                    Ok(()) => return fs::read(&path).ok(),
                    Err(error) => format!("`{name}` cannot be written: {error}"),
                },
            },
            Err(error) => format!("`{name}` cannot be read: {error}"),
        };
        self.problems.push(problem);
        None
    }

    fn write(&self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(self.directory)?;
        match File::create_new(path) {
            Ok(mut file) => file.write_all(content),
            // Another test wrote it in the meantime.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Checks the examples of all versions, and looks for versions that the source does not know.
    fn stored_files(&mut self) {
        let newest = self.golden.versions.last().map_or(0, |version| version.version);
        for (path, version, is_schema) in self.files() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if version > newest {
                self.problems
                    .push(format!("`{name}` belongs to a newer version than {newest}, the newest of the source"));
                continue;
            }
            if is_schema {
                continue;
            }
            let result = match fs::read(&path) {
                Ok(content) => (self.golden.decode)(version, &content),
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = result {
                self.problems.push(format!(
                    "`{name}`, a record of version {version}, cannot be read: {reason}; put the version back, or delete \
                     its files if no record of it is stored anywhere"
                ));
            }
        }
    }

    /// Returns the files of the model, with their versions, in the order of their names.
    fn files(&self) -> Vec<(PathBuf, u32, bool)> {
        // A missing directory is reported with the first missing file.
        let entries = fs::read_dir(self.directory).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let path = entry.path();
                let name = path.file_name()?.to_str()?;
                let (version, ending) = name.strip_prefix(self.golden.model)?.strip_prefix('.')?.split_once('.')?;
                let (version, is_schema) = (version.parse().ok()?, ending == "schema.json");
                Some((path, version, is_schema))
            })
            .collect();
        files.sort();
        files
    }
}

/// Editors and Git may add a line end.
fn without_line_end(content: &[u8]) -> &[u8] {
    content.strip_suffix(b"\n").map_or(content, |content| content.strip_suffix(b"\r").unwrap_or(content))
}
