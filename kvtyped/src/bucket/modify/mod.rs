//! Changes of a record: the compare-and-set loop and group commit.
//!
//! [`verbs`] has the operations `modify`, `try_modify` and `transform`. [`cas`] reads, decides and writes until no other
//! write comes between. [`group_commit`] merges concurrent changes of one key in this process into one write.

pub(crate) mod decision;
mod outcome;
pub(crate) mod retry;
mod pending_record;
pub(crate) mod key_queue;
mod cas;
mod group_call;
mod group_commit;
mod verbs;

pub use self::outcome::{Change, ModifyError};
pub use self::verbs::{Modify, Transform, TryModify};
