//! Copies between a file and a server.

use kvtyped::bucket::{Cursor, copy_bucket};
use kvtyped::prelude::*;
use kvtyped::{Key, RawRecord};

use super::child::{self, Child};
use super::folder::Folder;
use crate::support::{Session, unique};

const RECORDS: u64 = 5_000;

/// Returns the keys and bytes of all records, in the order of their revisions.
async fn contents(store: &Store, name: &str) -> Vec<(Key, Vec<u8>)> {
    let bucket: Bucket<RawRecord> = store.raw(name).await.expect("the bucket exists");
    let entries: Vec<Entry<RawRecord>> = bucket.list(..).await.unwrap().try_collect().await.unwrap();
    entries.iter().map(|entry| (entry.key.clone(), entry.bytes.to_vec())).collect()
}

/// Copies in a process that is killed after its first progress, and resumes from its last cursor. Returns the number of
/// records that the second copy still copied.
async fn copy_with_a_kill(from: &str, to: &str, bucket: &str) -> u64 {
    let arguments = [from, to, bucket].map(str::to_owned);
    let command = child::command(&[], "file::copies::copy_process", &arguments);
    let copied = tokio::task::spawn_blocking(move || {
        let mut process = Child::start(command);
        let first = process.next().expect("the copy has progress");
        process.kill();
        // The lines that the process printed before it ended.
        std::iter::from_fn(|| process.next()).last().unwrap_or(first)
    });
    let cursor: Cursor = copied.await.unwrap().parse().expect("a cursor");
    let (source, target) = (Store::connect(from).await.unwrap(), Store::connect(to).await.unwrap());
    let view = source.raw(bucket).await.unwrap();
    let rest = copy_bucket(&view, &target).resume(cursor).await.unwrap();
    assert_eq!(contents(&target, bucket).await, contents(&source, bucket).await);
    source.close().await.unwrap();
    target.close().await.unwrap();
    rest.records
}

#[tokio::test]
async fn copy_to_a_server_and_back_resumes_after_a_kill() {
    let (folder, name) = (Folder::new("copies"), unique("file_copies"));
    let server: String = harness::shared().await.url();
    let file = format!("file:{}", folder.file().display());
    let store = Store::connect(&file).await.unwrap();
    let sessions: Bucket<Session> = store.bucket().name(&*name).await.unwrap();
    let all: Vec<_> = (0..RECORDS).map(|id| Session::new("acme", id)).collect();
    sessions.put_many(&all).await.unwrap();
    sessions.delete(&Session::new("acme", 3).key()).await.unwrap();
    store.close().await.unwrap();

    let rest = copy_with_a_kill(&file, &server, &name).await;
    assert!(rest < RECORDS - 1, "the second copy continued: {rest}");
    let back = format!("file:{}", folder.path("back.kv").display());
    let rest = copy_with_a_kill(&server, &back, &name).await;
    assert!(rest < RECORDS - 1, "the second copy continued: {rest}");

    let (first, last) = (Store::connect(&file).await.unwrap(), Store::connect(&back).await.unwrap());
    let copied = contents(&last, &name).await;
    assert_eq!(copied.len() as u64, RECORDS - 1);
    assert_eq!(copied, contents(&first, &name).await);
    let sessions: Bucket<Session> = last.bucket().name(&*name).must_exist().await.unwrap();
    assert_eq!(sessions.get(&Session::new("acme", 9).key()).await.unwrap().unwrap().id, 9);
}

#[tokio::test]
#[ignore = "the process that another test starts"]
async fn copy_process() {
    let arguments = child::arguments().expect("started by another test");
    let [from, to, bucket] = arguments.as_slice() else { panic!("three arguments: {arguments:?}") };
    let (from, to) = (Store::connect(from).await.unwrap(), Store::connect(to).await.unwrap());
    let view = from.raw(&**bucket).await.unwrap();
    copy_bucket(&view, &to).on_progress(|step| child::say(step.cursor)).await.unwrap();
}
