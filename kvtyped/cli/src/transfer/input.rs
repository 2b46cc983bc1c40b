//! The input of an import.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use tokio::io::AsyncRead;

use crate::fail::Failure;

/// The longest end line, in bytes.
const MAX_END: u64 = 4_096;

/// An input, its size and its completeness.
pub(crate) struct Input {
    pub(crate) reader: Box<dyn AsyncRead + Unpin>,
    /// Whether the input has an end line. `None` for a pipe.
    pub(crate) is_complete: Option<bool>,
    /// The number of bytes. `None` for a pipe.
    pub(crate) size: Option<u64>,
}

/// Opens a file, or stdin.
pub(crate) fn open(path: Option<&Path>) -> Result<Input, Failure> {
    let file = match path {
        Some(path) => {
            let opened = File::open(path);
            Some(opened.map_err(|error| Failure::not_found(format!("`{}`: {error}", path.display())))?)
        }
        None => stdin_file(),
    };
    match file {
        Some(mut file) => {
            let (is_complete, size) = (has_end(&mut file)?, file.metadata()?.len());
            Ok(Input {
                reader: Box::new(tokio::fs::File::from_std(file)),
                is_complete: Some(is_complete),
                size: Some(size),
            })
        }
        None => Ok(Input { reader: Box::new(tokio::io::stdin()), is_complete: None, size: None }),
    }
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
    Ok(is_whole && text.trim_end().lines().last().is_some_and(|line| line.starts_with(r#"{"v":1,"type":"end""#)))
}
