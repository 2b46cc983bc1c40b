//! The tables of the file, and the settings of SQLite.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, OpenFlags, ffi};

use super::crc::Crc;

/// The number of kvtyped files in the header of SQLite: `kvtp`.
const APPLICATION_ID: i64 = 0x6b76_7470;

/// The version of the format of a store without index entries.
const FORMAT: i64 = 1;

/// The version of the format of a store with index entries, which a program from before them would read as records. The
/// tables are the same.
pub(super) const INDEX_FORMAT: i64 = 2;

/// The tables. `journal` receives appends. The others contain the state up to `meta.applied`.
const TABLES: [&str; 4] = [
    "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), store BLOB NOT NULL, applied INTEGER NOT NULL, time INTEGER NOT NULL, opens INTEGER NOT NULL, clean INTEGER NOT NULL, buckets INTEGER NOT NULL, digest INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT",
    "CREATE TABLE bucket (id INTEGER PRIMARY KEY, name TEXT NOT NULL, created INTEGER NOT NULL, last_revision INTEGER NOT NULL, last_removed INTEGER NOT NULL, entries INTEGER NOT NULL, digest INTEGER NOT NULL, config TEXT NOT NULL, crc INTEGER NOT NULL) STRICT",
    "CREATE TABLE entry (seq INTEGER PRIMARY KEY, bucket INTEGER NOT NULL, revision INTEGER NOT NULL, created INTEGER NOT NULL, space INTEGER NOT NULL, operation INTEGER NOT NULL, ttl INTEGER, size INTEGER NOT NULL, key TEXT NOT NULL, id TEXT, headers TEXT, crc INTEGER NOT NULL, value BLOB NOT NULL) STRICT",
    "CREATE TABLE journal (seq INTEGER PRIMARY KEY, effect INTEGER NOT NULL, target INTEGER, bucket INTEGER NOT NULL, revision INTEGER, created INTEGER NOT NULL, space INTEGER, operation INTEGER, ttl INTEGER, size INTEGER, key TEXT, id TEXT, headers TEXT, crc INTEGER NOT NULL, value BLOB) STRICT",
];

/// The state of the store in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clean {
    /// Open, and each commit is synced.
    Open = 0,
    /// Closed.
    Closed = 1,
    /// A copy that a backup made.
    Copy = 2,
    /// Open, and commits are not synced.
    Unsynced = 3,
}

/// The row of the table `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// Random bytes. The mark in the lock file names them.
    pub(super) store: [u8; 16],
    /// The journal rows up to this one are in the tables of the state.
    pub(super) applied: i64,
    /// The latest time, in nanoseconds since 1970.
    pub(super) time: i64,
    /// How often the store was opened.
    pub(super) opens: i64,
    pub(super) clean: Clean,
    /// The highest number of a bucket.
    pub(super) buckets: i64,
    /// The sum of the checksums of the rows of `bucket`.
    pub(super) digest: i64,
}

impl Meta {
    fn crc(&self) -> i64 {
        let Self { store, applied, time, opens, clean, buckets, digest } = *self;
        let numbers = [applied, time, opens, clean as i64, buckets, digest];
        numbers.into_iter().fold(Crc::new().blob(Some(&store)), |crc, number| crc.integer(Some(number))).end()
    }

    /// Reads the row. Returns `None` if it is missing or damaged.
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Option<Self>> {
        let query = "SELECT store, applied, time, opens, clean, buckets, digest, crc FROM meta WHERE id = 1";
        let mut statement = db.prepare(query)?;
        let mut rows = statement.query([])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let clean = match row.get(4)? {
            0 => Clean::Open,
            1 => Clean::Closed,
            2 => Clean::Copy,
            3 => Clean::Unsynced,
            _ => return Ok(None),
        };
        let (applied, time, opens) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let meta = Self { store: row.get(0)?, applied, time, opens, clean, buckets: row.get(5)?, digest: row.get(6)? };
        Ok((meta.crc() == row.get::<_, i64>(7)?).then_some(meta))
    }

    /// Writes the row.
    pub(super) fn write(&self, db: &Connection) -> rusqlite::Result<()> {
        let Self { store, applied, time, opens, clean, buckets, digest } = *self;
        let mut statement = db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        let crc = self.crc();
        statement.execute(rusqlite::params![store, applied, time, opens, clean as i64, buckets, digest, crc]).map(drop)
    }
}

/// Opens an existing file. Writes nothing. Returns an error if the file is read-only.
///
/// The caller holds the lock file. No other connection may use the file, so SQLite keeps its own locks, too.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    if db.is_readonly(MAIN_DB)? {
        // SQLite opens a file without write permission as read-only, and returns no error.
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY), None));
    }
    db.busy_timeout(Duration::ZERO)?;
    // A refused file must stay as it is, with its WAL.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // Before the first read: without a file for shared memory, and without a lock call for each transaction.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    for (name, value) in [
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        // An I/O error must be an error, not a signal.
        ("mmap_size", 0),
        // 8 MiB: the data is in memory already.
        ("cache_size", -8192),
        // In memory.
        ("temp_store", 2),
        // macOS: fsync alone does not flush the disk.
        ("fullfsync", 1),
        ("checkpoint_fullfsync", 1),
    ] {
        db.pragma_update(None, name, value)?;
    }
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// The content of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// No table: a new file, or one whose creation was interrupted.
    Empty,
    Store,
    /// A store of this later format.
    Later(i64),
    /// A store with other tables than its format has.
    Altered,
    /// A database of another application.
    Foreign,
}

/// Finds out the content of a file.
pub(super) fn content(db: &Connection) -> rusqlite::Result<Content> {
    let application: i64 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let format: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut statement = db.prepare("SELECT sql FROM sqlite_schema ORDER BY rowid")?;
    let tables: Vec<Option<String>> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(match (application, format) {
        (0, 0) if tables.is_empty() => Content::Empty,
        (APPLICATION_ID, format) if format > INDEX_FORMAT => Content::Later(format),
        (APPLICATION_ID, FORMAT | INDEX_FORMAT) if tables.iter().map(Option::as_deref).eq(TABLES.map(Some)) => {
            Content::Store
        }
        (APPLICATION_ID, _) => Content::Altered,
        _ => Content::Foreign,
    })
}

/// Creates the tables in an empty file.
pub(super) fn create(db: &Connection, meta: &Meta) -> rusqlite::Result<()> {
    // Before the first table: returns space in small steps.
    db.pragma_update(None, "auto_vacuum", 2)?;
    use_wal(db)?;
    transaction(db, || {
        for table in TABLES {
            db.execute_batch(table)?;
        }
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
        db.pragma_update(None, "user_version", FORMAT)?;
        meta.write(db)
    })
}

/// Raises the format of a store before its first index entry. Part of the transaction of the caller.
pub(super) fn use_index_format(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "user_version", INDEX_FORMAT)
}

/// Sets the journal of SQLite: one sync a commit, and no automatic checkpoint.
pub(super) fn use_wal(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    // The WAL keeps its size, so that deletes often find room on a full disk.
    db.pragma_update(None, "journal_size_limit", -1)?;
    set_sync(db, true)
}

/// Sets whether each commit is synced. Checkpoints are synced in both cases.
pub(super) fn set_sync(db: &Connection, each_commit: bool) -> rusqlite::Result<()> {
    db.pragma_update(None, "synchronous", if each_commit { "FULL" } else { "NORMAL" })
}

/// Runs `act` in a transaction.
pub(super) fn transaction<R>(db: &Connection, act: impl FnOnce() -> rusqlite::Result<R>) -> rusqlite::Result<R> {
    let run = |command| db.prepare_cached(command)?.execute([]);
    run("BEGIN IMMEDIATE")?;
    let result = act().and_then(|result| run("COMMIT").map(|_| result));
    if result.is_err() && !db.is_autocommit() {
        // SQLite rolls back some errors on its own. An error of the rollback is not worse than the first error.
        let _ = db.execute_batch("ROLLBACK");
    }
    result
}

/// Moves the WAL into the main file, syncs both, and empties the WAL.
pub(super) fn truncate_wal(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Moves as much of the WAL into the main file as possible.
pub(super) fn checkpoint_wal(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
