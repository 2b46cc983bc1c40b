//! A store in a file, as an application uses it.

use std::fs;

use kvtyped::ErrorKind;
use kvtyped::backend::file::SyncMode;
use kvtyped::prelude::*;

use super::folder::{Folder, bucket, create, deadline, entries, put};
use crate::support::Session;

#[tokio::test]
async fn records_survive_a_reopen() {
    let folder = Folder::new("reopen");
    let url = format!("file:{}", folder.file().display());
    let store = Store::connect(&url).await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let session = Session::new("acme", 7).visited(3);
    let revision = sessions.put(&session).await.unwrap();
    store.close().await.unwrap();
    assert!(sessions.get(&session.key()).await.is_err(), "the store is closed");
    assert!(!folder.wal().exists(), "a closed store is one file");

    let store = Store::connect(&url).await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let entry = sessions.get(&session.key()).await.unwrap().expect("the record is stored");
    assert_eq!((entry.revision(), entry.value()), (revision, &session));
    let status = sessions.status().await.unwrap();
    assert_eq!(status.backing_store, "file");
    assert!(status.raw.unwrap()["file_bytes"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn dropped_store_is_written_and_unlocked() {
    let folder = Folder::new("dropped");
    for round in 0..20_u32 {
        let backend = folder.open().await.unwrap();
        let bucket = match backend.open("b", deadline()).await.unwrap() {
            Some(bucket) => bucket,
            None => create(&backend, |_| {}).await,
        };
        assert_eq!(entries(&bucket).await.len(), round as usize);
        put(&bucket, &format!("k{round}"), "v").await.unwrap();
        drop(backend);
        put(&bucket, &format!("k{round}"), "w").await.unwrap();
    }
}

#[tokio::test]
async fn stores_of_one_file_in_a_process_share_it() {
    let folder = Folder::new("shared");
    let (first, second) = (folder.open().await.unwrap(), folder.open().await.unwrap());
    let of_first = create(&first, |_| {}).await;
    put(&of_first, "k", "v").await.unwrap();
    assert_eq!(entries(&bucket(&second).await).await.len(), 1);
    let other = folder.store().sync(SyncMode::Off).await.unwrap_err();
    assert!(matches!(other.kind(), ErrorKind::InvalidConfig { .. }), "{other}");
    first.close().await.unwrap();
    put(&bucket(&second).await, "k2", "v").await.unwrap();
    second.close().await.unwrap();
    let refused = put(&of_first, "k3", "v").await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Closed), "{refused}");
    let reopened = folder.open().await.unwrap();
    assert_eq!(entries(&bucket(&reopened).await).await.len(), 2);
}

#[tokio::test]
async fn handle_keeps_the_file_open_for_later_stores() {
    let folder = Folder::new("handles");
    let backend = folder.open().await.unwrap();
    let kept = create(&backend, |_| {}).await;
    drop(backend);
    let again = folder.open().await.unwrap();
    put(&kept, "k", "v").await.unwrap();
    assert_eq!(entries(&bucket(&again).await).await.len(), 1);
    again.close().await.unwrap();
    let reopened = folder.open().await.unwrap();
    assert_eq!(entries(&bucket(&reopened).await).await.len(), 1);
}

#[tokio::test]
async fn invalid_urls_and_paths_are_refused() {
    let folder = Folder::new("urls");
    for url in ["file:", "file://host/app.kv", "file:app.kv?wal=off", "file:app.kv?sync=never", "file:/", "file:.."] {
        let error = Store::connect(url).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{url}: {error}");
    }
    let missing = Store::file(folder.path("missing/app.kv")).await.unwrap_err();
    assert!(matches!(missing.kind(), ErrorKind::InvalidConfig { .. }), "{missing}");

    let encoded = format!("file:{}/my%20app%3F.kv?sync=50ms&mode=0640", folder.path("").display());
    let store = Store::connect(&encoded).await.unwrap();
    store.close().await.unwrap();
    let file = folder.path("my app?.kv");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let store = Store::file(folder.file()).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn foreign_files_are_refused_and_unchanged() {
    let folder = Folder::new("foreign");
    for content in [b"not a database at all, but some text that is long enough".to_vec(), vec![0; 8192]] {
        fs::write(folder.file(), &content).unwrap();
        let error = folder.store().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Damaged { .. }), "{error}");
        assert_eq!(fs::read(folder.file()).unwrap(), content);
    }
}

#[tokio::test]
async fn backup_is_a_store_and_the_original_continues() {
    let folder = Folder::new("backup");
    let backend = folder.open().await.unwrap();
    let original = create(&backend, |config| config.history = Some(3)).await;
    for number in 0..500 {
        put(&original, &format!("k{}", number % 200), vec![b'v'; 300]).await.unwrap();
    }
    let before = entries(&original).await;
    let copy = folder.path("copy.kv");
    let writes = async {
        for number in 0..200 {
            put(&original, &format!("later{number}"), "v").await.unwrap();
        }
    };
    let (made, ()) = tokio::join!(backend.backup(copy.clone()), writes);
    made.unwrap();
    let again = backend.backup(copy.clone()).await.unwrap_err();
    assert!(matches!(again.kind(), ErrorKind::InvalidConfig { .. }), "{again}");

    let store: std::sync::Arc<dyn kvtyped::backend::Backend> =
        std::sync::Arc::new(Store::file(&copy).backend().await.unwrap());
    let copied = bucket(&store).await;
    let found = entries(&copied).await;
    assert!(found.len() >= before.len());
    assert_eq!(found[..before.len()], before[..]);
    let next = put(&copied, "next", "v").await.unwrap();
    assert!(next.get() > 1 << 32, "the copy skips revisions");
    assert_eq!(entries(&original).await.len(), before.len() + 200);

    let memory = Store::memory().backup(folder.path("memory.kv")).await.unwrap_err();
    assert!(matches!(memory.kind(), ErrorKind::Unsupported { .. }), "{memory}");
}
