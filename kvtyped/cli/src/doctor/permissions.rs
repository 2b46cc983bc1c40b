//! The permissions of the user for a bucket, tried without side effects.

use kvtyped::{Error, ErrorKind, Key, RawRecord, Read, Revision, Store};

use super::Finding;
use crate::app::View;
use crate::fail::Failure;

/// A key that no program writes.
const PROBE: &str = "=kvtyped.doctor.probe.probe";

/// Tries the operations of a reader. Tries a write unless `read_only` is set.
pub(crate) async fn check(
    store: &Store,
    view: &View,
    read_only: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let name = view.name();
    let mut add = |finding: Finding| findings.push(finding.of_bucket(name));
    let denied = reader(view).await?;
    match denied.as_slice() {
        [] => add(Finding::ok("reader", "the user may read, list and watch")),
        denied => add(Finding::error("reader", format!("the user may not {}", denied.join(" and may not "))).repair(
            "give the user the permissions of a reader; see https://docs.rs/kvtyped/latest/kvtyped/permissions",
        )),
    }
    if read_only {
        add(Finding::note("writer", "writes are not tried with `--read-only`"));
        return Ok(());
    }
    match writer(store, name).await? {
        None => add(Finding::ok("writer", "the user may write, and may hold locks")),
        Some(subject) => add(Finding::note("writer", format!("the user may not write: the server denies `{subject}`"))
            .repair(
                "give the user the permissions of a writer; see https://docs.rs/kvtyped/latest/kvtyped/permissions",
            )),
    }
    Ok(())
}

/// Returns the subject of a denial. `None` for another result, which the server gives to users with the permission.
fn denial(error: &Error) -> Option<String> {
    match error.kind() {
        ErrorKind::PermissionDenied { subject } => Some(subject.clone()),
        _ => None,
    }
}

/// Returns what a reader must be able to do and the user may not.
async fn reader(view: &View) -> Result<Vec<String>, Failure> {
    let key = Key::new(PROBE)?;
    let bucket = &view.bucket;
    let tried = [
        ("read a record", bucket.get(&key).await.map(drop)),
        ("read from the leader", bucket.get(&key).read(Read::Leader).await.map(drop)),
        ("list", bucket.list(..).limit(1).await.map(drop)),
        ("watch", bucket.watch(..).updates_only().await.map(drop)),
    ];
    let mut denied = Vec::new();
    for (what, result) in tried {
        match result {
            Ok(()) => {}
            Err(error) => match denial(&error) {
                Some(subject) => denied.push(format!("{what} (`{subject}`)")),
                None => return Err(error.into()),
            },
        }
    }
    Ok(denied)
}

/// Returns the subject of a denied write. The write expects a revision that no record has, so the server stores nothing.
async fn writer(store: &Store, bucket: &str) -> Result<Option<String>, Failure> {
    let bucket = match store.raw(bucket).await {
        Ok(bucket) => bucket,
        Err(error) => return denial(&error).map(Some).ok_or_else(|| error.into()),
    };
    let record = RawRecord::new(Key::new(PROBE)?, "");
    match bucket.update(&record, Revision::new(u64::MAX >> 1)).await {
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => denial(&error).map(Some).ok_or_else(|| error.into()),
        Ok(_) => Err(Failure::data("the server stored a write with a wrong revision")),
    }
}
