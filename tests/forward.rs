//! Forwarding of the verbs that a wrapper of a backend leaves alone.

/// Forwards verbs of the traits of backends to a field: `forward! { raw: config read scan }`.
macro_rules! forward {
    ($field:tt: $($verb:ident)*) => {
        $($crate::support::forward::verb! { $field $verb })*
    };
}
pub(crate) use forward;

macro_rules! verb {
    ($field:tt capabilities) => {
        fn capabilities(
            &self,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'_, kvtyped::Result<kvtyped::backend::Capabilities>> {
            self.$field.capabilities(deadline)
        }
    };
    ($field:tt delete) => {
        fn delete<'a>(
            &'a self,
            name: &'a str,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'a, kvtyped::Result<bool>> {
            self.$field.delete(name, deadline)
        }
    };
    ($field:tt counters) => {
        fn counters(
            &self,
            config: kvtyped::config::BucketConfig,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'_, kvtyped::Result<Option<std::sync::Arc<dyn kvtyped::backend::RawCounters>>>>
        {
            self.$field.counters(config, deadline)
        }
    };
    ($field:tt names) => {
        fn names(
            &self,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'_, kvtyped::Result<Vec<String>>> {
            self.$field.names(deadline)
        }
    };
    ($field:tt close) => {
        fn close(&self) -> futures::future::BoxFuture<'_, kvtyped::Result<()>> {
            self.$field.close()
        }
    };
    ($field:tt config) => {
        fn config(&self) -> &kvtyped::config::BucketConfig {
            self.$field.config()
        }
    };
    ($field:tt identity) => {
        fn identity(&self) -> kvtyped::backend::BucketIdentity {
            self.$field.identity()
        }
    };
    ($field:tt status) => {
        fn status(
            &self,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'_, kvtyped::Result<kvtyped::backend::BucketStatus>> {
            self.$field.status(deadline)
        }
    };
    ($field:tt write) => {
        fn write(
            &self,
            write: kvtyped::backend::Write,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'_, kvtyped::Result<kvtyped::Revision>> {
            self.$field.write(write, deadline)
        }
    };
    ($field:tt commit) => {
        fn commit(
            &self,
            batch: kvtyped::backend::Batch,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'_, kvtyped::Result<Vec<kvtyped::Revision>>> {
            self.$field.commit(batch, deadline)
        }
    };
    ($field:tt purge_through) => {
        fn purge_through<'a>(
            &'a self,
            space: kvtyped::backend::KeySpace,
            key: &'a kvtyped::Key,
            through: kvtyped::Revision,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'a, kvtyped::Result<u64>> {
            self.$field.purge_through(space, key, through, deadline)
        }
    };
    ($field:tt read) => {
        fn read<'a>(
            &'a self,
            space: kvtyped::backend::KeySpace,
            key: &'a kvtyped::Key,
            at: kvtyped::backend::ReadAt,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'a, kvtyped::Result<Option<kvtyped::backend::RawEntry>>> {
            self.$field.read(space, key, at, deadline)
        }
    };
    ($field:tt read_many) => {
        fn read_many<'a>(
            &'a self,
            space: kvtyped::backend::KeySpace,
            keys: &'a [kvtyped::Key],
            read: kvtyped::Read,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'a, kvtyped::Result<Vec<Option<kvtyped::backend::RawEntry>>>> {
            self.$field.read_many(space, keys, read, deadline)
        }
    };
    ($field:tt list_keys) => {
        fn list_keys(
            &self,
            list: kvtyped::backend::ListKeysRequest,
        ) -> futures::stream::BoxStream<'static, kvtyped::Result<Vec<kvtyped::Key>>> {
            self.$field.list_keys(list)
        }
    };
    ($field:tt count_keys) => {
        fn count_keys<'a>(
            &'a self,
            space: kvtyped::backend::KeySpace,
            pattern: &'a kvtyped::key::Pattern,
            deadline: kvtyped::backend::Deadline,
        ) -> futures::future::BoxFuture<'a, kvtyped::Result<u64>> {
            self.$field.count_keys(space, pattern, deadline)
        }
    };
    ($field:tt scan) => {
        fn scan(
            &self,
            scan: kvtyped::backend::ScanRequest,
        ) -> futures::stream::BoxStream<'static, kvtyped::Result<kvtyped::backend::ScanItem>> {
            self.$field.scan(scan)
        }
    };
    ($field:tt watch) => {
        fn watch(
            &self,
            watch: kvtyped::backend::WatchRequest,
        ) -> futures::stream::BoxStream<'static, kvtyped::Result<kvtyped::backend::WatchSignal>> {
            self.$field.watch(watch)
        }
    };
}
pub(crate) use verb;
