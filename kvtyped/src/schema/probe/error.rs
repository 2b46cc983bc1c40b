//! The errors of a run, with the requirements of the type.

use std::fmt;

use serde::de;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    MissingField(&'static str),
    DuplicateField(&'static str),
    UnknownVariant(&'static [&'static str]),
    Other,
}

/// The end of a run.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) cause: Cause,
    /// Whether the probe has already drawn its conclusion, so that outer nodes ignore the error.
    pub(super) is_settled: bool,
}

impl Error {
    /// Creates an error that the probe itself raises.
    pub(super) fn stop() -> Self {
        Self { cause: Cause::Other, is_settled: true }
    }

    fn from_type(cause: Cause) -> Self {
        Self { cause, is_settled: false }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the type refuses the invented value")
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::from_type(Cause::Other)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::from_type(Cause::MissingField(field))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::from_type(Cause::DuplicateField(field))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::from_type(Cause::UnknownVariant(expected))
    }
}
