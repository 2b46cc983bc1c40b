//! The contract of the backend interface, on a file.

mod plain {
    use crate::file::folder::Folder;
    use kvtyped::conformance::BackendUnderTest;

    async fn subject() -> BackendUnderTest {
        let folder = Folder::new("conformance");
        BackendUnderTest::new(folder.open().await.expect("the file opens")).keep_alive(folder)
    }

    kvtyped::conformance_tests!(subject().await);
}

/// With a checkpoint after every few rows.
mod with_checkpoints {
    use std::sync::Arc;

    use crate::file::folder::Folder;
    use kvtyped::conformance::BackendUnderTest;

    async fn subject() -> BackendUnderTest {
        let folder = Folder::new("checkpoints");
        let backend = folder.store().test_limits(8, 0, None).backend().await.expect("the file opens");
        BackendUnderTest::new(Arc::new(backend)).keep_alive(folder)
    }

    kvtyped::conformance_tests!(subject().await);
}

/// Without a sync of each commit.
mod without_sync {
    use std::sync::Arc;

    use crate::file::folder::Folder;
    use kvtyped::backend::file::SyncMode;
    use kvtyped::conformance::BackendUnderTest;

    async fn subject() -> BackendUnderTest {
        let folder = Folder::new("unsynced");
        let sync = SyncMode::Every(std::time::Duration::from_millis(20));
        let backend = folder.store().sync(sync).backend().await.expect("the file opens");
        BackendUnderTest::new(Arc::new(backend)).keep_alive(folder)
    }

    kvtyped::conformance_tests!(subject().await);
}

/// With a reopen before each read.
mod with_reopens {
    use std::sync::Arc;

    use crate::file::folder::{Folder, create, entries, put};
    use crate::file::reopening::Reopening;
    use kvtyped::backend::Backend;
    use kvtyped::conformance::BackendUnderTest;

    async fn subject() -> BackendUnderTest {
        BackendUnderTest::new(Arc::new(Reopening::new(Folder::new("reopens")).await))
    }

    kvtyped::conformance_tests!(subject().await);

    /// The control of the wrapper: reads reopen the file, and a stream keeps it open.
    #[tokio::test]
    async fn each_read_reopens_the_file() {
        let reopening = Reopening::new(Folder::new("reopens")).await;
        let backend: Arc<dyn Backend> = Arc::new(reopening.clone());
        let bucket = create(&backend, |_| {}).await;
        for round in 1..5 {
            put(&bucket, &format!("k{round}"), "v").await.unwrap();
            assert_eq!(entries(&bucket).await.len() as u64, round);
            assert_eq!(reopening.reopens(), round);
        }
        backend.close().await.unwrap();
    }
}
