//! Lists: tables whose columns are aligned, and the same items in other formats.

use unicode_width::UnicodeWidthStr;

use super::Out;
use super::item::{Format, Item, Style, tab_separated};
use crate::escape::{escape, escape_json};
use crate::fail::Failure;

impl Out {
    /// Starts a list.
    pub(crate) fn list(&self, columns: &[&'static str]) -> List<'_> {
        List {
            out: self,
            columns: columns.to_vec(),
            rows: Vec::new(),
            widths: None,
            count: 0,
            is_live: false,
            is_wrapped: false,
        }
    }

    /// Starts a list whose items arrive over time. Each item is shown at once.
    pub(crate) fn live(&self, columns: &[&'static str]) -> List<'_> {
        List { is_live: true, ..self.list(columns) }
    }
}

/// A list of items, which may be endless.
#[derive(Debug)]
pub(crate) struct List<'a> {
    out: &'a Out,
    columns: Vec<&'static str>,
    /// The first rows of a table. They decide the widths of its columns.
    rows: Vec<Item>,
    widths: Option<Vec<usize>>,
    count: u64,
    is_live: bool,
    /// Whether the last column continues on the next line instead of being cut.
    is_wrapped: bool,
}

/// The number of rows that decide the widths of a table.
const SAMPLE: usize = 500;

/// The minimum width of the last column of a table. On a narrower terminal, each row is a block of lines.
const NARROWEST: usize = 12;
/// The minimum width of a last column that is wrapped.
const NARROWEST_TEXT: usize = 30;

impl List<'_> {
    /// Wraps the last column at the width of the terminal, instead of cutting it.
    pub(crate) fn wrapped(self) -> Self {
        Self { is_wrapped: true, ..self }
    }

    /// Adds an item.
    pub(crate) fn push(&mut self, item: Item) -> Result<(), Failure> {
        let out = self.out;
        self.count += 1;
        match out.format {
            Format::Json => {
                let comma = if self.count == 1 { "[" } else { "," };
                out.line(&format!("{comma}{}", escape_json(item.json.line())))?;
            }
            Format::Ndjson => out.line(&escape_json(item.json.line()))?,
            Format::Name | Format::Value => out.short(&item)?,
            Format::Table if !out.is_terminal => {
                out.line(&tab_separated(&item.cells))?;
                item.body.iter().try_for_each(|body| out.line(body))?;
            }
            Format::Table if self.widths.is_some() || self.is_live => self.row(&item)?,
            Format::Table => {
                self.rows.push(item);
                if self.rows.len() == SAMPLE {
                    self.measure()?;
                }
            }
        }
        if self.is_live { out.flush() } else { Ok(()) }
    }

    /// Returns the number of items so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Ends the list.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        match self.out.format {
            Format::Json if self.count == 0 => self.out.line("[]")?,
            Format::Json => self.out.line("]")?,
            Format::Table if !self.rows.is_empty() => self.measure()?,
            _ => {}
        }
        self.out.flush()
    }

    /// Writes the header and the rows that decided the widths.
    fn measure(&mut self) -> Result<(), Failure> {
        let widest = |(index, title): (usize, &&str)| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(index));
            cells.map(|cell| escape(cell).width()).chain([title.width()]).max().unwrap_or_default()
        };
        let widths: Vec<_> = self.columns.iter().enumerate().map(widest).collect();
        self.widths = Some(widths);
        if self.is_stacked() {
            return std::mem::take(&mut self.rows).iter().try_for_each(|row| self.stack(row));
        }
        let titles: Vec<String> = self.columns.iter().map(|title| (*title).to_owned()).collect();
        let header = self.aligned(&titles, |_| None);
        self.out.line(&self.out.style(Style::Bold, &header))?;
        for row in std::mem::take(&mut self.rows) {
            self.row(&row)?;
        }
        Ok(())
    }

    /// Returns the width before the last column of the table, and the width that remains for the last column.
    fn split(&self) -> Option<(usize, usize)> {
        let (_, first) = self.widths.as_deref()?.split_last()?;
        let before = first.iter().map(|width| width + 2).sum();
        Some((before, self.out.width.saturating_sub(before)))
    }

    /// Whether the terminal is too narrow for the columns.
    fn is_stacked(&self) -> bool {
        let last = self.widths.as_deref().and_then(|widths| widths.last()).copied().unwrap_or_default();
        let narrowest = if self.is_wrapped { NARROWEST_TEXT } else { NARROWEST };
        self.split().is_some_and(|(_, left)| left < last.min(narrowest))
    }

    /// Writes a row as a block of lines: the first cell, and then each other cell that is not empty, with its title.
    fn stack(&self, item: &Item) -> Result<(), Failure> {
        let [first, more @ ..] = item.cells.as_slice() else { return Ok(()) };
        let indent = "  ";
        for line in wrap(&escape(first), self.out.width) {
            self.out.line(&self.out.style(Style::Cyan, &line))?;
        }
        let widest = self.columns.iter().skip(1).map(|title| title.width()).max().unwrap_or_default();
        let left = self.out.width.saturating_sub(indent.len() + widest + 2);
        for (title, cell) in self.columns.iter().skip(1).zip(more).filter(|(_, cell)| !cell.is_empty()) {
            let title = format!("{:<widest$}", title.to_lowercase());
            for (number, line) in wrap(&escape(cell), left).iter().enumerate() {
                let title = if number == 0 { self.out.style(Style::Dim, &title) } else { " ".repeat(widest) };
                self.out.line(&format!("{indent}{title}  {line}"))?;
            }
        }
        item.body.iter().try_for_each(|body| self.out.line(body))
    }

    fn row(&self, item: &Item) -> Result<(), Failure> {
        if self.is_stacked() {
            return self.stack(item);
        }
        let style = |index| (index == 0).then_some(Style::Cyan);
        let wrapped = self.split().filter(|_| self.is_wrapped).zip(item.cells.split_last());
        if let Some(((before, left), (last, first))) = wrapped {
            let mut lines = wrap(&escape(last), left).into_iter();
            let mut cells = first.to_vec();
            cells.extend(lines.next());
            self.out.line(&self.aligned(&cells, style))?;
            for line in lines {
                self.out.line(&format!("{}{line}", " ".repeat(before)))?;
            }
        } else {
            self.out.line(&self.aligned(&item.cells, style))?;
        }
        match &item.body {
            Some(body) => self.out.line(body),
            None => Ok(()),
        }
    }

    /// Returns the cells in their columns, cut at the width of the terminal.
    fn aligned(&self, cells: &[String], style: impl Fn(usize) -> Option<Style>) -> String {
        let widths = self.widths.as_deref().unwrap_or_default();
        let (mut line, mut left) = (String::new(), self.out.width);
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                line.push_str("  ");
                left = left.saturating_sub(2);
            }
            let cell = cut(&escape(cell), left);
            let used = cell.width();
            match style(index) {
                Some(style) => line.push_str(&self.out.style(style, &cell)),
                None => line.push_str(&cell),
            }
            let is_last = index + 1 == cells.len();
            let padding = if is_last { 0 } else { widths.get(index).map_or(0, |width| width.saturating_sub(used)) };
            line.extend(std::iter::repeat_n(' ', padding));
            left = left.saturating_sub(used + padding);
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Breaks a text between words into lines of at most this number of columns. Longer words are broken, too.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        let room = columns.saturating_sub(line.width());
        if !line.is_empty() && room > word.width() {
            line.push(' ');
        } else if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for character in word.chars() {
            let width = unicode_width::UnicodeWidthChar::width(character).unwrap_or_default();
            if line.width() + width > columns && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            line.push(character);
        }
    }
    lines.push(line);
    lines
}

/// Returns the beginning of a text that fits into this number of columns.
fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let (mut out, mut used) = (String::new(), 0);
    for character in text.chars() {
        let width = unicode_width::UnicodeWidthChar::width(character).unwrap_or_default();
        if used + width + 1 > columns {
            break;
        }
        out.push(character);
        used += width;
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_at_the_width() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn wrapped_text_loses_nothing() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one two three", 100), ["one two three"]);
        assert_eq!(wrap("a-very-long-word b", 6), ["a-very", "-long-", "word b"]);
        assert_eq!(wrap("漢字漢字", 5), ["漢字", "漢字"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("abc", 0), ["a", "b", "c"]);
    }
}
