//! Keys that errors do not show.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use super::{Error, ErrorKind, SharedSource};
use crate::key::KeyError;

/// Returns a short hash of a key, which is the same in all messages of this process. An attacker who knows the message
/// cannot search for the key, because the hash depends on a random number of the process.
pub(crate) fn key_hash(key: &str) -> String {
    static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    format!("#{:08x}", STATE.hash_one(key) >> 32)
}

/// Splits the subject of a record, or of a read of it, before the key. Returns `None` for any other subject.
pub(crate) fn split_subject(subject: &str) -> Option<(&str, &str)> {
    let bucket = subject.rfind("$KV.")? + "$KV.".len();
    let key = bucket + subject[bucket..].find('.')? + 1;
    Some(subject.split_at(key))
}

/// Removes the value from the subject of an index entry, or of a read of it. Any other subject stays.
#[cfg(feature = "nats")]
pub(crate) fn without_index_value(subject: String) -> String {
    match split_subject(&subject) {
        Some((start, key)) if start.ends_with("$KV.=i.") => {
            let bucket = key.split('.').next().unwrap_or_default();
            format!("{start}{bucket}.>")
        }
        _ => subject,
    }
}

impl Error {
    /// Hides the key in all output of this error, except [`key`](Self::key).
    pub(crate) fn hide_key(mut self) -> Self {
        self.hide();
        self
    }

    fn hide(&mut self) {
        self.0.hides_key = true;
        if let ErrorKind::PermissionDenied { subject } = &mut self.0.kind
            && let Some((start, key)) = split_subject(subject)
        {
            *subject = format!("{start}{}", key_hash(key));
        }
        if let ErrorKind::NotUnique { owner, .. } = &mut self.0.kind
            && !owner.starts_with('#')
        {
            *owner = key_hash(owner);
        }
        let Some(source) = &mut self.0.source else { return };
        if let Some(error) = source.downcast_mut::<Self>() {
            error.hide();
        } else if source.is::<KeyError>() || source.is::<SharedSource>() {
            // Both quote the key, and neither can be changed.
            self.0.source = None;
        }
    }
}

#[cfg(all(test, feature = "nats"))]
mod tests {
    use super::*;

    #[test]
    fn denied_subject_shows_no_index_value() {
        for (subject, shown) in [
            ("$KV.=i.users.user.email.ada=40x", "$KV.=i.users.>"),
            ("$JS.API.DIRECT.GET.KV_users.$KV.=i.users.user.team.core.7", "$JS.API.DIRECT.GET.KV_users.$KV.=i.users.>"),
            ("$KV.users.7", "$KV.users.7"),
            ("$JS.API.STREAM.PURGE.KV_users", "$JS.API.STREAM.PURGE.KV_users"),
        ] {
            assert_eq!(without_index_value(subject.to_owned()), shown);
        }
    }
}
