//! The refusal of a record by the validation function of its model.

use std::fmt;

/// The refusal of a record by the function of the attribute `validate`. It is the source of an error of the kind
/// [`Invalid`](crate::ErrorKind::Invalid), and its message is that of the function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    path: &'static str,
    reason: String,
}

impl Refusal {
    /// Converts the result of the function at this path.
    #[doc(hidden)]
    pub fn of<E: fmt::Display>(path: &'static str, checked: Result<(), E>) -> Result<(), Self> {
        checked.map_err(|reason| Self { path, reason: reason.to_string() })
    }

    /// Returns the path of the function.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Returns the message of the function.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}
