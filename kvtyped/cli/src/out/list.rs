//! Lists: tables whose columns are aligned, and the same items in other formats.

use unicode_width::UnicodeWidthStr;

use super::Out;
use super::item::{Format, Item, Style, tab_separated};
use crate::escape::{escape, escape_json};
use crate::fail::Failure;

impl Out {
    /// Starts a list.
    pub(crate) fn list(&self, columns: &[&'static str]) -> List<'_> {
        List { out: self, columns: columns.to_vec(), rows: Vec::new(), widths: None, count: 0, is_live: false }
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
}

/// The number of rows that decide the widths of a table.
const SAMPLE: usize = 500;

impl List<'_> {
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
        self.widths = Some(self.columns.iter().enumerate().map(widest).collect());
        let titles: Vec<String> = self.columns.iter().map(|title| (*title).to_owned()).collect();
        let header = self.aligned(&titles, |_| None);
        self.out.line(&self.out.style(Style::Bold, &header))?;
        for row in std::mem::take(&mut self.rows) {
            self.row(&row)?;
        }
        Ok(())
    }

    fn row(&self, item: &Item) -> Result<(), Failure> {
        let style = |index| (index == 0).then_some(Style::Cyan);
        self.out.line(&self.aligned(&item.cells, style))?;
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
}
