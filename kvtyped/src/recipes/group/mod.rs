//! Groups: the live members, their values, and their arrivals and departures.
//!
//! A member is the holder of a lease under its id. The lease contains the value of the member. A view and a stream of
//! events follow the leases through a watch.

pub(crate) mod member;
pub(crate) mod view;
pub(crate) mod events;
pub(crate) mod handle;

pub use self::events::{GroupEvent, GroupEvents, LeaveReason};
pub use self::handle::{Group, Join};
pub use self::member::{Member, MemberInfo};
pub use self::view::GroupView;
