//! Why a transaction failed.

use std::error::Error as StdError;
use std::fmt;

use crate::error::{Error, ErrorKind};

type Cause = Box<dyn StdError + Send + Sync>;

/// Why the closure of a [`transact`](crate::Bucket::transact) gives up: any error, which `?` turns into this.
///
/// It is what the closure's `Result` has for an error, so that both the errors of the bucket and the closure's own go
/// through `?` without a word. The caller gets a [`TransactError`] of it.
pub struct Abort(TransactError);

/// Why a [`transact`](crate::Bucket::transact) failed.
#[derive(Debug)]
pub enum TransactError {
    /// The closure said so; nothing was written.
    Closure(Box<dyn StdError + Send + Sync>),
    /// The bucket did.
    Kv(Error),
}

impl Abort {
    /// Gives up because of this error, or this text.
    pub fn new(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::of(cause.into())
    }

    fn of(cause: Cause) -> Self {
        Self(match cause.downcast::<Error>() {
            Ok(error) => TransactError::Kv(*error),
            Err(other) => TransactError::Closure(other),
        })
    }
}

/// Not an error itself, so that every error can become one.
impl<E: StdError + Send + Sync + 'static> From<E> for Abort {
    fn from(cause: E) -> Self {
        Self::of(Box::new(cause))
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
    /// The error of the bucket, if it was that.
    pub fn kv(&self) -> Option<&Error> {
        match self {
            Self::Closure(_) => None,
            Self::Kv(error) => Some(error),
        }
    }

    /// The closure's own error, if it was one of this type.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::TransactError;
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

    /// The closure's own error as it was, if it was one of this type.
    ///
    /// # Errors
    ///
    /// The same error again if it was not.
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

/// The closure's own error becomes the cause of one of the kind [`Aborted`](ErrorKind::Aborted).
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
