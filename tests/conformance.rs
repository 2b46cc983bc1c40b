//! The backend contract, item by item: on the memory backend, on a server, and on a cluster of three servers.

mod memory {
    use std::sync::Arc;

    use kvtyped::backend::memory::MemoryBackend;
    use kvtyped::conformance::BackendUnderTest;

    kvtyped::conformance_tests!(BackendUnderTest::new(Arc::new(MemoryBackend::new())));
}

mod one_server {
    use std::sync::Arc;

    use kvtyped::backend::nats::{NatsBackend, NatsOptions};
    use kvtyped::conformance::BackendUnderTest;

    async fn backend() -> NatsBackend {
        NatsBackend::connect(&harness::shared().await.url(), NatsOptions::new()).await.expect("the server is there")
    }

    kvtyped::conformance_tests!(BackendUnderTest::new(Arc::new(backend().await)));
}

mod three_servers {
    use std::sync::Arc;

    use kvtyped::backend::nats::{NatsBackend, NatsOptions};
    use kvtyped::conformance::BackendUnderTest;

    async fn backend() -> NatsBackend {
        let cluster = harness::cluster::shared().await;
        NatsBackend::connect(&cluster.urls(), NatsOptions::new()).await.expect("the cluster is there")
    }

    kvtyped::conformance_tests!(BackendUnderTest::new(Arc::new(backend().await)).replicas(3));
}
