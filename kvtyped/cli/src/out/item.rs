//! One row of the output, and its formats.

use crate::escape::escape;
use crate::json::{IntoField, Json};

/// The format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table on a terminal, else tab-separated lines.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// Only the name or the key, one a line.
    Name,
    /// Only the value.
    Value,
}

/// When to use colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    #[default]
    Auto,
    Always,
    Never,
}

/// A color or another attribute of a terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    Bold,
    Dim,
    Red,
    Green,
    Cyan,
}

impl Style {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "31",
            Self::Green => "32",
            Self::Cyan => "36",
        }
    }
}

/// One row of the output, in every format.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(super) json: Json,
    pub(super) cells: Vec<String>,
    pub(super) name: String,
    pub(super) value: Option<Payload>,
    pub(super) body: Option<String>,
}

/// The value of an item.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Json(Json),
    /// Bytes as they are stored.
    Raw(Vec<u8>),
}

impl Item {
    /// Creates an item. The object must have the fields `v` and `type`.
    pub(crate) fn new(json: Json) -> Self {
        Self { json, cells: Vec::new(), name: String::new(), value: None, body: None }
    }

    /// Sets the cells of its row.
    pub(crate) fn cells<C: Into<String>>(mut self, cells: impl IntoIterator<Item = C>) -> Self {
        self.cells = cells.into_iter().map(Into::into).collect();
        self
    }

    /// Sets what `-o name` prints.
    pub(crate) fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds a field to the object.
    pub(crate) fn with(mut self, field: &str, value: impl IntoField) -> Self {
        self.json = self.json.with(field, value);
        self
    }

    /// Sets what `-o value` prints.
    pub(crate) fn value(mut self, value: Payload) -> Self {
        self.value = Some(value);
        self
    }

    /// Sets a text of several lines that a table shows below the row. The caller escapes the text.
    pub(crate) fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }
}

/// Returns cells as a line for other programs.
pub(super) fn tab_separated(cells: &[String]) -> String {
    cells.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_contain_no_tab_and_no_line_feed() {
        assert_eq!(tab_separated(&["a\tb".into(), "c\nd\u{1b}".into()]), "a\\tb\tc\\nd\\u{1b}");
    }
}
