//! A server process of a peer, with a temporary directory.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs};

use tokio::net::TcpStream;

/// The number of attempts until a server must listen, 50 ms apart.
const ATTEMPTS: u32 = 200;

/// A shell script that runs its arguments until its input ends, which it does when this process ends for any reason.
/// Then the script removes its directory.
const GUARD: &str = r#"trap '' INT TERM; "$@" & server=$!; read end; kill -9 $server; wait $server; rm -rf "$PWD""#;

/// A running server. Dropping it kills the process and removes its directory.
#[derive(Debug)]
pub(crate) struct Process {
    guard: Child,
}

impl Process {
    /// Starts a program in a new directory.
    pub(crate) fn start(program: &str, arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("kvtyped-peers-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("the directory can be created");
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh", program]).args(arguments(&dir)).current_dir(&dir).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // `etcd` also reads its options from the environment.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        Self { guard: command.spawn().expect("a shell starts") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
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
