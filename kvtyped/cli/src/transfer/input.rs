//! The input of an import.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::app::App;
use crate::fail::Failure;
use crate::json::Json;

/// The longest end line, in bytes.
const MAX_END: u64 = 4_096;

/// The largest line, in bytes.
const MAX_LINE: u64 = 256 << 20;

/// An input, its size and its completeness.
pub(crate) struct Input {
    pub(crate) lines: Lines,
    /// Whether the input has an end line. `None` for a pipe.
    pub(crate) is_complete: Option<bool>,
    /// The number of bytes. `None` for a pipe.
    pub(crate) size: Option<u64>,
}

/// The lines of an input, which are not necessarily text.
pub(crate) struct Lines {
    reader: BufReader<Box<dyn AsyncRead + Unpin>>,
    number: u64,
    bytes: u64,
    is_cut: bool,
}

impl Lines {
    fn new(reader: Box<dyn AsyncRead + Unpin>) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, reader), number: 0, bytes: 0, is_cut: false }
    }

    /// Returns the next line without its line feed.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut line = Vec::new();
        let read = (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes += read as u64;
        if read as u64 == MAX_LINE {
            return Err(Failure::data(format!("line {} has more than {} MiB", self.number, MAX_LINE >> 20)));
        }
        self.is_cut = !line.ends_with(b"\n");
        line.truncate(line.strip_suffix(b"\n").map_or(line.len(), <[u8]>::len));
        Ok(Some(line))
    }

    /// Returns the number of the last line. The first line is 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the last line has no line feed, so that its end may be missing.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Returns the number of bytes up to the end of the last line.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Opens a file, or stdin.
pub(crate) fn open(app: &App, path: Option<&Path>) -> Result<Input, Failure> {
    let file = match path.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let opened = File::open(path);
            Some(opened.map_err(|error| Failure::not_found(format!("`{}`: {error}", path.display())))?)
        }
        None => stdin_file(),
    };
    let Some(mut file) = file else {
        if std::io::stdin().is_terminal() {
            app.out.note("reading the export from the terminal; name a file, or use `< FILE`");
        }
        return Ok(Input { lines: Lines::new(Box::new(tokio::io::stdin())), is_complete: None, size: None });
    };
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        let name = path.map(|path| path.display().to_string()).unwrap_or_default();
        return Err(Failure::usage(format!("`{name}` is a directory")));
    }
    // A named pipe has no end before it is read.
    let is_complete = if metadata.is_file() { Some(has_end(&mut file)?) } else { None };
    let lines = Lines::new(Box::new(tokio::fs::File::from_std(file)));
    Ok(Input { lines, is_complete, size: metadata.is_file().then_some(metadata.len()) })
}

/// Returns stdin as a file, if it is one.
#[cfg(unix)]
fn stdin_file() -> Option<File> {
    use std::os::fd::AsFd;
    let file = File::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
    file.metadata().ok()?.is_file().then_some(file)
}

#[cfg(not(unix))]
fn stdin_file() -> Option<File> {
    None
}

/// Whether the last line is an end line. Leaves the position as it was.
fn has_end(file: &mut File) -> Result<bool, Failure> {
    let (start, size) = (file.stream_position()?, file.metadata()?.len());
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(size.saturating_sub(MAX_END)))?;
    file.take(MAX_END).read_to_end(&mut tail)?;
    file.seek(SeekFrom::Start(start))?;
    let text = String::from_utf8_lossy(&tail);
    let is_whole = text.ends_with('\n');
    let last = text.trim_end().lines().last().and_then(|line| Json::parse(line.as_bytes()).ok());
    Ok(is_whole && last.is_some_and(|line| line.get("type").and_then(Json::text) == Some("end")))
}
