//! A position in the results of a lookup, as text.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::order::Position;
use crate::error::{Error, ErrorKind, Result};
use crate::model::index::IndexInfo;

/// The position after a record of a list by an index: returned by [`EntriesBy::cursor`](super::EntriesBy::cursor) and
/// accepted by [`ListBy::after`](super::ListBy::after).
///
/// A cursor is a text that can be stored, or sent to a browser and back. **The text contains the value and the key of a
/// record.** It is not authenticated: any client can forge one. A cursor belongs to one index of one bucket. Its `Debug`
/// output names the index only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IndexCursor {
    /// The creation time of the bucket, in nanoseconds.
    created: u64,
    index: String,
    position: Position,
}

/// Separates the parts of a cursor. No key contains it.
const SEPARATOR: char = '~';

impl IndexCursor {
    pub(super) fn new(created: SystemTime, index: &IndexInfo, position: Position) -> Self {
        Self { created: nanos(created), index: index.name.to_owned(), position }
    }

    /// Returns the position, if the cursor belongs to this index of this bucket.
    pub(super) fn position(self, created: SystemTime, index: &IndexInfo) -> Result<Position> {
        if self.index != index.name {
            let Self { index: found, .. } = &self;
            return Err(Error::invalid_config(format!(
                "the cursor is of the index `{found}`, and the list is by `{}`; start without a cursor",
                index.name
            )));
        }
        if self.created != nanos(created) {
            return Err(Error::new(ErrorKind::BucketReplaced));
        }
        Ok(self.position)
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Display for IndexCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { created, index, position: Position { value, key } } = self;
        write!(f, "{created:x}{SEPARATOR}{index}{SEPARATOR}{value}{SEPARATOR}{key}")
    }
}

/// # Errors
///
/// Returns `InvalidConfig` if the text was not produced by `IndexCursor::to_string`.
impl FromStr for IndexCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = |text: &str| {
            let mut parts = text.split(SEPARATOR);
            let (created, index, value, key) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let created = u64::from_str_radix(created, 16).ok()?;
            let position = Position { value: value.to_owned(), key: key.to_owned() };
            parts.next().is_none().then(|| Self { created, index: index.to_owned(), position })
        };
        // Reject other spellings of a number, for example with a sign.
        let same = read(text).filter(|cursor| cursor.to_string() == text);
        same.ok_or_else(|| {
            Error::invalid_config("the text is not a cursor of a lookup; pass the output of `IndexCursor::to_string`")
        })
    }
}

impl fmt::Debug for IndexCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexCursor").field("index", &self.index).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::model::index::IndexKind;

    const TEAM: IndexInfo = IndexInfo::new("team", IndexKind::Many, "{team}");

    #[test]
    fn cursor_is_read_as_it_was_written() {
        let created = UNIX_EPOCH + Duration::from_nanos(0xabc);
        let position = Position { value: "core=2E".into(), key: "acme.7".into() };
        let cursor = IndexCursor::new(created, &TEAM, position.clone());
        let text = cursor.to_string();
        assert_eq!(text, "abc~team~core=2E~acme.7");
        assert_eq!(text.parse::<IndexCursor>().unwrap(), cursor);
        assert_eq!(cursor.clone().position(created, &TEAM).unwrap(), position);
        let replaced = cursor.clone().position(created + Duration::from_nanos(1), &TEAM).unwrap_err();
        assert!(matches!(replaced.kind(), ErrorKind::BucketReplaced), "{replaced}");
        let other = IndexInfo::new("tags", IndexKind::Many, "{tags}");
        assert!(matches!(
            cursor.clone().position(created, &other).unwrap_err().kind(),
            ErrorKind::InvalidConfig { .. }
        ));
        assert!(!format!("{cursor:?}").contains("core"), "no value in the debug output");
        for wrong in ["", "abc", "abc~team~a", "+abc~team~a~b", "abc~team~a~b~c", "ABC~team~a~b"] {
            assert!(wrong.parse::<IndexCursor>().is_err(), "{wrong}");
        }
    }
}
