//! What a server said of itself, which holds for as long as the connection does: behind another it may be another server.

use std::sync::{Mutex, PoisonError};

/// What was learned last, and on which connection.
#[derive(Debug)]
pub(super) struct Learned<T>(Mutex<Option<(u64, T)>>);

impl<T> Default for Learned<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Learned<T> {
    /// What is known on the connection of this epoch.
    pub(super) fn on(&self, epoch: u64) -> Option<T> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(then, _)| *then == epoch).map(|(_, what)| what.clone())
    }

    /// Remembers what was learned on that.
    pub(super) fn learn(&self, epoch: u64, what: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_holds_for_one_connection() {
        let learned = Learned::default();
        assert_eq!(learned.on(1), None);
        learned.learn(1, "2.11.0");
        assert_eq!(learned.on(1), Some("2.11.0"));
        assert_eq!(learned.on(2), None);
    }
}
