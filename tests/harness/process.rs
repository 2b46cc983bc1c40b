//! The operating system's side of one server: its process, signals and log.

use crate::paths::fresh_dir;
use crate::{binary, watchdog};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Leaves the process id for the watchdog, then becomes the server.
const LAUNCH: &str = r#"echo $$ >"$0/pid" || exit 1; exec "$@""#;

/// How long a server may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// A server's folder and, while it runs, its process. Bound to no runtime, so
/// that it can live in a static.
#[derive(Debug)]
pub(crate) struct Process {
    dir: PathBuf,
    /// The version of the program; that of all others if there is none.
    version: Option<String>,
    /// The network namespace in which it runs, if not in ours.
    netns: Option<String>,
    child: Option<Child>,
}

impl Process {
    /// A server that is not started yet, with an empty folder.
    pub(crate) fn new(version: Option<String>, netns: Option<String>) -> Self {
        Self { dir: fresh_dir(watchdog::root(), "server"), version, netns, child: None }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("server.conf")
    }

    /// All that the server has logged, over all its starts.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).unwrap_or_default()).into_owned()
    }

    /// From the next start on it is a server of this version.
    pub(crate) fn set_version(&mut self, version: Option<String>) {
        self.version = version;
    }

    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        let log = File::options().create(true).append(true).open(self.dir.join("log")).expect("the log opens");
        let child = Command::new("sh")
            .args(["-c", LAUNCH])
            .arg(&self.dir)
            // Keeps the process id.
            .args(self.netns.iter().flat_map(|netns| ["ip", "netns", "exec", netns]))
            .arg(self.version.as_deref().map_or_else(binary::nats_server, binary::nats_server_of))
            .arg("-c")
            .arg(self.config())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log's handle can be copied"))
            .stderr(log)
            .spawn()
            .expect("sh starts");
        self.child = Some(child);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server is down").id()
    }

    /// Whether the server is down, be it killed or ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = self.child.as_mut().is_none_or(|child| child.try_wait().expect("our child").is_some());
        if ended {
            self.reap();
        }
        ended
    }

    /// SIGKILL; nothing happens to a server that is down.
    pub(crate) fn kill(&mut self) {
        // Not preceded by SIGCONT: a frozen server must not do one thing more.
        self.signal(Signal::KILL);
        self.signal(Signal::CONT);
        self.reap();
    }

    /// SIGTERM, and SIGKILL when the server does not heed it.
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        let end = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() > end {
                self.kill();
                panic!("the server did not heed SIGTERM within {PATIENCE:?}");
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// SIGSTOP, and waits until every thread stands still.
    pub(crate) fn freeze(&mut self) {
        let tasks = format!("/proc/{}/task", self.pid());
        self.signal(Signal::STOP);
        let end = Instant::now() + PATIENCE;
        while any_moves(Path::new(&tasks)) {
            assert!(Instant::now() < end, "the server did not stop within {PATIENCE:?}");
            sleep(Duration::from_millis(1));
        }
    }

    /// SIGCONT.
    pub(crate) fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGHUP, so that the server reloads its configuration.
    pub(crate) fn reload(&mut self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // The id stays ours until the child is waited for, even if dead.
            kill_process(Pid::from_child(child), signal).expect("a child takes signals");
        }
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Before the id can pass to another process.
            let _ = fs::remove_file(self.dir.join("pid"));
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether a thread is not stopped; `false` where there is no `/proc`.
fn any_moves(tasks: &Path) -> bool {
    let Ok(threads) = fs::read_dir(tasks) else {
        return false;
    };
    threads.flatten().any(|thread| {
        // "id (name) state ...", and the name may hold anything.
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('T'))
    })
}

/// A test that panics while it holds the lock leaves the process as it was.
pub(crate) fn lock(process: &Mutex<Process>) -> MutexGuard<'_, Process> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}
