//! All output: tables, tab-separated lines, JSON, names and values on stdout, and everything else on stderr.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this file writes all output of the tool")]

mod item;
mod list;
mod progress;

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};

use self::item::tab_separated;
pub(crate) use self::item::{ColorChoice, Format, Item, Payload, Style};
pub(crate) use self::list::List;
pub(crate) use self::progress::Unit;
use crate::escape::{escape, escape_json, escape_lines};
use crate::fail::Failure;
use crate::json::{Json, object};

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
}

/// Returns the number of columns of the terminal.
fn terminal_width() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let found = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    asked.or_else(found).filter(|width| *width > 0).unwrap_or(80)
}
