//! The lock file: one process at a time, and the mark of the last durable effect.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::crc::Crc;

/// The length of the mark in the file. The text about the process follows.
const MARK_LENGTH: usize = 80;

/// A held lock file. The kernel releases the lock when the process ends.
#[derive(Debug)]
pub(super) struct LockFile {
    file: File,
    mark: Option<Mark>,
}

/// The last effect that was certainly durable.
///
/// SQLite ignores everything behind damage in its WAL, without an error. A file that ends before its mark has lost
/// effects. The mark is not synced, so it may be old after a loss of power. It is never ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The store.
    pub(super) store: [u8; 16],
    /// The number of the effect.
    pub(super) seq: i64,
}

/// The reason why a lock is not available.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process has it. A text about that process.
    InUse(String),
    Io(io::Error),
}

impl LockFile {
    /// Locks the file, and creates it if necessary.
    pub(super) fn acquire(path: &Path, mode: u32) -> Result<Self, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = super::paths::with_mode(&mut options, mode).open(path).map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::InUse(holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        let mark = read(&mut file).ok().and_then(|bytes| Mark::parse(&bytes));
        let mut lock = Self { file, mark };
        match lock.write_holder() {
            // Without the text, the lock is held, too. A store on a full disk is readable.
            Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(LockError::Io(error)),
            _ => Ok(lock),
        }
    }

    /// Returns the mark that the file had when it was locked.
    pub(super) fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Writes the mark, without a sync.
    pub(super) fn write_mark(&mut self, mark: Mark) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&mark.to_bytes())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn write_holder(&mut self) -> io::Result<()> {
        let host = host().map_or_else(String::new, |host| format!(" on host {host}"));
        let text = format!("process {}{host}\n", std::process::id());
        if self.file.metadata()?.len() < MARK_LENGTH as u64 {
            let mut empty = [b' '; MARK_LENGTH];
            empty[MARK_LENGTH - 1] = b'\n';
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&empty)?;
        }
        self.file.seek(SeekFrom::Start(MARK_LENGTH as u64))?;
        self.file.write_all(text.as_bytes())?;
        self.file.set_len((MARK_LENGTH + text.len()) as u64)
    }
}

impl Drop for LockFile {
    /// Releases the lock at once. Closing the file alone would not: a process that another thread is starting has a
    /// copy of the descriptor for a moment.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Mark {
    fn to_bytes(self) -> [u8; MARK_LENGTH] {
        let mut bytes = [b' '; MARK_LENGTH];
        let text = format!("mark {:032x} {:019} {:08x}", u128::from_be_bytes(self.store), self.seq, self.crc());
        for (byte, letter) in bytes.iter_mut().zip(text.bytes()) {
            *byte = letter;
        }
        bytes[MARK_LENGTH - 1] = b'\n';
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes.get(..MARK_LENGTH)?).ok()?;
        let mut words = text.split_ascii_whitespace();
        let ("mark", store, seq, crc) = (words.next()?, words.next()?, words.next()?, words.next()?) else {
            return None;
        };
        let store = u128::from_str_radix(store, 16).ok()?.to_be_bytes();
        let mark = Self { store, seq: seq.parse().ok()? };
        (mark.crc() == i64::from_str_radix(crc, 16).ok()?).then_some(mark)
    }

    fn crc(self) -> i64 {
        Crc::new().bytes(&self.store).integer(Some(self.seq)).end()
    }
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(1024).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the text about the process that holds the lock.
fn holder(file: &mut File) -> String {
    let text = read(file).ok().and_then(|bytes| String::from_utf8(bytes.get(MARK_LENGTH..)?.to_vec()).ok());
    let line = text.as_deref().and_then(|text| text.lines().next()).filter(|line| line.starts_with("process "));
    line.unwrap_or("another process").to_owned()
}

/// Returns the name of this host.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok()).or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_mark_is_no_mark() {
        let mark = Mark { store: [7; 16], seq: 1_234_567 };
        let bytes = mark.to_bytes();
        assert_eq!(Mark::parse(&bytes), Some(mark));
        assert_eq!(Mark::parse(&[]), None);
        assert_eq!(Mark::parse(&[0; MARK_LENGTH]), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            // Blanks may change.
            assert!(Mark::parse(&damaged).is_none_or(|read| read == mark), "byte {at}");
        }
    }
}
