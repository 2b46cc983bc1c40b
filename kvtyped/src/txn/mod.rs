//! Transactions: several records of one bucket, changed all or nothing.
//!
//! A server applies a batch of writes at one moment if the revisions that it was told are there; all else is done here.
//! [`Bucket::transaction`](crate::Bucket::transaction) says what is to be written, and [`Bucket::transact`](crate::Bucket::transact)
//! runs a closure that reads and writes, and that runs again if what it read was changed before it was done.

mod abort;
mod crowd;
mod members;
mod transact;
mod transaction;
mod tx;

pub use self::abort::{Abort, TransactError};
pub use self::transact::Transact;
pub use self::transaction::{Committed, Transaction};
pub use self::tx::Tx;
