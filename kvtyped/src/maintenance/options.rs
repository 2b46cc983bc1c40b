//! The options that all jobs over records share.

/// Adds the options to the builder of a job, whose fields have their names.
macro_rules! options {
    ($job:ident) => {
        impl<'a, T: $crate::model::KvModel> $job<'a, T> {
            /// Limits the number of records that are written in a second. Without a limit, the job slows down while the
            /// server is slow.
            pub fn pace(mut self, records_per_second: u32) -> Self {
                self.pace = Some(records_per_second);
                self
            }

            /// Gives each record that is written its full TTL again. By default, a record keeps the rest of its TTL,
            /// which needs a bucket that accepts the TTL of a single record.
            pub fn restart_ttl(mut self) -> Self {
                self.restart_ttl = true;
                self
            }

            /// Sets how long to wait for another job of this model. Default: does not wait.
            pub fn wait(mut self, wait: std::time::Duration) -> Self {
                self.wait = Some(wait);
                self
            }

            /// Sets the timeout of each read and write. Default: the bucket's timeout.
            pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
                self.timeout = Some(timeout);
                self
            }

            /// Sets a callback that runs after each write, and after each thousand records that the job has seen.
            pub fn on_progress(
                mut self,
                on_progress: impl FnMut($crate::maintenance::RewriteProgress) + Send + 'a,
            ) -> Self {
                self.on_progress = Some(Box::new(on_progress));
                self
            }
        }
    };
}
pub(super) use options;
