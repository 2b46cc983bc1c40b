//! What a retried update makes of a record, and why it may fail.

use std::fmt;

use crate::error::Error;

/// What a [`transform`](crate::Bucket::transform) makes of a record.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// Leave it as it is.
    Keep,
    /// Write this record.
    Put(T),
    /// Remove it, and keep the history.
    Delete,
    /// Remove it with its history.
    Purge,
}

/// Why a [`try_modify`](crate::Bucket::try_modify) failed.
#[derive(Debug)]
pub enum ModifyError<E> {
    /// The closure said so; nothing was written.
    Closure(E),
    /// The bucket did.
    Kv(Error),
}

impl<E> ModifyError<E> {
    /// The error of the bucket, if it was that.
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
