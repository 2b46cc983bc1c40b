//! Writers that write at once share syncs.

use kvtyped::prelude::*;

use super::child::{self, Child};
use super::folder::Folder;
use super::trace::is_available;
use crate::support::Session;

const BURSTS: usize = 40;
const WRITERS: u64 = 64;

/// The first write of a burst wakes the thread of the file, and the others gather during its sync.
#[tokio::test]
async fn burst_of_writers_needs_few_syncs() {
    if !is_available() {
        return;
    }
    let folder = Folder::new("groups");
    let trace = folder.path("trace.txt");
    let trace = trace.to_str().expect("a text");
    let wrapper = ["strace", "-f", "-e", "trace=fsync,fdatasync,write", "-o", trace];
    let command = child::command(&wrapper, "file::groups::burst_process", &[folder.file().display().to_string()]);
    let ended = tokio::task::spawn_blocking(move || {
        let mut process = Child::start(command);
        std::iter::from_fn(|| process.next()).count()
    });
    assert_eq!(ended.await.unwrap(), 2, "the process prints two lines");
    let text = std::fs::read_to_string(trace).unwrap();
    let lines =
        text.lines().skip_while(|line| !line.contains("::: begin")).take_while(|line| !line.contains("::: end"));
    let syncs = lines.filter(|line| line.contains("sync(")).count();
    eprintln!("{BURSTS} bursts of {WRITERS} writes need {syncs} syncs");
    assert!(syncs >= BURSTS, "each burst is synced: {syncs}");
    // About two a burst on an idle machine, and 64 if no writer shared a sync.
    assert!(syncs <= BURSTS * 16, "{syncs}");
}

#[tokio::test]
#[ignore = "the process that another test starts"]
async fn burst_process() {
    let arguments = child::arguments().expect("started by another test");
    let store = Store::file(&arguments[0]).await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    let all: Vec<_> = (0..WRITERS).map(|id| Session::new("acme", id)).collect();
    sessions.put_many(&all).await.unwrap();
    child::say("begin");
    for _ in 0..BURSTS {
        let puts = all.iter().map(|session| IntoFuture::into_future(sessions.put(session)));
        futures::future::try_join_all(puts).await.unwrap();
    }
    child::say("end");
    store.close().await.unwrap();
}
