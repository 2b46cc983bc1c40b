//! Work that runs once for each key, and its result.
//!
//! The caller that runs the work holds a lease under the key. The result replaces the lease, and all later callers
//! receive it.

pub(crate) mod output;
pub(crate) mod handle;
pub(crate) mod inspect;
pub(crate) mod run;

pub use self::handle::Once;
pub use self::inspect::{OnceKeys, OnceState};
pub use self::output::{OnceError, OnceOutput};
pub use self::run::{OnceResult, OnceRun, OnceRunStatus};
