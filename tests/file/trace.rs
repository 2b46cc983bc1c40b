//! The calls of a process on its files, recorded with `strace`, and the files that a loss of power may leave.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// One call, in the order of the trace.
#[derive(Debug)]
pub(crate) enum Call {
    Create {
        file: String,
    },
    Write {
        file: String,
        at: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        file: String,
        length: u64,
    },
    Sync {
        file: String,
    },
    Remove {
        file: String,
    },
    /// A line on the standard output.
    Print(String),
}

/// Returns whether `strace` can trace processes here.
pub(crate) fn is_available() -> bool {
    let traced = std::process::Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let is_available = traced.is_ok_and(|output| output.status.success());
    if !is_available {
        eprintln!("NOT DONE: `strace` cannot trace processes here");
    }
    is_available
}

/// The arguments of `strace` that record everything that [`parse`] reads.
pub(crate) fn arguments(trace: &str) -> Vec<&str> {
    let calls = "trace=openat,pwrite64,write,lseek,fsync,fdatasync,ftruncate,unlink,unlinkat,close,rename";
    vec!["strace", "-f", "-xx", "-s", "2000000", "-e", calls, "-o", trace]
}

/// Reads a trace: the calls on files in this folder, by their names.
pub(crate) fn parse(trace: &Path, folder: &Path) -> Vec<Call> {
    let text = fs::read_to_string(trace).expect("the trace is text");
    let mut reader =
        Reader { folder: folder.to_str().expect("a text").trim_end_matches('/').to_owned(), ..Reader::default() };
    for line in text.lines() {
        let (process, call) = line.split_once(' ').expect("a process and its call");
        reader.line(process, call.trim_start());
    }
    reader.calls
}

#[derive(Default)]
struct Reader {
    folder: String,
    /// The name and the position of each descriptor.
    open: HashMap<i64, (String, u64)>,
    unfinished: HashMap<String, String>,
    calls: Vec<Call>,
}

impl Reader {
    fn line(&mut self, process: &str, line: &str) {
        if let Some(rest) = line.strip_prefix("<... ") {
            let begin = self.unfinished.remove(process).unwrap_or_default();
            let end = rest.split_once(" resumed>").map_or("", |(_, end)| end);
            self.finished(&format!("{begin}{end}"));
        } else if let Some(begin) = line.strip_suffix("<unfinished ...>") {
            // The parent may read the text before the call ends.
            if begin.starts_with("write(1,") {
                self.finished(&format!("{begin}) = 0"));
            } else {
                self.unfinished.insert(process.to_owned(), begin.trim_end().to_owned());
            }
        } else {
            self.finished(line);
        }
    }

    fn finished(&mut self, line: &str) {
        let Some((name, rest)) = line.split_once('(') else { return };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return };
        let arguments = arguments.trim_end().trim_end_matches(')');
        let result: i64 = result.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(-1);
        if result < 0 {
            return;
        }
        let parts: Vec<_> = arguments.split(", ").collect();
        let number = |index: usize| parts.get(index).and_then(|part| part.parse::<i64>().ok()).unwrap_or(-1);
        let file = self.open.get(&number(0)).map(|(name, _)| name.clone());
        match (name, file) {
            ("openat", _) => {
                let path = String::from_utf8(unescape(parts[1])).unwrap_or_default();
                self.open.remove(&result);
                if let Some(file) = self.name(&path) {
                    self.open.insert(result, (file.clone(), 0));
                    if parts[2].contains("O_CREAT") {
                        self.calls.push(Call::Create { file });
                    }
                }
            }
            ("close", _) => drop(self.open.remove(&number(0))),
            ("lseek", Some(_)) => {
                if let Some((_, position)) = self.open.get_mut(&number(0)) {
                    *position = result.unsigned_abs();
                }
            }
            ("pwrite64", Some(file)) => {
                let at = parts.last().and_then(|part| part.parse().ok()).expect("a position");
                let bytes = unescape(parts[1]);
                assert_eq!(bytes.len() as i64, result, "the trace has all bytes");
                self.calls.push(Call::Write { file, at, bytes });
            }
            ("write", Some(file)) => {
                let bytes = unescape(parts[1]);
                let position = self.open.get_mut(&number(0)).map(|(_, position)| position).expect("the file is open");
                let at = *position;
                *position += bytes.len() as u64;
                self.calls.push(Call::Write { file, at, bytes });
            }
            ("write", None) if number(0) == 1 => {
                self.calls.push(Call::Print(String::from_utf8_lossy(&unescape(parts[1])).into_owned()));
            }
            ("ftruncate", Some(file)) => {
                self.calls.push(Call::Truncate { file, length: number(1).unsigned_abs() });
            }
            ("fsync" | "fdatasync", Some(file)) => self.calls.push(Call::Sync { file }),
            ("unlink" | "unlinkat", _) => {
                let path = parts.iter().find(|part| part.starts_with('"')).map(|part| unescape(part));
                let path = String::from_utf8(path.unwrap_or_default()).unwrap_or_default();
                if let Some(file) = self.name(&path) {
                    self.calls.push(Call::Remove { file });
                }
            }
            _ => {}
        }
    }

    fn name(&self, path: &str) -> Option<String> {
        Some(path.strip_prefix(&self.folder)?.strip_prefix('/')?.to_owned())
    }
}

/// Decodes `"\x61\x62"`.
fn unescape(text: &str) -> Vec<u8> {
    let digits = text.trim_start_matches('"').trim_end_matches("...").trim_end_matches('"');
    digits.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16).expect("hexadecimal digits")).collect()
}

/// The files of a computer that lost power.
#[derive(Default)]
pub(crate) struct Disk {
    files: HashMap<String, File>,
}

#[derive(Default)]
struct File {
    /// The content at the last sync.
    synced: Vec<u8>,
    /// The changes since.
    unsynced: Vec<Change>,
    is_removed: bool,
}

enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Disk {
    /// Returns the synced files of a folder.
    pub(crate) fn of(folder: &Path) -> Self {
        let files = fs::read_dir(folder).expect("the folder is there").map(|file| {
            let file = file.expect("the file is there");
            let synced = fs::read(file.path()).expect("the file is read");
            (file.file_name().to_string_lossy().into_owned(), File { synced, ..File::default() })
        });
        Self { files: files.collect() }
    }

    pub(crate) fn apply(&mut self, call: &Call) {
        match call {
            Call::Create { file } => {
                let file = self.files.entry(file.clone()).or_default();
                if file.is_removed {
                    *file = File::default();
                }
            }
            Call::Write { file, at, bytes } => self.file(file).unsynced.push(Change::Write(*at, bytes.clone())),
            Call::Truncate { file, length } => self.file(file).unsynced.push(Change::Truncate(*length)),
            Call::Sync { file } => {
                let file = self.file(file);
                for change in std::mem::take(&mut file.unsynced) {
                    change.apply(&mut file.synced);
                }
            }
            Call::Remove { file } => self.file(file).is_removed = true,
            Call::Print(_) => {}
        }
    }

    fn file(&mut self, name: &str) -> &mut File {
        self.files.entry(name.to_owned()).or_default()
    }

    /// Writes the files that a loss of power leaves. `survives` decides about each 512 bytes that were not synced, and
    /// about each new length.
    pub(crate) fn lose_power(&self, folder: &Path, mut survives: impl FnMut() -> bool) {
        for (name, file) in &self.files {
            if file.is_removed {
                continue;
            }
            let mut content = file.synced.clone();
            for change in &file.unsynced {
                match change {
                    Change::Write(at, bytes) => {
                        for (index, sector) in bytes.chunks(512).enumerate() {
                            if survives() {
                                Change::Write(at + index as u64 * 512, sector.to_vec()).apply(&mut content);
                            }
                        }
                    }
                    Change::Truncate(length) if survives() => Change::Truncate(*length).apply(&mut content),
                    Change::Truncate(_) => {}
                }
            }
            fs::write(folder.join(name), content).expect("the file is written");
        }
    }
}

impl Change {
    fn apply(self, content: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                let (at, end) = (at as usize, at as usize + bytes.len());
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[at..end].copy_from_slice(&bytes);
            }
            Self::Truncate(length) => content.resize(length as usize, 0),
        }
    }
}
