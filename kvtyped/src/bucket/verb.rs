//! The macros that build awaitable operations and their shared options.

/// Makes the builder of an operation awaitable: awaiting it calls `run`. The name of the operation and the path of the
/// bucket follow the builder.
macro_rules! verb {
    ($verb:ident($operation:literal, $($bucket:ident).+) => $output:ty) => {
        impl<'a, T: $crate::model::KvModel> IntoFuture for $verb<'a, T> {
            type Output = $crate::error::Result<$output>;
            type IntoFuture = futures::future::BoxFuture<'a, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                let bucket: &'a $crate::bucket::ReadBucket<T> = self.$($bucket).+;
                bucket.observe($operation, Box::pin(self.run()))
            }
        }
    };
}
pub(crate) use verb;

/// The options that many operations share.
macro_rules! options {
    (ttl: $($verb:ident)*) => {$(
        impl<T: $crate::model::KvModel> $verb<'_, T> {
            /// Sets the TTL of the record: at least one second, rounded up to whole seconds (ADR-43).
            ///
            /// The next `put` or `update` of the record without a TTL removes this TTL. The record then expires by the
            /// bucket's `ttl`, or never if the bucket has none. A TTL that is longer than the bucket's is refused as
            /// `InvalidConfig`, because the server would remove the record by the bucket's TTL.
            pub fn ttl(mut self, ttl: std::time::Duration) -> Self
            where
                T: $crate::model::SingleRevision,
            {
                self.ttl = Some(ttl);
                self
            }
        }
    )*};
    (headers: $($verb:ident)*) => {$(
        impl $verb<'_, $crate::model::RawRecord> {
            /// Sets the headers of the record. Default: none. To copy a record, pass the
            /// [headers](crate::Entry::headers) of its entry.
            ///
            /// A text with a control character is refused as `InvalidConfig`.
            pub fn headers(mut self, headers: $crate::backend::RecordHeaders) -> Self {
                self.headers = Some(Box::new(headers));
                self
            }
        }
    )*};
    (fence: $($verb:ident)*) => {$(
        impl<T: $crate::model::KvModel> $verb<'_, T> {
            /// Writes only if another record is unchanged.
            pub(crate) fn with_fence(mut self, fence: $crate::bucket::FenceResult) -> Self {
                self.fence = fence;
                self
            }
        }
    )*};
    (timeout: $($verb:ident)*) => {$(
        impl<T: $crate::model::KvModel> $verb<'_, T> {
            /// Sets the total timeout. Default: the bucket's timeout.
            pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
                self.timeout = Some(timeout);
                self
            }
        }
    )*};
}
pub(crate) use options;
