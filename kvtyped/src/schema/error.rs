//! The reason why a text is not a schema.

/// The reason why [`Schema::from_json`](super::Schema::from_json) refuses a text. It contains no content of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The text is not the schema of a record.
    #[error("the schema cannot be read: {detail}; restore the record or the file that contains it")]
    #[non_exhaustive]
    Foreign {
        /// The reason.
        detail: &'static str,
    },
    /// A newer version of this crate wrote the schema.
    #[error("the schema cannot be read: it has format {found}, and this program reads format {known}; update kvtyped")]
    #[non_exhaustive]
    Newer {
        /// The format of the text.
        found: u64,
        /// The newest format that this version reads.
        known: u64,
    },
    /// The text is too large.
    #[error("the schema cannot be read: it has {len} bytes, and the limit is {limit}; store a smaller schema")]
    #[non_exhaustive]
    TooLarge {
        /// The size of the text, in bytes.
        len: usize,
        /// The largest accepted size, in bytes.
        limit: usize,
    },
}

impl SchemaError {
    pub(super) fn foreign(detail: &'static str) -> Self {
        Self::Foreign { detail }
    }

    pub(super) fn newer(found: u64, known: u64) -> Self {
        Self::Newer { found, known }
    }

    pub(super) fn too_large(len: usize, limit: usize) -> Self {
        Self::TooLarge { len, limit }
    }
}
