//! Copies the readable records of a damaged store into a new store.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::buckets;
use super::errors::{io, sqlite};
use super::lock::{LockError, LockFile, Mark};
use super::open;
use super::options::FileOptions;
use super::paths::{self, Paths, with_suffix};
use super::row::{self, COLUMNS, Insertion, Row};
use super::schema::{self, Clean, Meta};
use super::stored_config::Unknown;
use crate::backend::state::effect::{Effect, Record};
use crate::backend::state::entry::StoredEntry;
use crate::backend::{KeySpace, Operation};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::Revision;

/// The result of [`salvage`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The number of copied buckets.
    pub buckets: u64,
    /// The number of copied entries: values, their history, and delete markers.
    pub entries: u64,
    /// The problems, one line each: damaged or missing rows, buckets without their settings. Empty if the store was
    /// complete. Never contains a key or a value.
    pub problems: Vec<String>,
}

/// Copies everything readable of a store into a new file. Use it if an open fails with
/// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged). No process may use the store. The store is not changed.
///
/// A row is copied if its checksum is valid. Records whose rows are damaged are missing in the copy. If the row of a
/// later write is damaged, an earlier value of the record may be there in its place. If the row of a removal is
/// damaged, the removed record is there. A bucket whose settings are damaged has the name `salvaged_<number>`, and
/// default settings. Each bucket of the copy skips revisions, so that watches and caches start again.
///
/// Blocks the thread: call it with `spawn_blocking` in an asynchronous program.
///
/// # Errors
///
/// Returns `InUse` if a process uses the store, `InvalidConfig` if the new path exists or cannot be used, `Damaged` if
/// the tables are unreadable, and `Unavailable` if a file cannot be read or written.
///
/// ```
/// use kvtyped::backend::file::salvage;
/// use kvtyped::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("kvtyped-salvage-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let (damaged, copy) = (folder.join("app.kv"), folder.join("copy.kv"));
/// # Store::file(&damaged).await?.close().await?;
/// let report = salvage(&damaged, &copy)?;
/// for problem in &report.problems {
///     println!("{problem}");
/// }
/// let store = Store::file(&copy).await?;
/// # store.close().await?;
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
pub fn salvage(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<SalvageReport> {
    let (from, to) = (Paths::new(from.as_ref())?, Paths::new(to.as_ref())?);
    if to.main.exists() || to.main == from.main {
        return Err(Error::invalid_config(format!("`{}` exists already; choose another path", to.name())));
    }
    let lock = LockFile::acquire(&from.lock, FileOptions::MODE).map_err(|error| match error {
        LockError::InUse(process) => Error::new(ErrorKind::InUse { file: from.name(), process }),
        LockError::Io(error) => io(&from, error),
    })?;
    // SQLite may change a file that it opens, so it opens a copy.
    let copy =
        Paths { main: with_suffix(&to.main, ".damaged"), wal: with_suffix(&to.main, ".damaged-wal"), ..from.clone() };
    let unfinished =
        Paths { main: with_suffix(&to.main, ".tmp"), wal: with_suffix(&to.main, ".tmp-wal"), ..to.clone() };
    remove(&copy);
    remove(&unfinished);
    let result = copy_files(&from, &copy).and_then(|()| {
        let content = read(&copy, lock.mark())?;
        write(&unfinished, &to, content)
    });
    remove(&copy);
    if result.is_err() {
        remove(&unfinished);
    }
    result
}

fn remove(files: &Paths) {
    for file in [&files.main, &files.wal] {
        // It need not exist.
        let _ = std::fs::remove_file(file);
    }
}

fn copy_files(from: &Paths, copy: &Paths) -> Result<()> {
    std::fs::copy(&from.main, &copy.main).map_err(|error| io(from, error))?;
    if from.wal.exists() {
        std::fs::copy(&from.wal, &copy.wal).map_err(|error| io(from, error))?;
    }
    Ok(())
}

/// The readable content of a store.
#[derive(Default)]
struct Content {
    configs: BTreeMap<u64, BucketConfig>,
    created: BTreeMap<u64, Duration>,
    entries: BTreeMap<u64, BTreeMap<Revision, StoredEntry>>,
    /// Whether the settings of every bucket are readable, so that other entries belong to deleted buckets.
    has_all_buckets: bool,
    unknown: Unknown,
    time: Duration,
    problems: Vec<String>,
}

fn read(files: &Paths, mark: Option<Mark>) -> Result<Content> {
    let db = schema::connect(&files.main).map_err(|error| sqlite(files, error))?;
    let found = schema::content(&db).map_err(|error| sqlite(files, error))?;
    if !matches!(found, schema::Content::Store | schema::Content::Altered) {
        return Err(open::refusal(files, &found));
    }
    let mut content = Content::default();
    let meta = Meta::read(&db).ok().flatten();
    if meta.is_none() {
        content.problem("table `meta`: the row is damaged");
    }
    match buckets::read_valid(&db) {
        Ok((rows, damaged)) => {
            if damaged > 0 {
                content.problem(format!("table `bucket`: {damaged} rows are damaged"));
            }
            content.has_all_buckets = damaged == 0 && meta.is_some_and(|meta| buckets::digest(&rows) == meta.digest);
            for (id, row) in rows {
                let id = u64::try_from(id).unwrap_or_default();
                content.add_bucket(id, row.config.as_bytes(), row.created);
            }
        }
        Err(error) => content.problem(format!("table `bucket`: not readable ({error})")),
    }
    let entry = "SELECT seq, 1, NULL, bucket, revision, created, space, operation, ttl, size, key, id, headers, crc, value FROM entry";
    content.read_rows(&db, "entry", entry);
    let last = content.read_rows(&db, "journal", &format!("SELECT {COLUMNS} FROM journal"));
    let applied = meta.map_or(0, |meta| meta.applied);
    if let Some(mark) = mark.filter(|mark| mark.seq > last.max(applied)) {
        content.problem(format!("the writes {} to {} are missing", last.max(applied) + 1, mark.seq));
    }
    Ok(content)
}

impl Content {
    fn problem(&mut self, text: impl Into<String>) {
        const MOST: usize = 1_000;
        if self.problems.len() < MOST {
            self.problems.push(text.into());
        }
    }

    fn add_bucket(&mut self, id: u64, config: &[u8], created: i64) {
        match self.unknown.parse(id, config) {
            Some(config) => {
                self.configs.insert(id, config);
                self.created.insert(id, row::time(created).unwrap_or_default());
            }
            None => {
                self.has_all_buckets = false;
                self.problem(format!("bucket {id}: its settings are damaged"));
            }
        }
    }

    /// Applies all readable rows of a table. Returns the number of the last one.
    fn read_rows(&mut self, db: &Connection, table: &str, query: &str) -> i64 {
        let mut last = 0;
        loop {
            match self.read_rows_after(db, table, query, &mut last) {
                Ok(()) => return last,
                Err(error) => {
                    // A page is damaged. The rows behind it may be readable.
                    self.problem(format!("table `{table}`: the rows after {last} are not readable ({error})"));
                    let next = format!("SELECT min(seq) FROM {table} WHERE seq > ?");
                    let mut skip = 1_i64;
                    loop {
                        let found: rusqlite::Result<Option<i64>> =
                            db.query_row(&next, [last.saturating_add(skip)], |row| row.get(0));
                        match found {
                            Ok(Some(seq)) => {
                                last = seq - 1;
                                break;
                            }
                            Ok(None) => return last,
                            Err(_) if skip > 1 << 40 => return last,
                            Err(_) => skip *= 2,
                        }
                    }
                }
            }
        }
    }

    fn read_rows_after(&mut self, db: &Connection, table: &str, query: &str, last: &mut i64) -> rusqlite::Result<()> {
        let mut statement = db.prepare(&format!("{query} WHERE seq > ? ORDER BY seq"))?;
        let mut rows = statement.query([*last])?;
        while let Some(row) = rows.next()? {
            match Row::read(row) {
                Ok(read) => {
                    if table == "journal" && *last > 0 && read.seq != *last + 1 {
                        // The settings of a bucket may be among them.
                        self.has_all_buckets = false;
                        self.problem(format!("table `journal`: rows {} to {} are missing", *last + 1, read.seq - 1));
                    }
                    *last = read.seq;
                    self.apply(&read);
                }
                Err(reason) => {
                    *last = row.get(0).unwrap_or(*last + 1);
                    self.problem(format!("table `{table}`, row {last}: {reason}"));
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, row: &Row<'_>) {
        let id = row.bucket();
        self.time = self.time.max(row::time(row.created).unwrap_or_default());
        match row.effect {
            row::STORED => match row.entry().zip(row.revision()) {
                Some((entry, revision)) => drop(self.entries.entry(id).or_default().insert(revision, entry)),
                None => self.problem(format!("row {}: a column is invalid", row.seq)),
            },
            row::REMOVED => {
                if let Some((entries, revision)) = self.entries.get_mut(&id).zip(row.revision()) {
                    entries.remove(&revision);
                }
            }
            row::BUCKET_CREATED | row::BUCKET_CONFIGURED => {
                let created = match self.created.get(&id) {
                    Some(created) => row::nanos(*created),
                    None => row.created,
                };
                self.add_bucket(id, row.value.unwrap_or_default(), created);
            }
            row::BUCKET_DELETED => {
                self.configs.remove(&id);
                self.entries.remove(&id);
                self.created.remove(&id);
            }
            _ => {}
        }
    }
}

/// Writes the content as the journal of a new store.
fn write(unfinished: &Paths, to: &Paths, mut content: Content) -> Result<SalvageReport> {
    let mut report = SalvageReport::default();
    paths::create(&unfinished.main, FileOptions::MODE).map_err(|error| io(to, error))?;
    let written = || -> rusqlite::Result<()> {
        let db = schema::connect(&unfinished.main)?;
        let (store, time) = (rand::random(), row::nanos(content.time));
        let meta = Meta { store, applied: 0, time, opens: 0, clean: Clean::Copy, buckets: 0, digest: 0 };
        schema::create(&db, &meta)?;
        schema::transaction(&db, || content.insert(&db, &mut report))?;
        schema::truncate_wal(&db)?;
        db.close().map_err(|(_, error)| error)
    };
    let mut written = written;
    written().map_err(|error| sqlite(to, error))?;
    std::fs::rename(&unfinished.main, &to.main).map_err(|error| io(to, error))?;
    paths::sync_folder(&to.main).map_err(|error| io(to, error))?;
    remove(unfinished);
    report.problems = content.problems;
    Ok(report)
}

impl Content {
    fn insert(&mut self, db: &Connection, report: &mut SalvageReport) -> rusqlite::Result<()> {
        let without_settings = |id: &u64| !self.has_all_buckets && !self.configs.contains_key(id);
        let ids: Vec<u64> = self.entries.keys().copied().filter(without_settings).collect();
        for id in ids {
            self.problem(format!("bucket {id}: its settings are missing, and its name is now `salvaged_{id}`"));
            let entries = self.entries.get(&id).into_iter().flat_map(BTreeMap::values);
            let has_index = entries.into_iter().any(|entry| entry.space == KeySpace::Index);
            let mut config = BucketConfig::new(format!("salvaged_{id}")).with_defaults(true, true);
            config.index_entries = Some(has_index);
            self.configs.insert(id, config);
        }
        let mut insertion = Insertion::new(db, &self.unknown)?;
        let mut seq = 0;
        let mut record = |at: Duration, effect: Effect| {
            seq += 1;
            insertion.insert(&Record { seq, at, effect, ends_operation: true, permit: None })
        };
        for (bucket, config) in &self.configs {
            let created = self.created.get(bucket).copied().unwrap_or(self.time);
            record(created, Effect::BucketCreated { bucket: *bucket, config: config.clone() })?;
            report.buckets += 1;
            let entries = self.entries.remove(bucket).unwrap_or_default();
            for (revision, entry) in kept(entries, usize::from(config.history.unwrap_or(1))) {
                record(entry.at, Effect::Stored { bucket: *bucket, revision, entry })?;
                report.entries += 1;
            }
        }
        Ok(())
    }
}

/// Returns the entries that the history of a bucket keeps. The rows of some removals may be damaged.
fn kept(entries: BTreeMap<Revision, StoredEntry>, history: usize) -> BTreeMap<Revision, StoredEntry> {
    let mut left: HashMap<(KeySpace, Key), usize> = HashMap::new();
    let newest_first = entries.into_iter().rev();
    let kept = newest_first.filter(|(_, entry)| {
        let most = if entry.space == KeySpace::Index { 1 } else { history };
        let left = left.entry((entry.space, entry.key.clone())).or_insert(most);
        let is_kept = *left > 0;
        *left = match entry.operation {
            // Such a marker removes everything before it.
            Operation::Purge | Operation::Expired => 0,
            _ => left.saturating_sub(1),
        };
        is_kept
    });
    kept.collect()
}
