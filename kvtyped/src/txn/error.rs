//! The errors of transactions.

use std::error::Error as StdError;
use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::observe::Failure;

type AbortCause = Box<dyn StdError + Send + Sync>;

/// The error type of a [`transact`](crate::Bucket::transact) closure. Any error converts to it with `?`.
///
/// So both the errors of the bucket and the closure's own errors need no explicit conversion. The caller receives a
/// [`TransactError`].
pub struct Abort(TransactError);

/// The error of a [`transact`](crate::Bucket::transact).
#[derive(Debug)]
pub enum TransactError {
    /// The closure failed with this error. Nothing was written.
    Closure(Box<dyn StdError + Send + Sync>),
    /// The bucket failed with this error.
    Kv(Error),
}

impl Abort {
    /// Aborts the transaction with this error or text.
    pub fn new(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::from_cause(cause.into())
    }

    fn from_cause(cause: AbortCause) -> Self {
        Self(match cause.downcast::<Error>() {
            Ok(error) => TransactError::Kv(*error),
            Err(other) => TransactError::Closure(other),
        })
    }
}

/// `Abort` does not implement `Error`, so that every error can convert to it.
impl<E: StdError + Send + Sync + 'static> From<E> for Abort {
    fn from(cause: E) -> Self {
        Self::from_cause(Box::new(cause))
    }
}

impl From<Abort> for TransactError {
    fn from(abort: Abort) -> Self {
        abort.0
    }
}

impl fmt::Debug for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TransactError {
    /// Returns the error of the bucket, if it caused the failure.
    pub fn kv(&self) -> Option<&Error> {
        match self {
            Self::Closure(_) => None,
            Self::Kv(error) => Some(error),
        }
    }

    /// Returns the closure's own error, if it has this type.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::txn::TransactError;
    /// #[derive(Debug, PartialEq)]
    /// struct NoAccount;
    /// # impl std::fmt::Display for NoAccount {
    /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("no account") }
    /// # }
    /// # impl std::error::Error for NoAccount {}
    ///
    /// let failed = TransactError::Closure(Box::new(NoAccount));
    /// assert_eq!(failed.closure::<NoAccount>(), Some(&NoAccount));
    /// assert_eq!(failed.into_closure::<NoAccount>().unwrap(), NoAccount);
    /// ```
    pub fn closure<E: StdError + 'static>(&self) -> Option<&E> {
        match self {
            Self::Closure(cause) => cause.downcast_ref(),
            Self::Kv(_) => None,
        }
    }

    /// Returns the closure's own error by value, if it has this type.
    ///
    /// # Errors
    ///
    /// Returns `self` if the error has another type.
    pub fn into_closure<E: StdError + 'static>(self) -> Result<E, Self> {
        match self {
            Self::Closure(cause) => cause.downcast().map(|own| *own).map_err(Self::Closure),
            Self::Kv(error) => Err(Self::Kv(error)),
        }
    }
}

impl From<Error> for TransactError {
    fn from(error: Error) -> Self {
        Self::Kv(error)
    }
}

/// The closure's own error becomes the source of an error of the kind [`Aborted`](ErrorKind::Aborted).
impl From<TransactError> for Error {
    fn from(error: TransactError) -> Self {
        match error {
            TransactError::Kv(error) => error,
            TransactError::Closure(cause) => Self::new(ErrorKind::Aborted).caused_by(cause),
        }
    }
}

impl fmt::Display for TransactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closure(error) => error.fmt(f),
            Self::Kv(error) => error.fmt(f),
        }
    }
}

impl StdError for TransactError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Closure(error) => error.source(),
            Self::Kv(error) => StdError::source(error),
        }
    }
}

impl Failure for TransactError {
    fn error(&self) -> Option<&Error> {
        match self {
            Self::Closure(_) => None,
            Self::Kv(error) => Some(error),
        }
    }

    fn hide_key(self) -> Self {
        match self {
            Self::Kv(error) => Self::Kv(error.hide_key()),
            closure => closure,
        }
    }
}
