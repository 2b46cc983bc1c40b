//! The operating system process of one server: start, signals and log.

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

/// Writes the process id to a file for the watchdog, then executes the server.
const LAUNCH: &str = r#"echo $$ >"$0/pid" || exit 1; exec "$@""#;

/// The time limit for a server to exit after SIGTERM, or to stop after SIGSTOP.
const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// A server's directory and, while it runs, its process. It is bound to no runtime, so it can be stored in a static.
#[derive(Debug)]
pub(crate) struct Process {
    dir: PathBuf,
    /// The version of the program; `None` for the default version.
    version: Option<String>,
    /// The network namespace of the server; `None` for that of the test process.
    netns: Option<String>,
    child: Option<Child>,
}

impl Process {
    /// Creates an empty directory for a server, without starting it.
    pub(crate) fn new(version: Option<String>, netns: Option<String>) -> Self {
        Self { dir: fresh_dir(watchdog::root(), "server"), version, netns, child: None }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("server.conf")
    }

    /// Returns the log of the server, over all its starts.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).unwrap_or_default()).into_owned()
    }

    /// Sets the version for the next start.
    pub(crate) fn set_version(&mut self, version: Option<String>) {
        self.version = version;
    }

    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        let log = File::options().create(true).append(true).open(self.dir.join("log")).expect("the log opens");
        let child = Command::new("sh")
            .args(["-c", LAUNCH])
            .arg(&self.dir)
            // `ip netns exec` keeps the process id.
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

    /// Returns whether the server is down, killed or exited.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = self.child.as_mut().is_none_or(|child| child.try_wait().expect("our child").is_some());
        if ended {
            self.reap();
        }
        ended
    }

    /// Sends SIGKILL. Does nothing if the server is down.
    pub(crate) fn kill(&mut self) {
        // No SIGCONT before SIGKILL: a frozen server must not execute anything more.
        self.signal(Signal::KILL);
        self.signal(Signal::CONT);
        self.reap();
    }

    /// Sends SIGTERM. Kills the server and panics if it does not exit in time.
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        let end = Instant::now() + IDLE_LIMIT;
        while !self.has_ended() {
            if Instant::now() > end {
                self.kill();
                panic!("the server did not heed SIGTERM within {IDLE_LIMIT:?}");
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Sends SIGSTOP and waits until every thread is stopped.
    pub(crate) fn freeze(&mut self) {
        let tasks = format!("/proc/{}/task", self.pid());
        self.signal(Signal::STOP);
        let end = Instant::now() + IDLE_LIMIT;
        while any_moves(Path::new(&tasks)) {
            assert!(Instant::now() < end, "the server did not stop within {IDLE_LIMIT:?}");
            sleep(Duration::from_millis(1));
        }
    }

    /// Sends SIGCONT.
    pub(crate) fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGHUP, so that the server reloads its configuration.
    pub(crate) fn reload(&mut self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // The process id is not reused before the child is waited for, even if it is dead.
            kill_process(Pid::from_child(child), signal).expect("a child takes signals");
        }
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The file must be removed before the process id can be reused.
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

/// Returns whether any thread is not stopped. Returns `false` on systems without `/proc`.
fn any_moves(tasks: &Path) -> bool {
    let Ok(threads) = fs::read_dir(tasks) else {
        return false;
    };
    threads.flatten().any(|thread| {
        // The format is "id (name) state ...", and the name may contain any character.
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('T'))
    })
}

/// Locks the process. Ignores poisoning: a test that panics under the lock leaves the process in a valid state.
pub(crate) fn lock(process: &Mutex<Process>) -> MutexGuard<'_, Process> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}
