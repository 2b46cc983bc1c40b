//! One real server on a free loopback port, with a store of its own.

use crate::process::Process;
use crate::{ports, wait, wire};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// How long a server may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long one look at a starting server may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// A running `nats-server`. Dropping it kills the server and removes its
/// store; so does the end of the test process, however it ends.
#[derive(Debug)]
pub struct Server {
    name: String,
    addr: SocketAddr,
    ready: Ready,
    process: Arc<Mutex<Process>>,
}

/// What a server must do to count as started.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ready {
    /// It says `INFO`.
    Info,
    /// It lets a client in.
    Connect,
    /// Its JetStream answers.
    JetStream,
}

/// How to start a [`Server`].
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    config: String,
    jetstream: Option<String>,
    ready: Option<Ready>,
}

/// The server that all tests of a process share. Each uses bucket names of its
/// own, and none harms the server.
pub async fn shared() -> &'static Server {
    static SHARED: OnceCell<Server> = OnceCell::const_new();
    SHARED.get_or_init(Server::start).await
}

impl Server {
    /// A server with JetStream and nothing else.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Options for a server.
    pub fn builder() -> Builder {
        Builder {
            name: "solo".to_owned(),
            config: String::new(),
            jetstream: Some(String::new()),
            ready: None,
        }
    }

    /// Where a client connects to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port the server listens on.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The name the server gives itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the server's process, another one after each restart.
    ///
    /// # Panics
    ///
    /// When the server is down.
    pub fn pid(&self) -> u32 {
        lock(&self.process).pid()
    }

    /// All that the server has logged, over all its starts.
    pub fn log(&self) -> String {
        lock(&self.process).log()
    }

    /// SIGKILL, and waits until the process is gone.
    pub async fn kill(&self) {
        self.blocking(Process::kill).await;
    }

    /// SIGTERM, and waits until the process is gone.
    pub async fn terminate(&self) {
        self.blocking(Process::terminate).await;
    }

    /// SIGSTOP: connections stay open and nothing answers, from the return of
    /// this call on.
    pub fn freeze(&self) {
        lock(&self.process).freeze();
    }

    /// SIGCONT: what [`freeze`](Self::freeze) stopped goes on.
    pub fn thaw(&self) {
        lock(&self.process).thaw();
    }

    /// Starts the server again, on the same port and store, and waits until it
    /// is ready; kills it before, if it runs.
    pub async fn restart(&self) {
        self.blocking(|process| {
            process.kill();
            process.start();
        })
        .await;
        if let Err(why) = self.until_ready().await {
            panic!("the server did not restart: {why}");
        }
    }

    /// Asks the JetStream API; the answer may report an error of its own.
    pub async fn api(&self, subject: &str, payload: &Value) -> std::io::Result<Value> {
        wire::api(self.addr, subject, payload, LOOK_LIMIT).await
    }

    /// Does to the process what takes a while, away from the caller's runtime.
    async fn blocking(&self, act: impl FnOnce(&mut Process) + Send + 'static) {
        let process = Arc::clone(&self.process);
        let done = tokio::task::spawn_blocking(move || act(&mut lock(&process)));
        done.await.expect("the process obeys");
    }

    async fn until_ready(&self) -> Result<(), String> {
        let mut last = "it was not looked at".to_owned();
        let looked = wait::within(START_LIMIT, async || {
            // Before the look: a server that has ended does not answer it.
            if lock(&self.process).has_ended() {
                return Some(Err("it ended".to_owned()));
            }
            match timeout(LOOK_LIMIT, self.look()).await {
                Ok(Ok(())) => return Some(Ok(())),
                Ok(Err(why)) => last = why.to_string(),
                Err(_) => last = "no answer".to_owned(),
            }
            None
        });
        let looked = looked
            .await
            .unwrap_or_else(|| Err(format!("not ready within {START_LIMIT:?}: {last}")));
        looked.map_err(|why| format!("{why}; its log:\n{}", self.log()))
    }

    /// One look at whether the server is ready.
    async fn look(&self) -> std::io::Result<()> {
        let info = wire::Wire::open(self.addr).await?;
        if info.info()["server_name"] != self.name.as_str() {
            return Err(std::io::Error::other("another server has the port"));
        }
        match self.ready {
            Ready::Info => Ok(()),
            Ready::Connect => wire::Wire::connect(self.addr).await.map(drop),
            Ready::JetStream => {
                let answer = self.api("$JS.API.INFO", &Value::Null).await?;
                let error = &answer["error"];
                if error.is_null() {
                    Ok(())
                } else {
                    Err(std::io::Error::other(error.to_string()))
                }
            }
        }
    }
}

impl Builder {
    /// The first part of the server's name; the port follows it.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// More text for the configuration file. It must set none of `listen`,
    /// `server_name` and `jetstream`.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    /// More text for the `jetstream` block, such as `domain: hub`.
    #[must_use]
    pub fn jetstream(mut self, text: &str) -> Self {
        let block = self.jetstream.get_or_insert_default();
        block.push_str(text);
        block.push('\n');
        self
    }

    /// A server without JetStream.
    #[must_use]
    pub fn no_jetstream(mut self) -> Self {
        self.jetstream = None;
        self
    }

    /// The server lets no one in without credentials: it counts as ready when
    /// it says `INFO`. Set this with a `config` that asks for them.
    #[must_use]
    pub fn auth(mut self) -> Self {
        self.ready = Some(Ready::Info);
        self
    }

    /// The server counts as ready when it lets a client in: in a cluster,
    /// JetStream answers only once others have joined.
    #[must_use]
    pub(crate) fn clustered(mut self) -> Self {
        self.ready = Some(Ready::Connect);
        self
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not start, with its log.
    pub async fn start(self) -> Server {
        let mut attempt = 1;
        loop {
            match self.try_start().await {
                Ok(server) => return server,
                // Another process took the port before the server did.
                Err(why) if attempt < 5 && is_port_race(&why) => attempt += 1,
                Err(why) => panic!("no server: {why}"),
            }
        }
    }

    /// One attempt, on a fresh port, with what went wrong.
    pub(crate) async fn try_start(&self) -> Result<Server, String> {
        let port = ports::free(1)[0];
        let ready = if self.jetstream.is_some() {
            Ready::JetStream
        } else {
            Ready::Connect
        };
        let server = Server {
            name: format!("{}-{port}", self.name),
            addr: (Ipv4Addr::LOCALHOST, port).into(),
            ready: self.ready.unwrap_or(ready),
            process: Arc::new(Mutex::new(Process::new())),
        };
        let text = self.text(&server);
        server
            .blocking(move |process| {
                fs::write(process.config(), text).expect("the configuration can be written");
                process.start();
            })
            .await;
        server.until_ready().await.map(|()| server)
    }

    fn text(&self, server: &Server) -> String {
        let mut text = format!(
            "listen: \"{}\"\nserver_name: \"{}\"\n",
            server.addr, server.name
        );
        if let Some(block) = &self.jetstream {
            let store = lock(&server.process).dir().join("store");
            text += &format!("jetstream {{\nstore_dir: {:?}\n{block}}}\n", store);
        }
        text + &self.config
    }
}

pub(crate) fn is_port_race(why: &str) -> bool {
    why.contains("address already in use")
}

/// A test that panics while it holds the lock leaves the process as it was.
fn lock(process: &Mutex<Process>) -> MutexGuard<'_, Process> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}
