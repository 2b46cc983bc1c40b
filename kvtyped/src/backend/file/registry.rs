//! The open files of this process.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
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
use crate::error::{Error, ErrorKind, Result};

/// The storage system in the status of a bucket.
const BACKING_STORE: &str = "file";

/// An open file with its thread. Backends of the same file share it.
pub(super) struct OpenFile {
    /// The state, which every handle keeps alive.
    shared: Weak<LocalShared>,
    control: Arc<Control>,
    options: FileOptions,
    paths: Paths,
    users: Mutex<Users>,
}

/// The backends of an open file.
#[derive(Default)]
struct Users {
    count: usize,
    /// Whether the last backend closed the file.
    is_closed: bool,
}

/// A file, while it is open. The lock is held during an open.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<OpenFile>>>>;

/// The open files by path.
fn registry() -> MutexGuard<'static, HashMap<PathBuf, Slot>> {
    static OPEN: LazyLock<Mutex<HashMap<PathBuf, Slot>>> = LazyLock::new(Mutex::default);
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a file, or joins the open file of this path.
pub(super) async fn open(options: FileOptions) -> Result<(Arc<OpenFile>, LocalBackend)> {
    if cfg!(not(unix)) && options.mode.is_some() {
        return Err(Error::invalid_config("`mode` is a permission of Unix, and this system has none"));
    }
    if options.mode.is_some_and(|mode| !FileOptions::is_valid_mode(mode)) {
        return Err(Error::invalid_config(FileOptions::INVALID_MODE));
    }
    let paths = Paths::new(&options.path)?;
    let slot = {
        let mut registry = registry();
        registry.retain(|_, slot| Arc::strong_count(slot) > 1 || is_used(slot));
        Arc::clone(registry.entry(paths.main.clone()).or_default())
    };
    let timeout = options.timeout;
    let opening = async {
        let mut open = slot.lock().await;
        if let Some((file, backend)) = open.as_ref().and_then(|file| Some((file, file.join()?))) {
            if !options.is_compatible(&file.options) {
                file.release();
                let name = paths.name();
                return Err(Error::invalid_config(format!("`{name}` is open in this process with other options")));
            }
            return Ok((Arc::clone(file), backend));
        }
        let (file, backend) = OpenFile::start(options, paths).await?;
        let file = Arc::new(file);
        *open = Some(Arc::clone(&file));
        Ok((file, backend))
    };
    // The thread ends its own waits earlier, with a better reason.
    tokio::time::timeout(timeout, opening).await.unwrap_or_else(|_| Err(Error::timeout(timeout)))
}

/// Whether a file is open, or about to open.
fn is_used(slot: &Slot) -> bool {
    slot.try_lock().map_or(true, |open| open.as_ref().is_some_and(|file| file.shared.strong_count() > 0))
}

/// Cancels the open when its caller stops waiting.
struct CancelOnDrop(Arc<Progress>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

impl OpenFile {
    /// Starts the thread, and waits until it has opened the file.
    async fn start(options: FileOptions, paths: Paths) -> Result<(Self, LocalBackend)> {
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
                // On a busy computer, the thread may be late.
                if let Some(process) = progress.holder() {
                    return Err(Error::new(ErrorKind::InUse { file: paths.name(), process }));
                }
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
        let shared = Arc::new(shared.describe_by(describe));
        let users = Mutex::new(Users { count: 1, is_closed: false });
        let file = Self { shared: Arc::downgrade(&shared), control, options, paths, users };
        Ok((file, LocalBackend::over(shared, BACKING_STORE)))
    }

    pub(super) fn name(&self) -> String {
        self.paths.name()
    }

    /// Adds a user. Returns `None` if the file is closed, or has failed.
    fn join(&self) -> Option<LocalBackend> {
        let mut users = self.users();
        let shared = self.shared.upgrade().filter(|_| !users.is_closed && !self.control.is_closed())?;
        users.count += 1;
        Some(LocalBackend::over(shared, BACKING_STORE))
    }

    /// Removes a user whose handles may still be in use.
    pub(super) fn release(&self) {
        self.users().count -= 1;
    }

    /// Removes a user. If no other user is left, closes the file and waits until it is closed.
    pub(super) async fn close(&self, backend: &LocalBackend) -> Result<()> {
        {
            let mut users = self.users();
            users.count -= 1;
            if users.count > 0 {
                return Ok(());
            }
            users.is_closed = true;
        }
        backend.close_log();
        self.control.wait_closed().await.map_err(Error::unavailable)
    }

    /// Sends a request to the thread.
    pub(super) fn request(&self, backend: &LocalBackend, request: BackupRequest) {
        self.control.push(request);
        if self.control.is_closed() {
            // Drops the request, so that its caller sees an error.
            drop(self.control.next());
        }
        backend.wake_writer();
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
