//! The result of the closure of a retried update, and the error of `try_modify`.

use std::fmt;

use crate::error::Error;
use crate::observe::Failure;

/// The result of the closure of a [`transform`](crate::Bucket::transform).
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// Leaves the record unchanged.
    Keep,
    /// Writes this record.
    Put(T),
    /// Removes the record and keeps its history.
    Delete,
    /// Removes the record and its history.
    Purge,
}

/// The error of a [`try_modify`](crate::Bucket::try_modify).
#[derive(Debug)]
pub enum ModifyError<E> {
    /// The closure returned this error. Nothing was written.
    Closure(E),
    /// The bucket returned this error.
    Kv(Error),
}

impl<E> ModifyError<E> {
    /// Returns the error of the bucket, if it is one.
    pub fn kv(&self) -> Option<&Error> {
        match self {
            Self::Closure(_) => None,
            Self::Kv(error) => Some(error),
        }
    }
}

impl<E> From<Error> for ModifyError<E> {
    fn from(error: Error) -> Self {
        Self::Kv(error)
    }
}

impl<E: fmt::Display> fmt::Display for ModifyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closure(error) => error.fmt(f),
            Self::Kv(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ModifyError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Closure(error) => error.source(),
            Self::Kv(error) => std::error::Error::source(error),
        }
    }
}

impl<E> Failure for ModifyError<E> {
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
