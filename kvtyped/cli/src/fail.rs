//! Exit codes, and errors as messages and objects.

use std::fmt;
use std::fs;
use std::io;
use std::process::ExitCode;

use kvtyped::{Error, ErrorKind, Outcome};

use crate::json::{Json, object};
use crate::remedy::translate;
use crate::writes::Writes;

/// An exit code of the tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Success,
    /// The answer is no: two records differ, a check has findings.
    No,
    Usage,
    NotFound,
    /// A conflict: another writer, another holder, other settings.
    Conflict,
    Denied,
    /// Unavailable or too late. Nothing was applied, so a retry is safe.
    NotApplied,
    /// The write may have been applied. Look before a retry.
    Unknown,
    Unsupported,
    /// Undecodable, invalid or too large data.
    Data,
    /// Refused for safety: read-only, or not confirmed.
    Refused,
    Interrupted,
    /// The exit code of a command that the tool ran, or of `lock run`.
    Other(u8),
}

/// The result of a command.
pub(crate) type Done = Result<Code, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// The name of the error kind, in snake case.
    kind: String,
    /// Whether the write was applied.
    outcome: Outcome,
    message: String,
    hint: Option<String>,
}

/// The exit code of each error kind of the library, if nothing was applied.
const CODES: &[(&str, Code)] = &[
    ("conflict", Code::Conflict),
    ("already_exists", Code::Conflict),
    ("not_unique", Code::Conflict),
    ("not_found", Code::NotFound),
    ("key_changed", Code::Data),
    ("retries_exhausted", Code::Conflict),
    ("out_of_range", Code::Data),
    ("aborted", Code::Conflict),
    ("decode", Code::Data),
    ("newer", Code::Data),
    ("too_old", Code::Data),
    ("schema_differs", Code::Data),
    ("schema_moved", Code::Conflict),
    ("epoch_moved", Code::Conflict),
    ("index_building", Code::NotApplied),
    ("invalid", Code::Data),
    ("rejected", Code::Data),
    ("bucket_replaced", Code::Conflict),
    ("encode", Code::Data),
    ("invalid_key", Code::Usage),
    ("invalid_config", Code::Usage),
    ("bucket_not_found", Code::NotFound),
    ("bucket_exists", Code::Conflict),
    ("drift", Code::Conflict),
    ("invalid_batch", Code::Data),
    ("too_large", Code::Data),
    ("bucket_full", Code::NotApplied),
    ("limit_reached", Code::NotApplied),
    ("unsupported", Code::Unsupported),
    ("permission_denied", Code::Denied),
    ("unauthorized", Code::Denied),
    ("timeout", Code::NotApplied),
    ("tls", Code::Denied),
    ("unavailable", Code::NotApplied),
    ("in_use", Code::NotApplied),
    ("damaged", Code::Data),
    ("lost", Code::Conflict),
    ("fenced", Code::Conflict),
    ("fingerprint_mismatch", Code::Conflict),
    ("closed", Code::NotApplied),
    ("backend", Code::NotApplied),
];

impl Code {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Denied => 5,
            Self::NotApplied => 6,
            Self::Unknown => 7,
            Self::Unsupported => 8,
            Self::Data => 9,
            Self::Refused => 10,
            Self::Interrupted => 130,
            Self::Other(code) => code,
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}

impl Failure {
    fn new(code: Code, kind: &str, message: impl Into<String>) -> Self {
        Self { code, kind: kind.to_owned(), outcome: Outcome::NotApplied, message: message.into(), hint: None }
    }

    /// A wrong argument.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, "usage", message)
    }

    /// A command that is refused for safety.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Code::Refused, "refused", message)
    }

    /// Data that cannot be read or written.
    pub(crate) fn data(message: impl Into<String>) -> Self {
        Self::new(Code::Data, "data", message)
    }

    /// A record, file or context that does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, "not_found", message)
    }

    /// Something that the bucket or the server does not support.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Code::Unsupported, "unsupported", message)
    }

    /// Another writer or holder came first.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(Code::Conflict, "conflict", message)
    }

    /// A timeout of the tool itself.
    pub(crate) fn late(message: impl Into<String>) -> Self {
        Self::new(Code::NotApplied, "timeout", message)
    }

    /// An error of a local file or program.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::new(Code::NotApplied, "local", message)
    }

    /// The signal of a user who interrupts the tool.
    pub(crate) fn interrupted(code: Code) -> Self {
        Self::new(code, "interrupted", "interrupted")
    }

    /// Adds the number and outcome of the writes of the command, if a user interrupted it, or if a local file or the output
    /// failed.
    pub(crate) fn with_writes(mut self, writes: &Writes) -> Self {
        let is_local = self.kind == "local";
        if is_local && (writes.applied() > 0 || writes.is_unknown()) {
            (self.code, self.outcome) = (Code::Unknown, Outcome::Unknown);
            self.message.push_str("; the command has written before that");
            return self.hint("see what is stored before you repeat the command");
        }
        if self.kind != "interrupted" {
            return self;
        }
        let applied = match writes.applied() {
            0 => "nothing was written".to_owned(),
            1 => "one write was applied".to_owned(),
            count => format!("{count} writes were applied"),
        };
        match writes.is_unknown() {
            true => {
                self.outcome = Outcome::Unknown;
                self.message =
                    format!("interrupted while writes were under way, which may be applied; before them, {applied}");
                self.hint(UNKNOWN)
            }
            false => {
                self.message = format!("interrupted; {applied}");
                self
            }
        }
    }

    /// Returns the hint.
    pub(crate) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether another process has the file of the store open.
    pub(crate) fn is_in_use(&self) -> bool {
        self.kind == "in_use"
    }

    /// Adds what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Replaces the exit code.
    pub(crate) fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// Adds the command or record in front of the message.
    pub(crate) fn context(mut self, context: &str) -> Self {
        // The message names the file already.
        if self.is_in_use() {
            return self;
        }
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// Whether the reader of the output closed the pipe, which is no failure.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.kind == "closed_pipe"
    }

    /// Returns the message, without the hint.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Returns the error as an object.
    pub(crate) fn json(&self) -> Json {
        let outcome = match self.outcome {
            Outcome::NotApplied => "not_applied",
            Outcome::Unknown => "unknown",
        };
        object! {
            "v" => 1u8,
            "type" => "error",
            "kind" => self.kind.as_str(),
            "exit" => self.code.number(),
            "outcome" => outcome,
            "message" => self.message.as_str(),
            "hint" => self.hint.as_deref(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Returns the exit code of an error.
fn code_of(error: &Error) -> Code {
    if error.outcome() == Outcome::Unknown {
        return Code::Unknown;
    }
    let name = error.kind().name();
    CODES.iter().find(|(kind, _)| *kind == name).map_or(Code::NotApplied, |(_, code)| *code)
}

/// What to do about a write whose outcome is unknown.
const UNKNOWN: &str = "the write may have been applied; read the record with `kvtyped get` before you repeat it";

/// Returns what to do about a file that this process has open: `process 12 on host a`.
fn in_use(process: &str) -> String {
    let name = name_of(process).map(|name| format!("it is `{name}`; ")).unwrap_or_default();
    format!(
        "{name}one process at a time can open the file; wait until that process ends, or stop it, for example with \
         `kill`, and repeat the command"
    )
}

/// Returns the program of a process of this host.
fn name_of(process: &str) -> Option<String> {
    let (id, host) = process.strip_prefix("process ")?.split_once(" on host ")?;
    let id: u32 = id.parse().ok()?;
    let is_here = fs::read_to_string("/proc/sys/kernel/hostname").is_ok_and(|name| name.trim() == host);
    let name = fs::read_to_string(format!("/proc/{id}/comm")).ok().filter(|_| is_here)?;
    Some(name.trim().to_owned())
}

/// Returns the remedy with this tool. The messages of the library name its functions.
fn hint_of(error: &Error) -> Option<String> {
    let hint = match (error.outcome(), error.kind()) {
        (Outcome::Unknown, _) => Some(UNKNOWN),
        (_, ErrorKind::BucketNotFound) => Some("list the buckets with `kvtyped buckets`"),
        (_, ErrorKind::NotFound) => Some("list the keys with `kvtyped ls BUCKET`"),
        (_, ErrorKind::Conflict { .. }) => Some("read the record again with `kvtyped get`"),
        (_, ErrorKind::Unauthorized) => Some("see the credentials with `kvtyped context show`"),
        (_, ErrorKind::Unavailable { .. }) => Some("find the cause with `kvtyped doctor`"),
        (_, ErrorKind::InUse { process, .. }) => return Some(in_use(process)),
        _ => None,
    };
    hint.map(str::to_owned)
}

/// Returns the message of an error in the words of the tool.
pub(crate) fn message_of(error: &Error) -> String {
    match (error.kind(), error.bucket()) {
        (ErrorKind::BucketNotFound, Some(bucket)) => format!("bucket `{bucket}` does not exist"),
        _ => translate(&error.report(), error.bucket()),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: code_of(&error),
            kind: error.kind().name(),
            outcome: error.outcome(),
            message: message_of(&error),
            hint: hint_of(&error),
        }
    }
}

impl From<kvtyped::key::KeyError> for Failure {
    fn from(error: kvtyped::key::KeyError) -> Self {
        // The library names its types as a remedy.
        let message = error.to_string().replace("; use a typed key, which escapes it", "");
        Self::new(Code::Usage, "invalid_key", message).hint(
            "write a key as `kvtyped ls` prints it: `a.b` as one segment is `a=2Eb`. In a filter, `*` is a whole segment, \
             and `>` is all segments that follow: `acme.*`, `acme.>`",
        )
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Code::Success, "closed_pipe", "the output was closed"),
            _ => Self::local(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the names of the variants in the source of the library.
    fn kinds() -> Vec<String> {
        let source = include_str!("../../src/error/kind.rs");
        let body = source.split("pub enum ErrorKind {").nth(1).and_then(|rest| rest.split("\n}\n").next());
        let lines = body.expect("the enum").lines().filter_map(|line| line.strip_prefix("    "));
        let variants = lines.filter(|line| line.starts_with(|letter: char| letter.is_ascii_uppercase()));
        let snake = |name: &str| {
            let mut snake = String::new();
            for letter in name.trim_end_matches([',', '{', ' ']).chars() {
                if letter.is_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.extend(letter.to_lowercase());
            }
            snake
        };
        variants.map(snake).collect()
    }

    #[test]
    fn every_error_kind_has_one_exit_code() {
        let kinds = kinds();
        assert!(kinds.len() > 30, "{kinds:?}");
        let listed: Vec<_> = CODES.iter().map(|(kind, _)| (*kind).to_owned()).collect();
        assert_eq!(listed, kinds, "`CODES` lists the kinds in the order of the library");
    }

    #[test]
    fn names_in_the_table_are_those_of_the_library() {
        for (kind, code) in [
            (ErrorKind::AlreadyExists, Code::Conflict),
            (ErrorKind::BucketNotFound, Code::NotFound),
            (ErrorKind::InUse { file: "a".into(), process: "b".into() }, Code::NotApplied),
            (ErrorKind::TooLarge { size: None, limit: None }, Code::Data),
        ] {
            assert_eq!(code_of(&Error::new(kind)), code);
        }
    }

    #[test]
    fn unknown_outcome_has_its_own_code() {
        let error = Error::new(ErrorKind::Timeout { after: std::time::Duration::from_secs(1) });
        assert_eq!(Failure::from(error).code, Code::NotApplied);
        let error = Error::new(ErrorKind::Timeout { after: std::time::Duration::from_secs(1) }).unknown_outcome();
        let failure = Failure::from(error);
        assert_eq!(failure.code, Code::Unknown);
        assert_eq!(failure.json().get("outcome").and_then(Json::text), Some("unknown"));
    }
}
