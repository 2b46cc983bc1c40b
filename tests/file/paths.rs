//! Paths of stores: their texts, links, permissions, and files that are moved while they are open.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use futures::StreamExt;
use kvtyped::backend::{Delivered, StartFrom, WatchRequest};
use kvtyped::key::{Pattern, Patterns};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Outcome};

use super::child::{self, Child};
use super::folder::{Folder, bucket, create, entries, put};
use crate::support::Session;

/// Writes a record and closes the store.
async fn write(store: Store) {
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    sessions.put(&Session::new("acme", 7)).await.unwrap();
    store.close().await.unwrap();
}

/// Returns the number of records.
async fn records(store: Store) -> u64 {
    let sessions: Bucket<Session> = store.bucket().must_exist().await.unwrap();
    let count = sessions.count(..).await.unwrap();
    store.close().await.unwrap();
    count
}

#[tokio::test]
async fn any_path_is_a_store() {
    let folder = Folder::new("paths");
    let percent = |name: &str| name.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    for name in
        ["two words.kv", "grün 数据.kv", "what?.kv", "a#1.kv", "50%25.kv", "file:x", "a&b=c;d", "-", "line\nend"]
    {
        let url = format!("file:{}/{}", folder.path("").display(), percent(name));
        write(Store::connect(&url).await.unwrap()).await;
        assert!(folder.path(name).is_file(), "{name:?}");
        assert_eq!(records(Store::file(folder.path(name)).await.unwrap()).await, 1, "{name:?}");
    }
    // A fragment is a part of the path, because a file has none.
    let url = format!("file:{}/a#1.kv?sync=off", folder.path("").display());
    assert_eq!(records(Store::connect(&url).await.unwrap()).await, 1);
    // Not even text.
    let raw = folder.path("").join(std::ffi::OsStr::from_bytes(b"raw-\xff.kv"));
    write(Store::file(&raw).await.unwrap()).await;
    assert_eq!(records(Store::file(&raw).await.unwrap()).await, 1);
    let names = fs::read_dir(folder.path("")).unwrap().count();
    assert_eq!(names, 20, "each store is a file and a lock file");
}

#[tokio::test]
async fn relative_path_stays_at_its_folder() {
    let folder = Folder::new("relative");
    let mut command = child::command(&[], "file::paths::relative_path_process", &[]);
    let mut process = Child::start({
        command.current_dir(folder.path(""));
        command
    });
    let said = tokio::task::spawn_blocking(move || std::iter::from_fn(|| process.next()).collect::<Vec<_>>());
    assert_eq!(said.await.unwrap(), ["2"]);
    assert_eq!(records(folder.store().await.unwrap()).await, 2);
}

#[tokio::test]
#[ignore = "the process that another test starts"]
async fn relative_path_process() {
    child::arguments().expect("started by another test");
    let store = Store::connect("file:./app.kv").await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    sessions.put(&Session::new("acme", 1)).await.unwrap();
    std::env::set_current_dir("/").unwrap();
    sessions.put(&Session::new("acme", 2)).await.unwrap();
    child::say(sessions.count(..).await.unwrap());
    store.close().await.unwrap();
}

#[tokio::test]
async fn links_name_the_store_of_their_target() {
    let folder = Folder::new("links");
    let link = folder.path("link.kv");
    std::os::unix::fs::symlink(folder.file(), &link).unwrap();
    let dangling = Store::file(&link).await.unwrap_err();
    assert!(matches!(dangling.kind(), ErrorKind::InvalidConfig { .. }), "{dangling}");

    let store = folder.store().await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let through = Store::file(&link).await.unwrap();
    let through: Bucket<Session> = through.bucket().await.unwrap();
    through.put(&Session::new("acme", 1)).await.unwrap();
    assert_eq!(sessions.count(..).await.unwrap(), 1, "one store has both names");
    assert!(!folder.path("link.kv-lock").exists());

    // A hard link has another lock file, and SQLite refuses it.
    let hard = folder.path("hard.kv");
    fs::hard_link(folder.file(), &hard).unwrap();
    let error = Store::file(&hard).timeout(Duration::from_millis(400)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InUse { .. }), "{error}");
    store.close().await.unwrap();
}

fn unavailable(result: Result<Store, Error>) -> Error {
    let error = result.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{error}");
    error
}

#[tokio::test]
async fn folder_that_cannot_be_written_is_refused() {
    // Not even root creates files here.
    let error = unavailable(Store::file("/sys/app.kv").await);
    assert!(error.to_string().contains("`/sys/app.kv` cannot be used"), "{error}");
    let folder = Folder::new("read-only");
    write(folder.store().await.unwrap()).await;
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o555)).unwrap();
    let is_root = fs::write(folder.path("probe"), "").is_ok();
    let other = Store::file(folder.path("other.kv")).await;
    assert_eq!(other.is_ok(), is_root, "{other:?}");
    drop(other);
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(records(folder.store().await.unwrap()).await, 1);
}

/// SQLite would read such a file without an error, and lose every write.
#[tokio::test]
async fn path_of_anything_but_a_file_is_refused() {
    let folder = Folder::new("no-file");
    fs::create_dir(folder.path("folder.kv")).unwrap();
    let made = Command::new("mkfifo").arg(folder.path("pipe.kv")).status();
    assert!(made.expect("mkfifo runs").success());
    let _socket = UnixListener::bind(folder.path("socket.kv")).unwrap();
    std::os::unix::fs::symlink("/dev/null", folder.path("link.kv")).unwrap();
    for name in ["folder.kv", "pipe.kv", "socket.kv", "link.kv"] {
        let error = folder_store(&folder, name).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{name}: {error}");
        assert!(error.to_string().contains("no regular file"), "{name}: {error}");
        assert!(!folder.path(&format!("{name}-lock")).exists(), "{name}");
    }
    assert!(!std::path::Path::new("/dev/null-lock").exists());
    // The lock file of a new store, and its WAL.
    for suffix in ["-lock", "-wal"] {
        let made = Command::new("mkfifo").arg(folder.path(&format!("new.kv{suffix}"))).status();
        assert!(made.expect("mkfifo runs").success());
        let error = folder_store(&folder, "new.kv").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{suffix}: {error}");
        fs::remove_file(folder.path(&format!("new.kv{suffix}"))).unwrap();
    }
    let store = folder_store(&folder, "app.kv").await.unwrap();
    let error = store.backup(folder.path("pipe.kv")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    write(store).await;
}

async fn folder_store(folder: &Folder, name: &str) -> Result<Store, Error> {
    Store::file(folder.path(name)).timeout(Duration::from_secs(10)).await
}

/// SQLite opens such a file for reading only.
#[tokio::test]
async fn file_that_cannot_be_written_is_refused() {
    let folder = Folder::new("read-only-file");
    write(folder.store().await.unwrap()).await;
    fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o400)).unwrap();
    let protect = |flag: &str| Command::new("chattr").arg(flag).arg(folder.file()).status().is_ok_and(|s| s.success());
    // Root writes to any file, unless its file system says that it never changes.
    let is_root = fs::OpenOptions::new().append(true).open(folder.file()).is_ok();
    if is_root && !protect("+i") {
        eprintln!("NOT DONE: root can write to every file here");
        return;
    }
    let before = fs::read(folder.file()).unwrap();
    let result = folder.store().await;
    if is_root {
        assert!(protect("-i"));
    }
    let error = unavailable(result);
    assert!(error.to_string().contains("app.kv` cannot be used: it is read-only"), "{error}");
    assert_eq!(fs::read(folder.file()).unwrap(), before);
    fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(records(folder.store().await.unwrap()).await, 1);
}

#[tokio::test]
async fn invalid_modes_are_refused() {
    let folder = Folder::new("modes");
    for mode in ["", "rw", "0999", "640x", "-640", "0x1ff", "0400", "0060", "01777", "07777777777777777777777"] {
        let error = Store::connect(format!("file:{}?mode={mode}", folder.file().display())).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{mode}: {error}");
        assert!(error.to_string().contains("`mode`"), "{mode}: {error}");
        assert!(!folder.file().exists(), "{mode}");
    }
    for mode in [0o400, 0o4600] {
        let error = folder.store().mode(mode).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{mode:o}: {error}");
    }
    // The permission of an existing file stays.
    write(folder.store().mode(0o640).await.unwrap()).await;
    write(folder.store().mode(0o600).await.unwrap()).await;
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o640);
}

/// A file that loses its name while it is open: no later write is acknowledged, because it would be lost.
#[tokio::test]
async fn removed_or_replaced_file_fails_the_store() {
    for case in ["removed", "moved", "replaced", "WAL removed"] {
        let folder = Folder::new("moved");
        let store = folder.store().await.unwrap();
        let backend = folder.open().await.unwrap();
        let shared = create(&backend, |_| {}).await;
        put(&shared, "k", "v").await.unwrap();
        let request = WatchRequest {
            patterns: Patterns::new(vec![Pattern::all()]),
            since: StartFrom::Newest,
            headers_only: true,
            idle_timeout: Duration::from_secs(20),
            delivered: Delivered::default(),
        };
        let mut watch = shared.watch(request);
        watch.next().await.expect("the watch begins").expect("no error");
        assert!(store.health().await.unwrap().is_healthy(), "{case}");
        match case {
            "removed" => fs::remove_file(folder.file()).unwrap(),
            "moved" => fs::rename(folder.file(), folder.path("elsewhere.kv")).unwrap(),
            "replaced" => {
                fs::copy(folder.file(), folder.path("copy.kv")).unwrap();
                fs::rename(folder.path("copy.kv"), folder.file()).unwrap();
            }
            _ => fs::remove_file(folder.wal()).unwrap(),
        }
        let first = put(&shared, "lost", "v").await.unwrap_err();
        assert!(matches!(first.kind(), ErrorKind::Unavailable { .. }), "{case}: {first}");
        assert_eq!(first.outcome(), Outcome::Unknown, "{case}");
        assert!(first.to_string().contains("were moved, replaced or removed"), "{case}: {first}");
        let later = put(&shared, "later", "v").await.unwrap_err();
        assert_eq!(later.outcome(), Outcome::NotApplied, "{case}: {later}");
        assert!(!store.health().await.unwrap().is_healthy(), "{case}");
        loop {
            match watch.next().await.expect("the watch reports the failure") {
                Ok(_) => {}
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }), "{case}: {error}");
                    break;
                }
            }
        }
        assert!(backend.close().await.is_err() | store.close().await.is_err(), "{case}: the close reports the failure");
        drop((shared, backend, store, watch));

        // A new open finds a store without the unacknowledged write, or refuses.
        match folder.open().await {
            Ok(backend) => assert_eq!(entries(&bucket(&backend).await).await.len(), 1, "{case}"),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Damaged { .. }), "{case}: {error}"),
        }
    }
}
