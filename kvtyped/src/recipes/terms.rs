//! What the user of a recipe may say of its leases.

use super::times::Wanted;

/// The terms on which a lease is taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    pub(super) wanted: Wanted,
    pub(super) owner: Option<String>,
}

/// The options of a lease, for a builder that has its terms at a path.
macro_rules! lease_options {
    ($($builder:ident $(<$($lifetime:lifetime,)? $generic:ident $(, $more:ident)*>)?: $($path:ident).+),* $(,)?) => {$(
        impl $(<$($lifetime,)? $generic $(, $more)*>)? $builder $(<$($lifetime,)? $generic $(, $more)*>)? {
            /// How long after its holder's last sign of life it is free again: 1 s at least, 30 s by default.
            ///
            /// Below 15 s it may not survive the election of a new leader in a cluster.
            pub fn ttl(mut self, ttl: std::time::Duration) -> Self {
                self.$($path).+.wanted.ttl = Some(ttl);
                self
            }

            /// How often its holder renews it; a third of its time to live by default.
            pub fn renew_every(mut self, interval: std::time::Duration) -> Self {
                self.$($path).+.wanted.renew_every = Some(interval);
                self
            }

            /// How long before it can expire its holder gives it up; a tenth of its time to live by default, 1 s at least
            /// where that is no more than a third.
            pub fn margin(mut self, margin: std::time::Duration) -> Self {
                self.$($path).+.wanted.margin = Some(margin);
                self
            }

            /// What its holder calls itself, for others to read; the number of the process by default.
            pub fn owner(mut self, owner: impl Into<String>) -> Self {
                self.$($path).+.owner = Some(owner.into());
                self
            }
        }
    )*};
}
pub(super) use lease_options;
