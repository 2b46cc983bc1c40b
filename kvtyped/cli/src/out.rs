//! All output: tables, tab-separated lines, JSON, names and values on stdout, and everything else on stderr.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this file writes all output of the tool")]

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};

use unicode_width::UnicodeWidthStr;

use crate::escape::{escape, escape_json, escape_lines};
use crate::fail::Failure;
use crate::json::{IntoField, Json, object};

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
    fn code(self) -> &'static str {
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
    json: Json,
    cells: Vec<String>,
    name: String,
    value: Option<Payload>,
    body: Option<String>,
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

/// Where the output goes, and how.
#[derive(Debug)]
pub(crate) struct Out {
    format: Format,
    is_terminal: bool,
    has_color: bool,
    is_quiet: bool,
    width: usize,
    stdout: RefCell<io::BufWriter<io::Stdout>>,
}

impl Out {
    pub(crate) fn new(format: Format, color: ColorChoice, is_quiet: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let has_color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if is_set("NO_COLOR") => false,
            ColorChoice::Auto if std::env::var("CLICOLOR_FORCE").is_ok_and(|value| !matches!(&*value, "" | "0")) => {
                true
            }
            ColorChoice::Auto => is_terminal && std::env::var("TERM").is_ok_and(|term| term != "dumb"),
        };
        let width = if is_terminal { terminal_width() } else { usize::MAX };
        let stdout = RefCell::new(io::BufWriter::with_capacity(1 << 16, io::stdout()));
        Self { format, is_terminal, has_color, is_quiet, width, stdout }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Whether the output is a table for a person.
    pub(crate) fn is_for_person(&self) -> bool {
        self.is_terminal && self.format == Format::Table
    }

    /// Whether the output is JSON.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Ndjson)
    }

    /// Starts a list.
    pub(crate) fn list(&self, columns: &[&'static str]) -> List<'_> {
        List { out: self, columns: columns.to_vec(), rows: Vec::new(), widths: None, count: 0, is_live: false }
    }

    /// Starts a list whose items arrive over time. Each item is shown at once.
    pub(crate) fn live(&self, columns: &[&'static str]) -> List<'_> {
        List { is_live: true, ..self.list(columns) }
    }

    /// Writes one item, which is the whole output of the command. On a terminal it is `column: cell` lines.
    pub(crate) fn one(&self, columns: &[&'static str], item: &Item) -> Result<(), Failure> {
        match self.format {
            Format::Json if self.is_terminal => self.line(&escape_json(item.json.pretty()))?,
            Format::Json | Format::Ndjson => self.line(&escape_json(item.json.line()))?,
            Format::Table if self.is_terminal => {
                let widest = columns.iter().map(|column| column.len()).max().unwrap_or_default();
                for (column, cell) in columns.iter().zip(&item.cells).filter(|(_, cell)| !cell.is_empty()) {
                    let title = format!("{:<widest$}", column.to_lowercase());
                    self.line(&format!("{}  {}", self.style(Style::Dim, &title), escape(cell)))?;
                }
                if let Some(body) = &item.body {
                    self.line(body)?;
                }
            }
            Format::Table => self.line(&tab_separated(&item.cells))?,
            Format::Name | Format::Value => self.short(item)?,
        }
        self.flush()
    }

    /// Writes what `-o name` or `-o value` prints.
    fn short(&self, item: &Item) -> Result<(), Failure> {
        match (self.format, &item.value) {
            (Format::Value, Some(Payload::Json(value))) if self.is_terminal => self.line(&escape_json(value.pretty())),
            (Format::Value, Some(Payload::Json(value))) => self.line(&escape_json(value.line())),
            (Format::Value, Some(Payload::Raw(bytes))) => self.raw(bytes),
            _ => self.line(&escape(&item.name)),
        }
    }

    /// Writes bytes as they are. On a terminal, control characters are escaped.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        match self.is_terminal {
            true => self.line(&escape_lines(&String::from_utf8_lossy(bytes))),
            false => Ok(self.stdout.borrow_mut().write_all(bytes)?),
        }
    }

    /// Writes a line to stdout. The caller escapes the text.
    pub(crate) fn line(&self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.stdout.borrow_mut(), "{line}")?)
    }

    /// Clears the terminal, so that the next table replaces the previous one.
    pub(crate) fn redraw(&self) -> Result<(), Failure> {
        match self.is_for_person() {
            true => Ok(write!(self.stdout.borrow_mut(), "\u{1b}[H\u{1b}[2J")?),
            false => Ok(()),
        }
    }

    /// Sends the output.
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        Ok(self.stdout.borrow_mut().flush()?)
    }

    /// Returns a text with an attribute, if colors are used.
    pub(crate) fn style(&self, style: Style, text: &str) -> String {
        match self.has_color {
            true => format!("\u{1b}[{}m{text}\u{1b}[0m", style.code()),
            false => text.to_owned(),
        }
    }

    /// Tells the user something on stderr, unless `--quiet` is given.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_quiet {
            self.say(text);
        }
    }

    /// Writes lines on stderr that are escaped already, unless `--quiet` is given.
    pub(crate) fn note_lines(&self, lines: &str) {
        if !self.is_quiet && !lines.is_empty() {
            let _ = writeln!(io::stderr(), "{lines}");
        }
    }

    /// Writes an object to stderr, or its text if the output is not JSON. Not with `--quiet`.
    pub(crate) fn note_object(&self, json: &Json, text: &str) {
        if !self.is_quiet {
            self.say(&if self.is_json() { escape_json(json.line()) } else { text.to_owned() });
        }
    }

    /// Warns on stderr.
    pub(crate) fn warn(&self, text: &str) {
        match self.is_json() {
            true => self.say(&escape_json(object! { "v" => 1u8, "type" => "warning", "message" => text }.line())),
            false => self.say(&format!("warning: {text}")),
        }
    }

    /// Reports a failure on stderr.
    pub(crate) fn fail(&self, failure: &Failure) {
        match self.is_json() {
            true => self.say(&escape_json(failure.json().line())),
            false => self.say(&format!("error: {failure}")),
        }
    }

    fn say(&self, text: &str) {
        // A closed stderr must not end the tool.
        let _ = writeln!(io::stderr(), "{}", escape_lines(text));
    }

    /// Writes a part of a dialog on stderr, in red if it is dangerous.
    pub(crate) fn prompt(&self, text: &str, is_dangerous: bool) {
        let text = escape_lines(text);
        let text = if is_dangerous { self.style(Style::Red, &text) } else { text.into_owned() };
        let _ = write!(io::stderr(), "{text}");
        let _ = io::stderr().flush();
    }

    /// Returns a progress bar on stderr, which is hidden without a terminal. `total` may grow.
    pub(crate) fn progress(&self, total: u64, what: &str) -> indicatif::ProgressBar {
        if self.is_quiet || !io::stderr().is_terminal() {
            return indicatif::ProgressBar::hidden();
        }
        let style = format!("{what} {{wide_bar}} {{pos}}/{{len}}  {{per_sec}}  {{eta}} left");
        let bar = indicatif::ProgressBar::new(total);
        match indicatif::ProgressStyle::with_template(&style) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}

fn tab_separated(cells: &[String]) -> String {
    cells.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join("\t")
}

/// Returns the number of columns of the terminal.
fn terminal_width() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let found = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    asked.or_else(found).filter(|width| *width > 0).unwrap_or(80)
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

    #[test]
    fn cells_contain_no_tab_and_no_line_feed() {
        assert_eq!(tab_separated(&["a\tb".into(), "c\nd\u{1b}".into()]), "a\\tb\tc\\nd\\u{1b}");
    }
}
