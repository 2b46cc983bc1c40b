//! The errors of one phase.

use std::fmt::Display;

use quote::ToTokens;
use syn::{Error, Result};

/// Collects errors, so that one compilation reports every error of a phase.
#[derive(Default)]
pub(crate) struct Ctxt {
    errors: Option<Error>,
}

impl Ctxt {
    /// Reports an error at these tokens.
    pub(crate) fn error(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.push(Error::new_spanned(tokens, message));
    }

    /// Reports an error that has its own span.
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.errors {
            Some(errors) => errors.combine(error),
            None => self.errors = Some(error),
        }
    }

    /// Returns the value, or reports the error and returns `None`.
    pub(crate) fn ok<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// Returns the number of errors of the phase.
    pub(crate) fn count(&self) -> usize {
        self.errors.iter().map(|errors| errors.clone().into_iter().count()).sum()
    }

    /// Ends a phase. Returns its errors, if there are any.
    pub(crate) fn end_of_phase(&mut self) -> Result<()> {
        self.errors.take().map_or(Ok(()), Err)
    }
}
