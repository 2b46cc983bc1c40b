//! One real server on a free loopback port, with its own store.

mod builder;

use crate::process::{Process, lock};
use crate::{raw_client, wait};
use serde_json::Value;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::time::timeout;

pub use builder::Builder;
pub(crate) use builder::{TestCluster, is_port_race};

/// The time limit until a server is ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The time limit of one readiness probe.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// A running `nats-server`. Dropping it kills the server and removes its store. The watchdog does the same when the
/// test process ends for any reason.
#[derive(Debug)]
pub struct Server {
    name: String,
    addr: SocketAddr,
    ready: Ready,
    /// The runtime that can reach the server; `None` for the caller's runtime.
    from: Option<Handle>,
    process: Arc<Mutex<Process>>,
}

/// The readiness condition of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ready {
    /// The server accepts TCP connections.
    Listens,
    /// The server sends `INFO`.
    Info,
    /// The server accepts a client.
    Connect,
    /// The JetStream API answers.
    JetStream,
}

/// Returns the server that all tests of a process share. Each test uses its own bucket names, and no test disturbs the
/// server.
pub async fn shared() -> &'static Server {
    static SHARED: OnceCell<Server> = OnceCell::const_new();
    SHARED.get_or_init(Server::start).await
}

impl Server {
    /// Starts a server with JetStream and default options.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns a builder for a server.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Returns the URL for clients.
    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Returns the address the server listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the port the server listens on.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Returns the configured name of the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id of the server. It changes with each restart.
    ///
    /// # Panics
    ///
    /// Panics if the server is down.
    pub fn pid(&self) -> u32 {
        lock(&self.process).pid()
    }

    /// Returns the log of the server, over all its starts.
    pub fn log(&self) -> String {
        lock(&self.process).log()
    }

    /// Returns the JetStream store directory. Copy it only while the server is down.
    pub fn store(&self) -> PathBuf {
        lock(&self.process).dir().join("store")
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub async fn kill(&self) {
        self.blocking(Process::kill).await;
    }

    /// Sends SIGTERM and waits until the process is gone.
    pub async fn terminate(&self) {
        self.blocking(Process::terminate).await;
    }

    /// Sends SIGSTOP and waits until all threads are stopped. Connections stay open, but the server no longer answers.
    pub fn freeze(&self) {
        lock(&self.process).freeze();
    }

    /// Sends SIGCONT, which resumes a server stopped by [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        lock(&self.process).thaw();
    }

    /// Replaces text in the configuration file and makes the running server reload it.
    ///
    /// # Panics
    ///
    /// Panics if the file does not contain `old`, or if the server does not accept the result.
    pub async fn reload(&self, old: &str, new: &str) {
        const DONE: &str = "Reloaded server configuration";
        const FAILED: &str = "Failed to reload";
        let reloads = |log: &str| log.matches(DONE).count();
        let before = reloads(&self.log());
        let (old, new) = (old.to_owned(), new.to_owned());
        self.blocking(move |process| {
            let text = fs::read_to_string(process.config()).expect("the configuration can be read");
            assert!(text.contains(&old), "the configuration does not contain {old:?}");
            fs::write(process.config(), text.replace(&old, &new)).expect("the configuration can be written");
            process.reload();
        })
        .await;
        let reloaded = async || (reloads(&self.log()) > before || self.log().contains(FAILED)).then_some(());
        wait::until("the server reloads its configuration", START_LIMIT, reloaded).await;
        assert!(!self.log().contains(FAILED), "{}", self.log());
    }

    /// Starts the server again on the same port and store, and waits until it is ready. Kills it first if it runs.
    pub async fn restart(&self) {
        self.start_again().await;
    }

    /// Terminates the server and starts it again as another version; `None` selects the default version.
    pub async fn restart_as(&self, version: Option<&str>) {
        let version = version.map(str::to_owned);
        self.blocking(|process| {
            process.terminate();
            process.set_version(version);
        })
        .await;
        self.start_again().await;
    }

    async fn start_again(&self) {
        self.blocking(|process| {
            process.kill();
            process.start();
        })
        .await;
        if let Err(why) = self.until_ready().await {
            panic!("the server did not restart: {why}");
        }
    }

    /// Sends a JetStream API request. The answer may be an API error.
    pub async fn api(&self, subject: &str, payload: &Value) -> io::Result<Value> {
        let (addr, subject, payload) = (self.addr, subject.to_owned(), payload.clone());
        self.at_its_side(async move { raw_client::api(addr, &subject, &payload, LOOK_LIMIT).await }).await
    }

    /// Runs a future on the runtime that can reach the server.
    async fn at_its_side<T: Send + 'static>(
        &self,
        look_up: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        match &self.from {
            Some(side) => side.spawn(look_up).await.map_err(io::Error::other)?,
            None => look_up.await,
        }
    }

    /// Runs a slow operation on the process outside of the caller's runtime.
    async fn blocking(&self, act: impl FnOnce(&mut Process) + Send + 'static) {
        let process = Arc::clone(&self.process);
        let done = tokio::task::spawn_blocking(move || act(&mut lock(&process)));
        // The panic of the operation itself explains the failure best.
        done.await.unwrap_or_else(|failed| resume_unwind(failed.into_panic()));
    }

    async fn until_ready(&self) -> Result<(), String> {
        let mut last = "it was not looked at".to_owned();
        let looked = wait::within(START_LIMIT, async || {
            // Checked before the probe: a server that has exited cannot answer.
            if lock(&self.process).has_ended() {
                return Some(Err("it ended".to_owned()));
            }
            match timeout(LOOK_LIMIT, self.look_up()).await {
                Ok(Ok(())) => return Some(Ok(())),
                Ok(Err(why)) => last = why.to_string(),
                Err(_) => last = "no answer".to_owned(),
            }
            None
        });
        let looked = looked.await.unwrap_or_else(|| Err(format!("not ready within {START_LIMIT:?}: {last}")));
        looked.map_err(|why| format!("{why}; its log:\n{}", self.log()))
    }

    /// Probes once whether the server is ready.
    async fn look_up(&self) -> io::Result<()> {
        let (addr, ready) = (self.addr, self.ready);
        if ready == Ready::Listens {
            return self.at_its_side(async move { tokio::net::TcpStream::connect(addr).await.map(drop) }).await;
        }
        let info = self.at_its_side(async move {
            let wire = match ready {
                Ready::Listens | Ready::Info => raw_client::Wire::open(addr).await?,
                Ready::Connect | Ready::JetStream => raw_client::Wire::connect(addr).await?,
            };
            Ok(wire.info().clone())
        });
        let info = info.await?;
        if info["server_name"] != self.name.as_str() {
            return Err(io::Error::other("another server has the port"));
        }
        match self.ready {
            Ready::Listens | Ready::Info | Ready::Connect => Ok(()),
            Ready::JetStream => {
                let answer = self.api("$JS.API.INFO", &Value::Null).await?;
                let error = &answer["error"];
                if error.is_null() { Ok(()) } else { Err(io::Error::other(error.to_string())) }
            }
        }
    }
}
