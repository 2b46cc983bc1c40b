//! The filters of a consumer for the patterns of a read.

use crate::key::{Pattern, Patterns};

/// Returns the filters for the server, which may match more than `patterns`.
///
/// A scan ends when all pending entries have arrived. Some servers count too few entries of several filters, unless the
/// filters are exact keys with the same number of tokens. Such a server gets one filter. A restricted user also gets
/// one filter, because permissions can limit only a request with one filter to some keys.
pub(crate) fn filters(patterns: &Patterns, reliable: bool, restricted: bool) -> Vec<Pattern> {
    let disjoint = patterns.filters().to_vec();
    if !restricted && (reliable || has_reliable_pending(&disjoint)) {
        return disjoint;
    }
    merge_filters(disjoint)
}

/// Joins the patterns into one that matches at least the same keys.
pub(crate) fn merge_filters(patterns: Vec<Pattern>) -> Vec<Pattern> {
    patterns.into_iter().reduce(|one, other| one.join(&other)).into_iter().collect()
}

/// Returns whether every server counts the pending messages of these disjoint filters correctly.
pub(crate) fn has_reliable_pending(disjoint: &[Pattern]) -> bool {
    let length = |pattern: &Pattern| pattern.as_exact().map(|_| pattern.tokens().len());
    let plain = |pattern: &Pattern| length(pattern).is_some() && length(pattern) == length(&disjoint[0]);
    disjoint.len() < 2 || disjoint.iter().all(plain)
}
