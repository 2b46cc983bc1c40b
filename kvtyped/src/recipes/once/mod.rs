//! Work that runs once for each key, and its result.
//!
//! The caller that runs the work holds a lease under the key. The result replaces the lease, and all later callers
//! receive it.

pub(crate) mod handle;
pub(crate) mod output;

pub use self::handle::{Once, OnceRun};
pub use self::output::{OnceError, OnceOutput};
