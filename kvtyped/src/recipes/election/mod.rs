//! Elections: one leader at a time, visible to all processes.
//!
//! The leader holds the only lease of the election, and the lease contains the leader's value.

pub(crate) mod handle;
pub(crate) mod all;
pub(crate) mod run_forever;

pub use self::all::AllLeaders;
pub use self::handle::{Campaign, Election, Leader, Leaders, Leadership};
pub use self::run_forever::{RunForever, RunUntil};
