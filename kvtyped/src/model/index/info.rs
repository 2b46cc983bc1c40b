//! The definition of an index.

/// The definition of one index of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexInfo {
    /// The name: that of the field, or the name in `#[kv(index(by_role = ".."))]`.
    pub name: &'static str,
    /// Whether several records may have one value.
    pub kind: IndexKind,
    /// The number of segments of a value in the key of an entry.
    pub segments: usize,
    /// Whether only the follower writes the entries, so that they lag behind the records.
    pub is_eventual: bool,
    /// Whether an entry contains a hash of the value. Such an index has one segment.
    pub is_hashed: bool,
    /// The text of the definition: `{team}.{role}`, `{joined:day}`, `{name:lower}`.
    pub definition: &'static str,
}

/// Whether several records may have one value of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IndexKind {
    /// Any number of records may have one value.
    Many,
    /// At most one record has a value.
    Unique,
}

impl IndexInfo {
    /// Creates the definition of an index with one segment.
    pub const fn new(name: &'static str, kind: IndexKind, definition: &'static str) -> Self {
        Self { name, kind, segments: 1, is_eventual: false, is_hashed: false, definition }
    }

    /// Sets the number of segments of a value.
    #[must_use]
    pub const fn segments(self, segments: usize) -> Self {
        Self { segments, ..self }
    }

    /// Lets only the follower write the entries.
    #[must_use]
    pub const fn eventual(self) -> Self {
        Self { is_eventual: true, ..self }
    }

    /// Stores a hash in place of the value.
    #[must_use]
    pub const fn hashed(self) -> Self {
        Self { is_hashed: true, segments: 1, ..self }
    }

    /// Whether at most one record has a value.
    pub const fn is_unique(&self) -> bool {
        matches!(self.kind, IndexKind::Unique)
    }

    /// Returns the fingerprint of everything that the entries depend on: 16 hexadecimal digits. An index whose
    /// fingerprint changes must be built again.
    pub fn fingerprint(&self) -> String {
        let Self { name: _, kind, segments, is_eventual: _, is_hashed, definition } = self;
        let kind = match kind {
            IndexKind::Many => "many",
            IndexKind::Unique => "unique",
        };
        crate::schema::fingerprint(&format!("{kind} {segments} {is_hashed} {definition}"))
    }
}

/// Returns the fingerprint of the indexes whose entries each writer of a model keeps, for the header of its records.
/// `None` if writers keep none.
pub(crate) fn kept_by_writers(indexes: &[IndexInfo]) -> Option<u32> {
    // FNV-1a. A program must return the same number in every version of this crate.
    let add = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let kept = indexes.iter().filter(|index| !index.is_eventual).map(|index| {
        let properties = [index.is_unique().into(), index.is_hashed.into(), 0xff];
        let bytes = index.name.as_bytes().iter().chain(&[0xff]).chain(index.definition.as_bytes());
        let segments = index.segments.to_le_bytes();
        bytes.chain(&segments[..1]).chain(&properties).fold(0x811c_9dc5, add)
    });
    // The order of the indexes does not matter.
    kept.reduce(u32::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::{IndexInfo, IndexKind, kept_by_writers};

    #[test]
    fn fingerprint_covers_what_entries_depend_on() {
        let index = IndexInfo::new("email", IndexKind::Many, "{email}");
        assert_eq!(index.fingerprint(), "c88c7e86e46270d4");
        let same = IndexInfo::new("mail", IndexKind::Many, "{email}").eventual();
        assert_eq!(same.fingerprint(), index.fingerprint());
        let others = [
            IndexInfo::new("email", IndexKind::Unique, "{email}"),
            IndexInfo::new("email", IndexKind::Many, "{email:lower}"),
            index.segments(2),
            index.hashed(),
        ];
        for other in others {
            assert_ne!(other.fingerprint(), index.fingerprint(), "{other:?}");
        }
    }

    #[test]
    fn mark_of_writers_covers_the_kept_indexes() {
        let (email, team) =
            (IndexInfo::new("email", IndexKind::Unique, "{email}"), IndexInfo::new("team", IndexKind::Many, "{team}"));
        let mark = kept_by_writers(&[email, team]);
        assert_eq!(mark, Some(0x67a4_104b));
        assert_eq!(kept_by_writers(&[team, email]), mark);
        assert_eq!(kept_by_writers(&[email, team.eventual()]), kept_by_writers(&[email]));
        assert_eq!(kept_by_writers(&[team.eventual()]), None);
        for other in [[email, team.segments(2)], [email, team.hashed()], [email, email]] {
            assert_ne!(kept_by_writers(&other), mark, "{other:?}");
        }
    }
}
