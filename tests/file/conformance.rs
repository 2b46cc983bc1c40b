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
