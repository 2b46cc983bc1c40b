//! The text of an index value: escaped segments, separated by dots.

use super::{By, IndexInfo, RangeValue};
use crate::key::{KeyBuilder, KeySegment};

/// Writes the text of one value of an index, segment by segment.
#[derive(Debug)]
pub struct ValueText {
    out: KeyBuilder,
    is_empty: bool,
}

impl ValueText {
    /// Returns the text of a value of this index. Hashes the text if the index is hashed.
    pub(super) fn build(info: &IndexInfo, write: impl FnOnce(&mut Self)) -> String {
        let mut text = Self { out: KeyBuilder::new(), is_empty: true };
        write(&mut text);
        if info.is_hashed { hash(text.out.as_str()) } else { text.out.as_str().to_owned() }
    }

    /// Appends a segment, escaped like a segment of a key.
    pub fn segment<S: KeySegment>(&mut self, value: &S) -> &mut Self {
        self.separator().segment(value);
        self
    }

    /// Appends an escaped segment. Called from generated code.
    #[doc(hidden)]
    pub fn escaped(&mut self, segment: &str) {
        self.separator().literal(segment);
    }

    /// Appends the levels of a value, one segment each.
    pub fn range<V: RangeValue>(&mut self, value: &V, by: By) -> &mut Self {
        let levels = value.levels();
        for segment in V::SCALE.segments(levels.get(..V::SCALE.depth(by)).unwrap_or(&levels)) {
            self.separator().literal(&segment);
        }
        self
    }

    fn separator(&mut self) -> &mut KeyBuilder {
        if !std::mem::take(&mut self.is_empty) {
            self.out.literal(".");
        }
        &mut self.out
    }
}

/// Returns the first 128 bits of the SHA-256 of a text, in hexadecimal digits.
fn hash(text: &str) -> String {
    hmac_sha256::Hash::hash(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
