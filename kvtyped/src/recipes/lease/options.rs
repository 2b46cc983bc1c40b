//! The lease options of a recipe.

use super::timing::LeaseTimingOptions;

/// The options that a lease is taken with.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaseOptions {
    pub(crate) timing: LeaseTimingOptions,
    pub(crate) owner: Option<String>,
}

/// The lease options of a builder that has its options at a path.
macro_rules! lease_options {
    ($($builder:ident $(<$($lifetime:lifetime,)? $generic:ident $(, $more:ident)*>)?: $($path:ident).+),* $(,)?) => {$(
        impl $(<$($lifetime,)? $generic $(, $more)*>)? $builder $(<$($lifetime,)? $generic $(, $more)*>)? {
            /// Sets how long after the holder's last renewal the lease is free again: at least 1 s, and 30 s by
            /// default.
            ///
            /// Below 15 s it may not survive the election of a new leader in a cluster.
            pub fn ttl(mut self, ttl: std::time::Duration) -> Self {
                self.$($path).+.timing.ttl = Some(ttl);
                self
            }

            /// Sets how often the holder renews the lease. The default is a third of the TTL, or half of the TTL less
            /// the margin if that is shorter.
            pub fn renew_every(mut self, interval: std::time::Duration) -> Self {
                self.$($path).+.timing.renew_every = Some(interval);
                self
            }

            /// Sets how long before its expiry the holder gives the lease up. The default is a tenth of the TTL, but at
            /// least 1 s and at most a third of the TTL.
            pub fn safety_margin(mut self, margin: std::time::Duration) -> Self {
                self.$($path).+.timing.margin = Some(margin);
                self
            }

            /// Sets the name of the holder, for others to read.
            ///
            /// The default is the environment variable `KVTYPED_OWNER`, or else the name of the connection, the name
            /// of the host and the process id: `billing@web-7 (pid 14903)`.
            pub fn owner(mut self, owner: impl Into<String>) -> Self {
                self.$($path).+.owner = Some(owner.into());
                self
            }
        }
    )*};
}
pub(crate) use lease_options;
