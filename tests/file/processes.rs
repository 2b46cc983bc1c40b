//! P47: several processes at one file.

use kvtyped::ErrorKind;
use kvtyped::prelude::*;

use super::folder::{Folder, bucket, entries};
use super::writer::{Job, Writer, check, command};

async fn started(folder: &Folder) -> Writer {
    let job = Job { workers: 1, rounds: 0, sync: true, journal: 0 };
    let command = command(&[], &folder.file(), job);
    let started = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::start(command);
        writer.read(5);
        writer
    });
    started.await.unwrap()
}

#[tokio::test]
async fn second_process_is_refused_with_the_first_one_named() {
    let folder = Folder::new("in-use");
    let writer = started(&folder).await;
    let error = folder.store().timeout(Duration::from_millis(400)).await.unwrap_err();
    let ErrorKind::InUse { file, process } = error.kind() else { panic!("{error}") };
    assert!(file.ends_with("app.kv"), "{file}");
    assert!(process.contains(&format!("process {}", writer.id())), "{process}");
    assert!(error.to_string().starts_with("cannot open `"), "{error}");

    let printed = writer.kill();
    let backend = folder.open().await.unwrap();
    check(&backend, &printed).await.unwrap();
    assert!(!entries(&bucket(&backend).await).await.is_empty());
}

#[tokio::test]
async fn waiting_open_takes_over_from_a_process_that_ends() {
    let folder = Folder::new("take-over");
    let writer = started(&folder).await;
    let waiting = tokio::spawn(std::future::IntoFuture::into_future(folder.store().timeout(Duration::from_secs(20))));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    writer.kill();
    let store = waiting.await.unwrap().unwrap();
    store.close().await.unwrap();
}
