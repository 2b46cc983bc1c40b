//! A cached fact about a server. It is valid for one connection, because the next one may lead to another server.

use std::sync::{Mutex, PoisonError};

/// The last value, with the epoch of its connection.
#[derive(Debug)]
pub(crate) struct PerConnection<T>(Mutex<Option<(u64, T)>>);

impl<T> Default for PerConnection<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> PerConnection<T> {
    /// Returns the value that was stored for this epoch.
    pub(crate) fn get(&self, epoch: u64) -> Option<T> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(then, _)| *then == epoch).map(|(_, what)| what.clone())
    }

    /// Stores a value for this epoch.
    pub(crate) fn set(&self, epoch: u64, what: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_value_is_valid_for_one_connection() {
        let learned = PerConnection::default();
        assert_eq!(learned.get(1), None);
        learned.set(1, "2.11.0");
        assert_eq!(learned.get(1), Some("2.11.0"));
        assert_eq!(learned.get(2), None);
    }
}
