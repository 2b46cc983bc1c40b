//! Exports as the content of a `memory:` store, for tests of commands without a server.

use std::fs;
use std::io::Write;
use std::path::Path;

use futures::TryStreamExt;
use kvtyped::{Bucket, RawRecord, Store};

use crate::app::View;
use crate::fail::Failure;
use crate::settings::bucket_json;
use crate::transfer::line::{Line, end_line, entry_line};

/// Loads all buckets of a file. A file that does not exist is an empty store. A key may have several lines, which are
/// its history.
pub(crate) async fn load(store: &Store, file: &Path) -> Result<(), Failure> {
    if !file.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(file)?;
    let mut bucket: Option<Bucket<RawRecord>> = None;
    for (number, text) in (1..).zip(text.lines().filter(|line| !line.trim().is_empty())) {
        let wrong = |reason: String| Failure::data(format!("line {number} of the fixture: {reason}"));
        match (Line::parse(text.as_bytes()).map_err(wrong)?, &bucket) {
            (Line::Bucket(config), _) => {
                let name = config.name.clone();
                bucket = Some(store.raw(name).create_like(&config).await?);
            }
            (Line::Entry(entry), Some(bucket)) => {
                // The whole TTL again, so that a test does not depend on its duration.
                let ttl = entry.ttl;
                bucket.write_many([entry.write(ttl)]).await?;
            }
            (Line::End(_), _) => {}
            (Line::Entry(_), None) => return Err(wrong("no bucket precedes it".to_owned())),
        }
    }
    Ok(())
}

/// Saves all buckets in a file.
pub(crate) async fn save(store: &Store, file: &Path) -> Result<(), Failure> {
    let mut out = Vec::new();
    for name in store.buckets().await? {
        let view = View::open(store, &name).await?;
        writeln!(out, "{}", bucket_json(&view.status).line())?;
        let mut entries = view.bucket.list(..).include_reserved().await?;
        let mut records = 0;
        while let Some(entry) = entries.try_next().await? {
            writeln!(out, "{}", entry_line(&name, &view.models, &entry).line())?;
            records += 1;
        }
        writeln!(out, "{}", end_line(&name, records, view.status.last_revision.get(), 0).line())?;
    }
    Ok(fs::write(file, out)?)
}
