//! The output and the errors of work that runs once.

use std::convert::Infallible;
use std::fmt;

use crate::error::{Error, Result};
use crate::observe::Failure;

/// The output of the work of [`Once::run`](crate::recipes::Once::run): a `T` or a `Result<T, E>`. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "the work returns `{Self}`, but `{T}` or `Result<{T}, _>` is expected",
    label = "unexpected output of this work",
    note = "`store.once::<{T}>(..)` stores a value of this type"
)]
pub trait OnceOutput<T>: sealed::Sealed<T> + Send {
    /// The error of the work.
    type Error: Send;

    /// Returns the value, or the error of the work.
    ///
    /// # Errors
    ///
    /// Returns the error of the work.
    fn into_result(self) -> Result<T, Self::Error>;
}

impl<T: Send> OnceOutput<T> for T {
    type Error = Infallible;

    fn into_result(self) -> Result<T, Infallible> {
        Ok(self)
    }
}

impl<T: Send, E: Send> OnceOutput<T> for Result<T, E> {
    type Error = E;

    fn into_result(self) -> Self {
        self
    }
}

mod sealed {
    pub trait Sealed<T> {}

    impl<T> Sealed<T> for T {}

    impl<T, E> Sealed<T> for Result<T, E> {}
}

/// The error of a [`run`](super::Once::run).
///
/// If the work cannot fail, or fails with an [`Error`], the operator `?` converts this type to an [`Error`].
#[derive(Debug)]
pub enum OnceError<E> {
    /// The work failed with this error. The key is free.
    Closure(E),
    /// The bucket or the lease failed with this error.
    Kv(Error),
}

impl<E> OnceError<E> {
    /// Returns the error of the bucket or the lease, if it caused the failure.
    pub fn kv(&self) -> Option<&Error> {
        match self {
            Self::Closure(_) => None,
            Self::Kv(error) => Some(error),
        }
    }
}

impl<E> From<Error> for OnceError<E> {
    fn from(error: Error) -> Self {
        Self::Kv(error)
    }
}

impl From<OnceError<Infallible>> for Error {
    fn from(error: OnceError<Infallible>) -> Self {
        match error {
            OnceError::Closure(never) => match never {},
            OnceError::Kv(error) => error,
        }
    }
}

impl From<OnceError<Error>> for Error {
    fn from(error: OnceError<Error>) -> Self {
        match error {
            OnceError::Closure(error) | OnceError::Kv(error) => error,
        }
    }
}

impl<E: fmt::Display> fmt::Display for OnceError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closure(error) => error.fmt(f),
            Self::Kv(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for OnceError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Closure(error) => error.source(),
            Self::Kv(error) => std::error::Error::source(error),
        }
    }
}

impl<E> Failure for OnceError<E> {
    fn error(&self) -> Option<&Error> {
        self.kv()
    }

    fn hide_key(self) -> Self {
        match self {
            Self::Kv(error) => Self::Kv(error.hide_key()),
            closure => closure,
        }
    }
}
