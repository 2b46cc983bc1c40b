//! Leases: records with a TTL that their holders renew.
//!
//! A recipe requests a lease and receives a handle. A keeper task renews the lease, and releases it or hands it over
//! when the handle is dropped. A lease knows no recipe: the wait queue of a lock takes part through the trait
//! [`Handover`](request::Handover).
//!
//! | file | content |
//! |---|---|
//! | `fence`, `record` | the fencing token and the stored record of a lease |
//! | `timing`, `options` | the TTL and the times that depend on it |
//! | `state`, `handle` | a held lease, and the commands of its holder |
//! | `outcome` | the outcome of an attempt, and the status of the attempts during a wait |
//! | `request` | a request for a lease, and the parties of a handover |
//! | `lookup` | whether a write with an unknown outcome was applied |
//! | `acquire`, `wait` | one attempt to take a lease, and the wait for its release |
//! | `remove` | the removal of a lease by another process |
//! | `keeper` | the task that renews, releases and hands over |
//!
//! Each module imports only from modules above it.

pub(crate) mod fence;
pub(crate) mod record;
pub(crate) mod timing;
pub(crate) mod options;
pub(crate) mod state;
pub(crate) mod handle;
pub(crate) mod outcome;
pub(crate) mod request;
pub(crate) mod lookup;
pub(crate) mod acquire;
pub(crate) mod wait;
pub(crate) mod remove;
pub(crate) mod keeper;

pub use self::fence::Fence;
pub use self::handle::Lease;
