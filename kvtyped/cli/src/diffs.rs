//! Differences of texts by lines.

use similar::{ChangeTag, TextDiff};

use crate::app::App;
use crate::escape::escape;
use crate::out::Style;

/// Returns the differing lines with three lines around them. Empty if the texts are equal.
pub(crate) fn lines(app: &App, before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    let mut out = Vec::new();
    for group in diff.grouped_ops(3) {
        if !out.is_empty() {
            out.push("  ...".to_owned());
        }
        for change in group.iter().flat_map(|operation| diff.iter_changes(operation)) {
            // The value is escaped here, because the colors must not be.
            let line = escape(change.value().trim_end_matches('\n')).into_owned();
            out.push(match change.tag() {
                ChangeTag::Delete => app.out.style(Style::Red, &format!("- {line}")),
                ChangeTag::Insert => app.out.style(Style::Green, &format!("+ {line}")),
                ChangeTag::Equal => format!("  {line}"),
            });
        }
    }
    out.join("\n")
}
