//! The open files of this process.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::control::{BackupRequest, Control};
use super::load::Progress;
use super::open::open as open_file;
use super::options::FileOptions;
use super::paths::Paths;
use crate::backend::local::backend::LocalBackend;
use crate::backend::local::shared::LocalShared;
use crate::error::{Error, Result};

/// An open file with its thread. Backends of the same file share it.
pub(super) struct OpenFile {
    backend: LocalBackend,
    control: Arc<Control>,
    options: FileOptions,
    paths: Paths,
    /// The number of backends that are not closed.
    users: AtomicUsize,
}

type Registry = HashMap<PathBuf, Arc<tokio::sync::Mutex<Weak<OpenFile>>>>;

/// The open files by path. The lock of an entry is held during an open.
fn registry() -> MutexGuard<'static, Registry> {
    static OPEN: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a file, or returns the open file of this path.
pub(super) async fn open(options: FileOptions) -> Result<Arc<OpenFile>> {
    if cfg!(not(unix)) && options.mode.is_some() {
        return Err(Error::invalid_config("`mode` is a permission of Unix, and this system has none"));
    }
    let paths = Paths::new(&options.path)?;
    let slot = {
        let mut registry = registry();
        registry.retain(|path, slot| *path == paths.main || Arc::strong_count(slot) > 1 || is_used(slot));
        Arc::clone(registry.entry(paths.main.clone()).or_default())
    };
    let timeout = options.timeout;
    let opening = async {
        let mut open = slot.lock().await;
        if let Some(file) = open.upgrade()
            && file.join()
        {
            if !options.is_compatible(&file.options) {
                file.release();
                let name = paths.name();
                return Err(Error::invalid_config(format!("`{name}` is open in this process with other options")));
            }
            return Ok(file);
        }
        let file = Arc::new(OpenFile::start(options, paths).await?);
        *open = Arc::downgrade(&file);
        Ok(file)
    };
    // The thread ends its own waits earlier, with a better reason.
    tokio::time::timeout(timeout, opening).await.unwrap_or_else(|_| Err(Error::timeout(timeout)))
}

fn is_used(slot: &tokio::sync::Mutex<Weak<OpenFile>>) -> bool {
    slot.try_lock().map_or(true, |open| open.strong_count() > 0)
}

/// Tells the thread that nobody waits for the open any more.
struct CancelOnDrop(Arc<Progress>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

impl OpenFile {
    /// Starts the thread, and waits until it has opened the file.
    async fn start(options: FileOptions, paths: Paths) -> Result<Self> {
        let (control, progress) = (Arc::new(Control::new()), Arc::new(Progress::default()));
        let (reply, opened) = oneshot::channel::<Result<LocalShared>>();
        let thread = {
            let (options, paths) = (options.clone(), paths.clone());
            let (control, progress) = (Arc::clone(&control), Arc::clone(&progress));
            let runtime = Handle::try_current().ok();
            move || {
                // The thread has the clock of the caller, which a test may pause.
                let _clock = runtime.as_ref().map(Handle::enter);
                match open_file(&options, &paths, &progress) {
                    Ok(mut journal) => {
                        journal.expire();
                        // If the caller gave up, the shared part is dropped, which closes the journal.
                        let _ = reply.send(Ok(journal.shared()));
                        journal.run(&control);
                    }
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
        };
        let spawned = std::thread::Builder::new().name("kvtyped-file".to_owned()).spawn(thread);
        spawned.map_err(|error| Error::unavailable(format!("no thread for `{}`: {error}", paths.name())))?;
        let _cancel = CancelOnDrop(Arc::clone(&progress));
        let patience = options.timeout.saturating_sub(options.timeout / 16);
        let shared = match tokio::time::timeout(patience, opened).await {
            Ok(Ok(shared)) => shared?,
            Ok(Err(_)) => return Err(Error::unavailable(format!("the thread of `{}` panicked", paths.name()))),
            Err(_) => {
                let rows = progress.rows.load(Ordering::Relaxed);
                return Err(Error::unavailable(format!(
                    "`{}` did not open within {:?}, and {rows} rows are loaded; raise the timeout",
                    paths.name(),
                    options.timeout
                )));
            }
        };
        let describe = {
            let paths = paths.clone();
            move || {
                let size = |path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
                serde_json::json!({ "file": paths.name(), "file_bytes": size(&paths.main), "wal_bytes": size(&paths.wal) })
            }
        };
        let backend = LocalBackend::over(shared.describe_by(describe), "file");
        Ok(Self { backend, control, options, paths, users: AtomicUsize::new(1) })
    }

    pub(super) fn backend(&self) -> &LocalBackend {
        &self.backend
    }

    pub(super) fn name(&self) -> String {
        self.paths.name()
    }

    /// Adds a user. Returns `false` if the file is closed, or has failed.
    fn join(&self) -> bool {
        let add = |users: usize| (users > 0).then_some(users + 1);
        !self.control.is_closed()
            && self.users.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    /// Removes a user. Returns whether it was the last one.
    pub(super) fn release(&self) -> bool {
        self.users.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Sends a request to the thread.
    pub(super) fn request(&self, request: BackupRequest) {
        self.control.push(request);
        if self.control.is_closed() {
            // Drops the request, so that its caller sees an error.
            drop(self.control.next());
        }
        self.backend.wake_writer();
    }

    /// Closes the log, and waits until the thread has closed the file.
    pub(super) async fn close(&self) -> Result<()> {
        self.backend.close_log();
        self.control.wait_closed().await.map_err(Error::unavailable)
    }
}
