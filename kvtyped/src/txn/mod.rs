//! Transactions: several records of one bucket, changed all or nothing.
//!
//! The server applies a batch of writes atomically if all expected revisions are current. The rest happens in the
//! client. [`Bucket::transaction`](crate::Bucket::transaction) collects the writes.
//! [`Bucket::transact`](crate::Bucket::transact) runs a closure that reads and writes. It runs the closure again if a
//! record that the closure read has changed.

mod declared_model;
mod error;
mod gate;
mod required;
mod transaction;
mod tx;
mod transact;

pub use self::error::{Abort, TransactError};
pub use self::transact::Transact;
pub use self::transaction::{Committed, Transaction};
pub use self::tx::Tx;
