//! Files with secrets, such as credentials and keys.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Escaped, Result};

/// The maximum size of a file, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// The path of a file. The content is never shown. The path is not shown either if it looks like a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretFile(PathBuf);

impl SecretFile {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.clone()
    }

    /// Reads the content of the file.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig`, which names the path and the cause, if the file cannot be read.
    pub(crate) fn read(&self, what: &str) -> Result<Vec<u8>> {
        if self.is_secret() {
            return Err(Error::invalid_config(format!(
                "a secret was given where the path of {what} is expected; write it to a file, or give it to the builder"
            )));
        }
        self.read_text()
            .map_err(|error| Error::invalid_config(format!("{what}, {self}, cannot be read: {error}")).caused_by(error))
    }

    /// Reads a file with a secret. Logs one warning for each file that every user of the machine can read.
    pub(crate) fn read_secret(&self, what: &str) -> Result<Vec<u8>> {
        let content = self.read(what)?;
        if self.is_world_readable() {
            static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
            if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(self.path()) {
                tracing::warn!(file = ?self, "every user of this machine can read {what}; run `chmod o-rwx` on it");
            }
        }
        Ok(content)
    }

    #[cfg(unix)]
    fn is_world_readable(&self) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(&self.0).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
    }

    #[cfg(not(unix))]
    fn is_world_readable(&self) -> bool {
        false
    }

    /// Refuses pipes and devices: a pipe may block forever, and a device may have no end.
    fn read_text(&self) -> io::Result<Vec<u8>> {
        let metadata = std::fs::metadata(&self.0)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(&self.0)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST {
            return Err(io::Error::other("it is larger than 1 MiB"));
        }
        Ok(bytes)
    }

    fn is_secret(&self) -> bool {
        let text = self.0.to_string_lossy();
        let text = text.trim();
        let is_seed = text.len() > 50 && text.starts_with('S') && text.chars().all(|c| c.is_ascii_alphanumeric());
        is_seed || text.contains('\n') || text.contains("BEGIN ") || text.starts_with("eyJ")
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_secret() { f.write_str("`..`") } else { write!(f, "`{}`", Escaped(&self.0.display())) }
    }
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_secret_is_not_read_as_a_path() {
        let seed = "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM";
        for secret in [seed, "eyJ0eXAiOiJKV1QifQ.e30.c2ln", "-----BEGIN NATS USER JWT-----", "a\nb"] {
            let file = SecretFile::new(secret);
            let error = file.read("the credentials file").err();
            let text = format!("{error:?} {file:?} {file}");
            assert!(error.is_some() && !text.contains(secret), "{text}");
        }
        assert!(!SecretFile::new("/etc/nats/SERVICE.creds").is_secret() && !SecretFile::new("SYS.nk").is_secret());
    }

    #[test]
    fn unreadable_file_error_names_path_and_cause() {
        let text =
            SecretFile::new("/nowhere/a.creds").read("the credentials file").err().map(|error| error.to_string());
        let text = text.unwrap_or_default();
        assert!(text.contains("`/nowhere/a.creds`") && text.contains("No such file"), "{text}");
    }

    #[test]
    fn non_regular_file_is_refused() {
        for path in ["/dev/zero", "/"] {
            let text = SecretFile::new(path).read("the credentials file").err().map(|error| error.to_string());
            assert!(text.is_some_and(|text| text.contains("not a regular file")), "{path}");
        }
    }

    /// Counts the warnings of this thread.
    struct Warnings(std::sync::Arc<std::sync::atomic::AtomicUsize>);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[cfg(unix)]
    #[test]
    fn world_readable_secret_file_is_logged_once() -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("kvtyped-secrets-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        // With a second subscriber, `tracing` asks each subscriber about every event.
        let _other = tracing::Dispatch::new(Warnings(Default::default()));
        let warned = tracing::subscriber::with_default(Warnings(count.clone()), || -> io::Result<Vec<usize>> {
            let mut warned = Vec::new();
            for (name, mode) in [("own.nk", 0o600), ("group.nk", 0o640), ("world.nk", 0o644), ("other.nk", 0o604)] {
                let path = folder.join(name);
                std::fs::write(&path, "seed")?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
                for _ in 0..3 {
                    assert!(SecretFile::new(&path).read_secret("the file of an nkey").is_ok());
                }
                assert!(SecretFile::new(&path).read("the file of certificates").is_ok());
                warned.push(count.load(std::sync::atomic::Ordering::Relaxed));
            }
            Ok(warned)
        });
        std::fs::remove_dir_all(&folder)?;
        assert_eq!(warned?, [0, 0, 1, 2]);
        Ok(())
    }
}
