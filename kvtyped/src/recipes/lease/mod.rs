//! Leases: records with a TTL that their holders renew.
//!
//! A recipe requests a lease and receives a handle. A keeper task renews the lease, and releases it or hands it over
//! when the handle is dropped. A lease knows no recipe: the wait queue of a lock takes part through the trait
//! [`Handover`](request::Handover).

pub(crate) mod handle;
pub(crate) mod wait;
pub(crate) mod acquire;
pub(crate) mod keeper;
pub(crate) mod lookup;
pub(crate) mod request;
pub(crate) mod outcome;
pub(crate) mod state;
pub(crate) mod options;
pub(crate) mod timing;
pub(crate) mod record;
pub(crate) mod fence;

pub use self::fence::Fence;
pub use self::handle::Lease;
