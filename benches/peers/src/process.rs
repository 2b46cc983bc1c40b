//! A server process of a peer, with a temporary directory.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs};

use tokio::net::TcpStream;

/// The number of attempts until a server must listen, 50 ms apart.
const ATTEMPTS: u32 = 200;

/// A running server. Dropping it kills the process and removes its directory.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    dir: PathBuf,
}

impl Process {
    /// Starts a program in a new directory.
    pub(crate) fn start(program: &str, arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("kvtyped-peers-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("the directory can be created");
        let mut command = Command::new(program);
        command.args(arguments(&dir)).current_dir(&dir).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // `etcd` also reads its options from the environment.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        let child = command.spawn().expect("the program starts");
        Self { child, dir }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Returns the first line of `program --version`, or `None` if the program is not installed.
pub(crate) fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// Returns different free ports of the loopback interface.
pub(crate) fn ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a port is free"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

/// Waits until a server listens.
pub(crate) async fn listens(server: &str, port: u16) {
    for _ in 0..ATTEMPTS {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{server} does not listen on its port {port}");
}
